import json
import os
import re
import shutil
import sys
import time
from contextlib import redirect_stderr
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file

import tiny
from vocabpress.cli import main
from vocabpress.evaluate import TASKS, Measurement, Task
from vocabpress.hf.checkpoint import open_model
from vocabpress.results import read_results
from vocabpress.sweep import cell as cell_module
from vocabpress.sweep import run as run_module
from vocabpress.sweep.expand import STAGES, Cell, Folders, expand
from vocabpress.sweep.plan import Plan, read_plan
from vocabpress.sweep.pools import LocalPool, Process, process_of
from vocabpress.sweep.run import cells_to_run, folders_of, run_sweep

PLAN = """
model = "source"
output = "runs"
ratios = [4, 6]
data = "data"
text = ["text.txt"]

[methods.svd]
[methods."svd, 4 bits"]
method = "svd"
factors = "int4"
weighted_by_text = true

[tasks.spread]
scale = 2
[tasks.noise]
seeds = 2

[recover]
only = {methods = ["svd"], ratios = [6]}
steps = 2
evaluate_every = 1
max_length = 16
"""
measured = []


@dataclass(frozen=True)
class Spread(Task):
    """The scaled standard deviation of the table."""

    reads_text: ClassVar[bool] = True
    scale: float = 1.0
    fail_on: str = ""

    def measure(self, subject):
        measured.append(subject.model.name)
        if self.fail_on and self.fail_on in subject.model.name:
            raise RuntimeError("the machine is on fire")
        with torch.no_grad():
            table = open_model(subject.model).get_input_embeddings()(torch.arange(tiny.VOCAB))
        return Measurement({"spread": self.scale * float(table.std()), "lines": float(len(subject.lines("it")))})


@dataclass(frozen=True)
class Noise(Task):
    seeded: ClassVar[bool] = True

    def measure(self, subject):
        measured.append(subject.model.name)
        return Measurement({"seed": float(subject.seed)})


class InProcess:
    """Cells one after another in this process, which has imported everything already."""

    def __init__(self, folders, workers, threads):
        self.folders = folders

    def run(self, cells, told):
        for cell in cells:
            process = process_of(cell, self.folders, 1)
            with Path(process.log).open("w") as log, redirect_stderr(log):
                try:
                    code = cell_module.main([process.spec])
                except RuntimeError as error:
                    log.write(f"Traceback (most recent call last):\n  File …\nRuntimeError: {error}\n")
                    code = 1
            told(cell, process.reason(code))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return tiny.save("bert", tmp_path_factory.mktemp("models") / "source")


