"""Several processes fit a table to the same bytes as one."""

import os
import subprocess
import sys
from contextlib import suppress

import pytest
import torch
from safetensors.torch import load_file

import sharding
from cases import low_rank_table
from vocabpress import METHODS, SVD, Blockwise, Budget, Stacked, build
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
        said = [[] for _ in range(world)]
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
