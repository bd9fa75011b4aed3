"""Several processes fit a table to the same bytes as one."""

import json
import os
import socket
import subprocess
import sys
from contextlib import suppress

import pytest
import torch
from safetensors.torch import load_file

import sharding
import tiny
from cases import low_rank_table
from vocabpress import METHODS, SVD, Blockwise, Budget, Stacked, build
from vocabpress.cli import main
from vocabpress.fitting import shards
from vocabpress.fitting.shards import Shards
from vocabpress.reconstruction import reconstruction

PROCESSES = 2


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(shards, "ENTRIES_PER_CHUNK", shards.ENTRIES_PER_CHUNK)
    sharding.small_chunks()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("shards")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, sharding.__file__]
    started = [
        subprocess.Popen([*command, str(rank), str(PROCESSES), place / "store", place], env=environment)
        for rank in range(PROCESSES)
    ]
    assert [process.wait(600) for process in started] == [0] * PROCESSES
    return place


def stored(folder, name):
    return [load_file(folder / f"{name}.{rank}.safetensors") for rank in range(PROCESSES)]


def test_every_method_is_here():
    kinds = {type(method) for method in (sharding.EXACT | sharding.TRAINED).values()}
    assert kinds == {*METHODS.values(), Stacked, Blockwise}


@pytest.mark.parametrize("name", sharding.EXACT)
def test_sums_give_the_same_bytes(folder, name):
    alone = sharding.fitted(name).stored_tensors()
    for theirs in stored(folder, name):
        assert theirs.keys() == alone.keys()
        assert not [key for key, tensor in alone.items() if not torch.equal(tensor, theirs[key])]


@pytest.mark.parametrize("name", sharding.TRAINED)
def test_training_gives_the_same_on_all_and_nearly_that_of_one(folder, name):
    form, (first, second) = sharding.fitted(name), stored(folder, name)
    assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())
    other = build(form.config())
    other.load_state_dict({key: part.float() if part.is_floating_point() else part for key, part in first.items()})
    errors = [reconstruction(low_rank_table(700, 24), each).relative_error for each in (form, other)]
    assert errors[1] == pytest.approx(errors[0], rel=0.02)


def test_rows_are_shared_out_by_whole_chunks():
    for world in (1, 2, 3, 5, 11, 40):
        spans = [Shards(rank, world).rows(700, 24) for rank in range(world)]
        assert [span.start for span in spans[1:]] == [span.stop for span in spans[:-1]]
        assert (spans[0].start, spans[-1].stop) == (0, 700)
        assert not [span for span in spans if span.start % 64]
        assert max(map(len, spans)) <= -(-11 // world) * 64


def test_sums_do_not_depend_on_the_number_of_processes():
    draw = torch.Generator().manual_seed(0)
    parts = torch.randn(61, 5, generator=draw)
    alone = Shards().fold(61, lambda number: None if number % 7 == 3 else (parts[number].clone(),))[0]
    whole = parts[[number for number in range(61) if number % 7 != 3]].sum(0)
    torch.testing.assert_close(alone, whole)

    class Told(Shards):
        """Processes in turn, which find what the others have said in a list."""

        def _from_all(self, nodes):
            said[self.rank] = nodes
            return iter([(group, (value[0].clone(),)) for each in said for group, value in each])

    for world in (2, 3, 8, 64):
        said, found = [[] for _ in range(world)], (torch.empty(0),)
        for rank in range(world):
            with suppress(ValueError):  # the first processes may have no row
                found = Told(rank, world).fold(61, lambda number: None if number % 7 == 3 else (parts[number].clone(),))
        assert torch.equal(found[0], alone)


def test_other_rows_than_its_own_are_refused():
    with pytest.raises(ValueError, match="brings 700 of 700 rows, it should have those from 0 to 320"):
        SVD().fit(low_rank_table(700, 24), budget=Budget.ratio(4), shards=OneOfTwo(0, 2))


class OneOfTwo(Shards):
    def total(self, number):
        return int(number)


def torchrun(*arguments):
    """The command line in two processes; exit code, and stderr without what torchrun itself says."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(PROCESSES)]
    command += ["-m", "vocabpress.cli", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)


def test_the_command_line_in_two_processes_writes_what_one_writes(tmp_path):
    source = tiny.save("bert", tmp_path / "source")
    arguments = ("compress", source, "--method", "tcq", "--ratio", "6", "--set", "memory=8", "--calibration", "uniform")
    both = torchrun(*arguments, "-o", tmp_path / "both", "--json")
    assert both.returncode == 0, both.stderr[-2000:]
    assert main([*map(str, arguments), "-o", str(tmp_path / "one")]) == 0
    files = [load_file(tmp_path / name / "model.safetensors") for name in ("both", "one")]
    assert files[0].keys() == files[1].keys()
    assert not [key for key, tensor in files[0].items() if not torch.equal(tensor, files[1][key])]
    assert json.loads(both.stdout)["method"] == "tcq"
    assert both.stderr.count("Written to") == 1


@pytest.mark.slow
def test_an_error_ends_all_processes_with_one_line(tmp_path):
    source = tiny.save("bert", tmp_path / "source")
    ended = torchrun("compress", source, "-o", tmp_path / "out", "--method", "svd", "--ratio", "1000000")
    assert ended.returncode != 0
    assert ended.stderr.count("vocabpress: error:") == 1
    assert "the least that SVD can store" in ended.stderr
    assert "exitcode  : 2" in ended.stderr
    assert not (tmp_path / "out").exists()


FAILING = """
import sys, torch, typer
import torch.distributed as dist
from vocabpress.cli.together import together
try:
    with together("cpu") as shards:
        if shards.rank == 1:
            raise ValueError("a row is missing here")
        dist.all_reduce(torch.ones(2))
except typer.Exit as end:
    sys.exit(end.exit_code)
except ValueError as error:
    print("said:", error, file=sys.stderr)
    sys.exit(2)
"""


def test_the_others_end_when_one_fails(tmp_path):
    (tmp_path / "job.py").write_text(FAILING, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "WORLD_SIZE": str(PROCESSES)}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    started = []
    for rank in range(PROCESSES):
        own = environment | {"RANK": str(rank)}
        command = [sys.executable, tmp_path / "job.py"]
        started.append(subprocess.Popen(command, env=own, stderr=subprocess.PIPE, text=True))
    said = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [2] * PROCESSES, said
    assert "".join(said).count("said: process 1 of 2: a row is missing here") == 1


def free_port() -> int:
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        return some.getsockname()[1]