@pytest.fixture
def place(source, tmp_path, monkeypatch):
    """A folder with a plan and all that it names."""
    monkeypatch.setitem(TASKS, "spread", Spread())
    monkeypatch.setitem(TASKS, "noise", Noise())
    monkeypatch.setattr(run_module, "LocalPool", InProcess)
    measured.clear()
    shutil.copytree(source, tmp_path / "source")
    (tmp_path / "data").mkdir()
    lines = [f"w{3 + i} w{4 + 2 * i} w{5 + i * i % 190}" for i in range(60)]
    (tmp_path / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    write(tmp_path, PLAN)
    return tmp_path


def write(place, text):
    (place / "plan.toml").write_text(text, encoding="utf-8")


def names(place, text=PLAN):
    write(place, text)
    return [cell.name for cell in expand(read_plan(place / "plan.toml"))]


def files(place):
    return sorted(str(path.relative_to(place)) for path in place.rglob("*"))


def run(capsys, place, *options):
    code = main(["sweep", str(place / "plan.toml"), *options])
    out, err = capsys.readouterr()
    return code, out, err


BAD = {
    "not TOML": ("ratios = [4, 6]", "ratios = [4,", "is not TOML"),
    "unknown key": ("output", "colour = 1\noutput", "plan.toml: unknown key 'colour'; known are text, fit_text, seeds"),
    "no model": ('model = "source"', "", "plan.toml: model is missing; it is text"),
    "no such folder": ('"source"', '"./none"', "no such model folder"),
    "type of a list": ("[4, 6]", "4", "ratios is a list, each a number, got 4"),
    "type in a list": ("[4, 6]", '[4, "6"]', "ratios is a list, each a number, got [4, '6']"),
    "truth is no number": ("[4, 6]", "[4, true]", "ratios is a list, each a number"),
    "ratio below 1": ("[4, 6]", "[0.5]", "ratios: a ratio is at least 1, got 0.5"),
    "no ratio": ("[4, 6]", "[]", "ratios is empty"),
    "ratio twice": ("[4, 6]", "[4, 4.0]", "ratios has 4 twice"),
    "seed below 0": ("data =", "seeds = [-1]\ndata =", "seeds is a number above 0, or a list of numbers from 0"),
    "no seeds": ("data =", "seeds = 0\ndata =", "seeds is a number above 0"),
    "workers": ("data =", "workers = 0\ndata =", "workers and threads are at least 1, got 0"),
    "whole number": ("data =", "workers = 1.5\ndata =", "workers is a whole number, got 1.5"),
    "no data": ('"data"', '"nowhere"', "no such folder of data sets"),
    "no text": ('["text.txt"]', '["none.txt"]', "no such text file"),
    "unknown method": ("[methods.svd]", "[methods.zip]", "[methods.zip]: unknown method 'zip'; set method to"),
    "no method table": ("[methods.svd]", "[methods]\nsvd = 3", "methods.svd is a table, got 3; write [methods.svd]"),
    "unknown field": ("[methods.svd]", "[methods.svd]\nrank = 3", "[methods.svd]: method svd has no field 'rank'"),
    "type of a field": ('factors = "int4"', "factors = 4", "factors is one of float16, int8, int4, got 4"),
    "value of a field": ('factors = "int4"', 'factors = "int5"', "factors is one of float16, int8, int4, got 'int5'"),
    "two weights": ("weighted_by_text", 'counts = "vocabulary-order"\nweighted_by_text', "give one of them"),
    "no counts": ("weighted_by_text = true", 'counts = "none"', "no such counts file: none; try vocabulary-order"),
    "no text to weigh by": ("text =", "fit_text = []\ntext =", "weighted_by_text needs text"),
    "unknown task": ("[tasks.noise]", "[tasks.silence]", "[tasks.silence]: unknown task 'silence'; choose from"),
    "field of a task": ("scale", "size", "[tasks.spread]: task spread has no field 'size'; it has scale, fail_on"),
    "type in a task": ("scale = 2", 'scale = "2"', "[tasks.spread]: scale is a number, got '2'"),
    "seeds of a task": ("scale = 2", "seeds = 2", "the result of spread depends on no seed; leave seeds out"),
    "recovery": ("steps = 2", "steps = 0", "[recover]: steps must be at least 1, got 0"),
    "field of a recovery": ("steps = 2", "stops = 2", "[recover]: recover has no field 'stops'; it has mode"),
    "filter": ("ratios = [6]", "ratios = [7]", "[recover]: only.ratios names 7.0, the plan has [4.0, 6.0]"),
    "key of the filter": ("ratios = [6]", "ratio = 6", "[recover], [only]: unknown key 'ratio'; known are methods"),
    "text of a recovery": ('text = ["text.txt"]', "fit_text = ['text.txt']", "[recover]: recovery needs text"),
    "slurm": ("[recover]", "[slurm]\nslurm_colour = 1\n[recover]", "[slurm]: Unknown argument 'colour'"),
    "type in slurm": ("[recover]", "[slurm]\ntimeout_min = 'long'\n[recover]", '[slurm]: Parameter "timeout_min"'),
    "output": ('"runs"', '"text.txt"', "the output text.txt is a file"),
    "nothing to do": (PLAN, 'model = "source"\noutput = "runs"', "there is nothing to do"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_plan_is_one_line_before_anything_runs(case, place, capsys):
    old, new, words = BAD[case]
    assert old in PLAN
    write(place, PLAN.replace(old, new, 1))
    before = files(place)
    code, out, err = run(capsys, place)
    (line,) = err.strip().splitlines()
    assert (code, out) == (2, "")
    assert line.startswith("vocabpress: error: ")
    assert words in line
    assert files(place) == before


def test_a_plan_that_is_not_there(place, capsys):
    assert main(["sweep", str(place / "none.toml")]) == 2
    assert "can't read the plan" in capsys.readouterr().err


def test_values_are_read_as_their_fields_are_typed(place):
    plan = read_plan(place / "plan.toml")
    assert [row.name for row in plan.methods] == ["svd", "svd, 4 bits"]
    assert [(row.name, row.seeds) for row in plan.tasks] == [("spread", (0,)), ("noise", (0, 1))]
    scale = plan.tasks[0].task.scale  # pyright: ignore[reportAttributeAccessIssue]
    assert (scale, type(scale)) == (2.0, float)
    assert plan.ratios == (4.0, 6.0)
    assert plan.methods[0].text == ()
    assert plan.methods[1].text == ("text.txt",)


def test_dry_run_names_the_cells_and_writes_nothing(place, capsys):
    before = files(place)
    code, out, _ = run(capsys, place, "--dry-run", "--json")
    cells = json.loads(out.splitlines()[-1])["cells"]
    assert code == 0
    # 2 rows x 2 ratios; one of them recovered; 6 models x (1 + 2 seeds)
    assert [cell["stage"] for cell in cells] == ["press"] * 4 + ["recover"] + ["measure"] * 18
    assert {cell["state"] for cell in cells} == {"to run"}
    assert len({cell["name"] for cell in cells}) == 23
    assert files(place) == before


CHANGES = {
    # change: (old, new, what the names of the cells that change have in common)
    "a field of a method": ('"int4"', '"int8"', lambda name: name.startswith("svd-4-bits")),
    "a field of a task": ("scale = 2", "scale = 3", lambda name: "-spread" in name),
    "a setting of the recovery": ("steps = 2", "steps = 3", lambda name: "-recovered" in name),
    "the model": ('"source"', '"other"', lambda name: True),
    "the data": ('"data"', '"."', lambda name: "-spread" in name or "-noise" in name),
    "how it is run": ("data =", "workers = 2\nthreads = 3\ndevice = 'cuda'\ndata =", lambda name: False),
    "the output": ('"runs"', '"elsewhere"', lambda name: False),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_makes_new_cells_downstream_of_it_alone(change, place):
    old, new, concerned = CHANGES[change]
    assert old in PLAN
    before, after = names(place), names(place, PLAN.replace(old, new, 1))
    assert {name for name in before if name not in after} == {name for name in before if concerned(name)}
    slugs = [[name.rpartition("-")[0] for name in found] for found in (before, after)]
    assert slugs[0] == slugs[1]


def test_text_is_known_by_its_contents(place):
    before = names(place)
    (place / "text.txt").write_text("w5 w6\n" * 50, encoding="utf-8")
    changed = set(before) - set(names(place))
    assert changed == {name for name in before if "4-bits" in name or "-spread" in name or "-recovered" in name}


def test_another_ratio_leaves_the_cells_of_the_first_as_they_are(place):
    assert set(names(place)) < set(names(place, PLAN.replace("[4, 6]", "[4, 6, 8]")))


def test_rows_of_one_slug_are_different_cells(place):
    cells = names(
        place,
        PLAN.replace("[methods.svd]", '[methods."SVD: 4 bits"]\nmethod = "svd"').replace(
            '"svd"], r', '"svd, 4 bits"], r'
        ),
    )
    assert len(set(cells)) == len(cells) == 23


def test_a_sweep_end_to_end(place, capsys):
    code, out, err = run(capsys, place, "--json")
    assert code == 0, err
    report = json.loads(out.splitlines()[-1])
    assert sorted(report["done"]) == sorted(names(place))
    assert report["failed"] == report["reused"] == []
    results = [read_results(file)[0] for file in sorted((place / "runs" / "results").glob("*.json"))]
    assert len(results) == 23
    found = {
        (r.task, r.variant, r.settings.get("ratio"), bool(r.settings["recovered"]), r.settings["seed"]): r
        for r in results
    }
    assert len(found) == 23
    press = found["press", "svd, 4 bits", 6.0, False, 0]
    assert press.bytes["table"] * 6 <= press.bytes["table_float32"] == tiny.VOCAB * 32 * 4
    assert press.metrics["ratio_to_float32"] == pytest.approx(press.bytes["table_float32"] / press.bytes["table"])
    assert press.settings["token_weights"] == "text"
    assert press.details["text"] == ["text.txt"]
    recovery = found["recover", "svd", 6.0, True, 0]
    assert recovery.metrics["held_out_after"] <= recovery.metrics["held_out_before"]
    assert recovery.metrics["steps"] == recovery.settings["recovered"]["steps"] == 2
    assert recovery.settings["recovered"] == found["spread", "svd", 6.0, True, 0].settings["recovered"]
    table = load_file(place / "source" / "model.safetensors")["bert.embeddings.word_embeddings.weight"]
    original = found["spread", "original", None, False, 0]
    assert original.metrics == {"spread": pytest.approx(2 * float(table.std()), rel=1e-5), "lines": 60.0}
    assert found["spread", "svd", 4.0, False, 0].metrics["spread"] != original.metrics["spread"]
    assert found["noise", "svd", 4.0, False, 1].metrics == {"seed": 1.0}
    assert list((place / "runs" / "work").iterdir()) == []


def small(place, more=""):
    """A plan of three cells: press, and measure twice."""
    write(
        place,
        f'model = "source"\noutput = "runs"\nratios = [4]\ntext = ["text.txt"]\n[methods.svd]\n[tasks.spread]\n{more}',
    )
    return read_plan(place / "plan.toml")


def test_a_second_run_does_what_is_missing_and_no_more(place):
    plan = small(place)
    first = run_sweep(plan)
    press, original, measure = [cell.name for cell in expand(plan)]
    assert (sorted(first.done), first.reused) == (sorted([press, original, measure]), [])
    measured.clear()
    second = run_sweep(plan)
    assert (second.done, second.reused, measured) == ([], [press, original, measure], [])
    folders = folders_of(plan)
    folders.result(measure).unlink()
    assert (run_sweep(plan).done, measured) == ([measure], [press])  # the model's folder is named as its cell
    shutil.rmtree(folders.model(press))
    assert run_sweep(plan).done == []  # nobody needs the model
    folders.result(measure).unlink()
    assert run_sweep(plan).done == [press, measure]
    before = folders.result(measure).read_bytes()
    folders.result(press).unlink()
    assert run_sweep(plan).done == [press]
    assert folders.result(measure).read_bytes() == before
    assert folders.model(press).is_dir()


def test_models_are_made_again_as_far_down_as_they_are_missed(place):
    cells = [Cell("p", "press", None, {}), Cell("r", "recover", "p", {}), Cell("m", "measure", "r", {})]
    folders = Folders(place)
    folders.results.mkdir()
    for name in ("p", "r"):
        folders.result(name).write_text("[]")
    assert [cell.name for cell in cells_to_run(cells, folders)] == ["p", "r", "m"]
    folders.model("r").mkdir(parents=True)
    assert [cell.name for cell in cells_to_run(cells, folders)] == ["m"]


def test_a_failed_cell_is_reported_and_stops_no_other(place, capsys):
    text = PLAN.replace("[4, 6]", "[6, 60]").replace("scale = 2", 'fail_on = "4-bits"').replace("[6]}", "[6, 60]}")
    cells = names(place, text)
    code, out, _ = run(capsys, place, "--json")
    report = json.loads(out.splitlines()[-1])
    failed = dict(report["failed"])
    assert code == 1
    # svd stores no less than 1/49 of the table; the other row, with 4 bits, 1/91
    (press,) = [name for name in cells if name.startswith("svd-ratio60-fit0-press")]
    assert failed.pop(press).startswith("ratio 60 to float32 leaves 450 bytes for this table")
    because = {name for name in cells if name.startswith("svd-ratio60") and name != press}
    assert len(because) == 7  # the recovery, and two models x (1 + 2 seeds)
    assert {failed.pop(name) for name in because} == {f"not run: {press} failed"}
    assert failed == {
        name: "RuntimeError: the machine is on fire" for name in cells if "4-bits" in name and "spread" in name
    }
    assert sorted(report["done"] + [name for name, _ in report["failed"]]) == sorted(cells)
    assert "not run: " in out
    measured.clear()
    again = run_sweep(read_plan(place / "plan.toml"))
    assert again.done == []
    assert dict(again.failed) == dict(report["failed"])  # tried again


def test_the_reason_of_a_failure(tmp_path):
    process = Process("spec", str(tmp_path / "log"), 1)
    logs = {
        "10%|#  |\r20%|## |\nerror: no such text file: x\n": (2, "no such text file: x"),
        "Traceback …\ntorch.OutOfMemoryError: no memory.\nTried 2 GiB.\n": (1, "torch.OutOfMemoryError: no memory."),
        "no idea\n": (1, "no idea"),
        "": (3, "exit code 3"),
        "fine so far": (-9, "killed by SIGKILL (out of memory?)"),
        "fine\n": (-15, "killed by SIGTERM"),
        "done": (0, None),
    }  # fmt: skip
    for log, (code, reason) in logs.items():
        (tmp_path / "log").write_text(log, encoding="utf-8")
        assert process.reason(code) == reason


def scripted(monkeypatch, tmp_path, scripts):
    """Cells that are shell scripts, and the pool to run them in."""
    folders = Folders(tmp_path)
    folders.log("x").parent.mkdir()
    plain = Process.arguments

    def arguments(self):
        name = Path(self.spec).stem
        return {**plain(self), "args": ["bash", "-c", scripts[name]]}

    monkeypatch.setattr(Process, "arguments", arguments)
    return folders, [Cell(name, "press", None, {}) for name in scripts]


def test_a_killed_cell_fails_alone_and_each_has_its_threads(monkeypatch, tmp_path):
    scripts = {
        "killed": "kill -9 $$",
        "fine": 'echo "$OMP_NUM_THREADS $OMP_WAIT_POLICY"',
        "bad": "echo error: bad input; exit 2",
    }
    folders, cells = scripted(monkeypatch, tmp_path, scripts)
    told = {}
    LocalPool(folders, workers=2, threads=3).run(cells, lambda cell, reason: told.update({cell.name: reason}))
    assert told == {"killed": "killed by SIGKILL (out of memory?)", "fine": None, "bad": "bad input"}
    assert folders.log("fine").read_text() == "3 PASSIVE\n"


def test_an_interruption_stops_the_cells(monkeypatch, tmp_path):
    waiting = "trap 'echo stopped; exit 130' TERM; echo ready; for i in $(seq 600); do sleep 0.1; done"
    quick = f"until grep -q ready {tmp_path}/logs/slow.log; do sleep 0.05; done"
    folders, cells = scripted(monkeypatch, tmp_path, {"slow": waiting, "quick": quick, "never": "echo ran"})

    def told(cell, reason):
        raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        LocalPool(folders, workers=2, threads=1).run([cells[0], cells[1], *[replace(cells[2], name="never")] * 2], told)
    assert time.monotonic() - start < 50
    assert folders.log("slow").read_text() == "ready\nstopped\n"


def test_an_interruption_on_the_command_line(place, capsys, monkeypatch):
    def interrupted(self, cells, told):
        raise KeyboardInterrupt

    monkeypatch.setattr(InProcess, "run", interrupted)
    with pytest.raises(SystemExit) as stop:
        run(capsys, place)
    assert stop.value.code == 130
    assert "finished cells stay" in capsys.readouterr().err


def test_slurm_that_is_not_there(place, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    code, _, err = run(capsys, place, "--slurm")
    assert code == 2
    assert "there is no SLURM here" in err
    assert not (place / "runs").exists()
    code, _, err = run(capsys, place, "--slurm", "--workers", "2")
    assert code == 2
    assert "set slurm_array_parallelism" in err


def test_cells_are_processes(place, capsys, monkeypatch):
    """The real thing, once: a cell that ends well and one that does not."""
    monkeypatch.setattr(run_module, "LocalPool", LocalPool)
    write(place, 'model = "source"\noutput = "runs"\nratios = [4, 5000]\nworkers = 2\nthreads = 1\n[methods.svd]')
    good, bad = names(place, (place / "plan.toml").read_text())
    code, out, _ = run(capsys, place, "--json")
    report = json.loads(out.splitlines()[-1])
    assert code == 1
    assert report["done"] == [good]
    ((name, reason),) = report["failed"]
    assert name == bad
    assert reason.startswith("ratio 5000 to float32 leaves 5 bytes")
    assert (place / "runs" / "models" / good / "model.safetensors").is_file()
    assert not (place / "runs" / "models" / bad).exists()


SBATCH = f"""#!{sys.executable}
# Starts the tasks of an array as jobs 77_0, 77_1, … of this machine.
import os, re, subprocess, sys
text = open(sys.argv[-1]).read()
assert "--partition=gpu" in text
count = int(re.search(r"--array=0-([0-9]+)", text)[1]) + 1
common = dict(SLURM_JOB_ID="77", SLURM_ARRAY_JOB_ID="77", SLURM_NTASKS="1", SLURM_PROCID="0", SLURM_LOCALID="0")
for task in range(count):
    env = dict(os.environ, **common, SLURM_ARRAY_TASK_ID=str(task), SLURM_JOB_NUM_NODES="1", SLURM_NODEID="0")
    subprocess.Popen(["bash", sys.argv[-1]], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print("Submitted batch job 77")
"""
SRUN = '#!/bin/bash\nwhile [[ "$1" != */python* ]]; do shift; done\nexec "$@"\n'
SACCT = '#!/bin/bash\necho "JobID|State|NodeList"\n'


@pytest.mark.slow
@pytest.mark.parametrize("cluster", ["local", "slurm"])
def test_jobs_of_a_cluster_make_the_files_that_processes_make(cluster, place, monkeypatch):
    """Through submitit, once as its own local jobs and once as SLURM's, whose commands are played by scripts."""
    pytest.importorskip("submitit")
    (place / "bin").mkdir()
    for name, script in {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT}.items():
        (place / "bin" / name).write_text(script)
        (place / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}")
    text = 'model = "source"\noutput = "OUT"\nratios = [4, 6]\nthreads = 1\n[methods.svd]\n'
    text += '[slurm]\nslurm_partition = "gpu"\ncpus_per_task = 1'
    made = {}
    for output, where in (("jobs", cluster), ("processes", None)):
        write(place, text.replace("OUT", output))
        plan = read_plan(place / "plan.toml")
        report = run_sweep(plan, cluster=where)
        assert report.failed == []
        assert len(report.done) == 2
        made[output] = [
            (
                replace(read_results(folders_of(plan).result(name))[0], seconds=0.0, environment={}),
                # not the file's bytes: safetensors writes the two entries of its metadata in either order
                {
                    key: tensor.numpy().tobytes()
                    for key, tensor in load_file(folders_of(plan).model(name) / "model.safetensors").items()
                },
            )
            for name in report.done
        ]
    assert made["jobs"] == made["processes"]


def test_the_page_shows_a_plan_that_is_read_and_names_every_key(tmp_path):
    page = (Path(__file__).parents[1] / "docs" / "sweep.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "data").mkdir()
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans" / "wiki.txt").write_text("some text", encoding="utf-8")
    write(tmp_path / "plans", block)
    plan = read_plan(tmp_path / "plans" / "plan.toml")
    # 3 rows x 3 ratios, 6 of them recovered, 3 seeds of rte on these and on the original
    assert [sum(cell.stage == stage for cell in expand(plan)) for stage in STAGES] == [9, 6, 3 * 16]
    assert all(
        f"`{field.name}`" in page or f"`[{field.name}" in page for field in fields(Plan) if field.name != "folder"
    )
