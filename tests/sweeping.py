"""What the tests of sweeps share: a plan, its folder, quick tasks, and a way to run cells without processes."""

import shutil
from contextlib import redirect_stderr
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

import tiny
from command import run
from vocabpress.evaluate import TASKS, Measurement, Task
from vocabpress.hf.checkpoint import open_model
from vocabpress.sweep import cell as cell_module, run as run_module
from vocabpress.sweep.expand import expand
from vocabpress.sweep.plan import read_plan

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


def run_here(processes, ended, *, workers):
    """Cells one after another in this process, which has imported everything already."""
    for process in processes:
        with process.folders.log(process.cell).open("w") as log, redirect_stderr(log):
            try:
                code = cell_module.main(process.command()[-1:])
            except RuntimeError as error:
                log.write(f"Traceback (most recent call last):\n  File …\nRuntimeError: {error}\n")
                code = 1
        ended(process.cell, process.reason(code))


@pytest.fixture
def place(source, tmp_path, monkeypatch):
    """A folder with a plan and all that it names."""
    monkeypatch.setitem(TASKS, "spread", Spread())
    monkeypatch.setitem(TASKS, "noise", Noise())
    monkeypatch.setattr(run_module, "run_local", run_here)
    measured.clear()
    shutil.copytree(source, tmp_path / "source")
    (tmp_path / "data").mkdir()
    lines = [f"w{3 + i} w{4 + 2 * i} w{5 + i * i % 190}" for i in range(60)]
    (tmp_path / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    write_plan(tmp_path, PLAN)
    return tmp_path


def write_plan(place, text):
    (place / "plan.toml").write_text(text, encoding="utf-8")


def names(place, text=PLAN):
    write_plan(place, text)
    return [cell.name for cell in expand(read_plan(place / "plan.toml"))]


def sweep(capsys, place, *options):
    return run(capsys, "sweep", place / "plan.toml", *options)
