"""Sweeps: what is run, again or at once, what fails, and where the cells run."""

import json
import os
import shutil
import sys
import time
from dataclasses import replace

import pytest
from safetensors.torch import load_file

import tiny
from sweeping import PLAN, measured, names, sweep, write_plan
from vocabpress.results import read_results
from vocabpress.sweep import run as run_module
from vocabpress.sweep.expand import Cell, Folders, expand
from vocabpress.sweep.plan import read_plan
from vocabpress.sweep.pools import Process, run_local
from vocabpress.sweep.run import cells_to_run, folders_of, run_sweep


def test_a_sweep_end_to_end(place, capsys):
    code, out, err = sweep(capsys, place, "--json")
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
    write_plan(
        place,
        f'model = "source"\noutput = "runs"\nratios = [4]\ntext = ["text.txt"]\n[methods.svd]\n[tasks.spread]\n{more}',
    )
    return read_plan(place / "plan.toml")


def test_linear_maps_of_a_row(place):
    write_plan(
        place,
        'model = "source"\noutput = "runs"\nratios = [4]\ntext = ["text.txt"]\n[methods.kronecker]\n'
        'linears = {attention = "1/2x1/2", ffn = "2x8", factors = "int8"}\n[methods.svd]\n[tasks.spread]\n',
    )
    assert run_sweep(read_plan(place / "plan.toml")).failed == []
    files = sorted((place / "runs" / "results").glob("*press*.json"))
    kronecker, svd = (read_results(file)[0] for file in files)
    shapes = {"attention": "1/2x1/2", "ffn": "2x8", "terms": 1, "factors": "int8"}
    assert (kronecker.settings["linears"], svd.settings.get("linears")) == (shapes, None)
    assert 0 < kronecker.metrics["relative_error_attention"] < kronecker.metrics["relative_error_ffn"] < 1
    assert kronecker.bytes["model"] < svd.bytes["model"]


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
    folders.result("p").parent.mkdir()
    for name in ("p", "r"):
        folders.result(name).write_text("[]")
    assert [cell.name for cell in cells_to_run(cells, folders)] == ["p", "r", "m"]
    folders.model("r").mkdir(parents=True)
    assert [cell.name for cell in cells_to_run(cells, folders)] == ["m"]


def test_a_failed_cell_is_reported_and_stops_no_other(place, capsys):
    text = PLAN.replace("[4, 6]", "[6, 60]").replace("scale = 2", 'fail_on = "4-bits"').replace("[6]}", "[6, 60]}")
    cells = names(place, text)
    code, out, _ = sweep(capsys, place, "--json")
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
    process = Process("cell", Folders(tmp_path), 1)
    place = process.folders.log("cell")
    place.parent.mkdir()
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
        place.write_text(log, encoding="utf-8")
        assert process.reason(code) == reason


def scripted(monkeypatch, tmp_path, scripts):
    """Processes of cells that are shell scripts."""
    monkeypatch.setattr(Process, "command", lambda process: ["bash", "-c", scripts[process.cell]])
    (tmp_path / "logs").mkdir()
    return [Process(name, Folders(tmp_path), 3) for name in scripts]


def test_a_killed_cell_fails_alone_and_each_has_its_threads(monkeypatch, tmp_path):
    scripts = {
        "killed": "kill -9 $$",
        "fine": 'echo "$OMP_NUM_THREADS $OMP_WAIT_POLICY"',
        "bad": "echo error: bad input; exit 2",
    }
    processes = scripted(monkeypatch, tmp_path, scripts)
    reasons = {}
    run_local(processes, lambda cell, reason: reasons.update({cell: reason}), workers=2)
    assert reasons == {"killed": "killed by SIGKILL (out of memory?)", "fine": None, "bad": "bad input"}
    assert (tmp_path / "logs" / "fine.log").read_text() == "3 PASSIVE\n"


def test_an_interruption_stops_the_cells(monkeypatch, tmp_path):
    waiting = "trap 'echo stopped; exit 130' TERM; echo ready; for i in $(seq 600); do sleep 0.1; done"
    quick = f"until grep -q ready {tmp_path}/logs/slow.log; do sleep 0.05; done"
    slow, quick, never = scripted(monkeypatch, tmp_path, {"slow": waiting, "quick": quick, "never": "echo ran"})

    def ended(cell, reason):
        raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_local([slow, quick, never, never], ended, workers=2)
    assert time.monotonic() - start < 50
    assert (tmp_path / "logs" / "slow.log").read_text() == "ready\nstopped\n"


def test_an_interruption_on_the_command_line(place, capsys, monkeypatch):
    def interrupted(processes, ended, *, workers):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "run_local", interrupted)
    code, _, err = sweep(capsys, place)
    assert code == 130
    assert "finished results remain" in err


def test_slurm_that_is_not_there(place, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    code, _, err = sweep(capsys, place, "--slurm")
    assert code == 2
    assert "there is no SLURM here" in err
    assert not (place / "runs").exists()
    code, _, err = sweep(capsys, place, "--slurm", "--workers", "2")
    assert code == 2
    assert "set slurm_array_parallelism" in err


def test_cells_are_processes(place, capsys, monkeypatch):
    """The real thing, once: a cell that ends well and one that does not."""
    monkeypatch.setattr(run_module, "run_local", run_local)
    write_plan(place, 'model = "source"\noutput = "runs"\nratios = [4, 5000]\nworkers = 2\nthreads = 1\n[methods.svd]')
    good, bad = names(place, (place / "plan.toml").read_text())
    code, out, _ = sweep(capsys, place, "--json")
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
        write_plan(place, text.replace("OUT", output))
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
