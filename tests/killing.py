"""Processes of this package that are killed at any moment, and what they leave behind."""

import json
import os
import signal
import sys
import time
from contextlib import suppress

import torch
from safetensors.torch import load_file
from transformers.utils import logging

import vocabpress
from sweeping import run_here
from vocabpress.export import export
from vocabpress.hf.checkpoint import open_model
from vocabpress.recover import Recovery, recover
from vocabpress.sweep import run as run_module
from vocabpress.sweep.plan import read_plan
from vocabpress.sweep.run import run_sweep

PLAN = """
model = "source"
output = "out"
ratios = [4, 6]
text = ["text.txt"]

[methods.svd]
[tasks.reconstruction]
"""


def compress_it(folder):
    vocabpress.compress(
        folder / "source", folder / "out", method="svd", budget=vocabpress.Budget.ratio(4), measure=False
    )


def export_it(folder):
    export(folder / "source", folder / "out")


def recover_it(folder):
    settings = Recovery(steps=12, batch_size=4, evaluate_every=2, max_length=16)
    text = [folder / "text.txt"]
    recover(folder / "small", folder / "out", teacher=folder / "source", text=text, settings=settings, device="cpu")


def sweep_it(folder):
    (folder / "plan.toml").write_text(PLAN, encoding="utf-8")
    run_module.run_local = run_here  # one process, that imports nothing, is killed more often
    report = run_sweep(read_plan(folder / "plan.toml"))
    if report.failed:
        raise ValueError(str(report.failed))


JOBS = {"compress": compress_it, "export": export_it, "recover": recover_it, "sweep": sweep_it}


class Nursery:
    """A process that has imported everything, and forks one child a job: a start costs no import."""

    def __init__(self, folder):
        self.folder = folder

    def start(self, job):
        """The process id of a child, in a group of its own, that runs a job and exits with 0, or 2 for bad input."""
        child = os.fork()
        if child:
            return child
        os.setsid()
        sys.stdout = sys.stderr = log = (self.folder / "log.txt").open("a", buffering=1)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        logging.disable_progress_bar()
        torch.set_num_threads(1)
        code = 1
        try:
            JOBS[job](self.folder)
            code = 0
        except ValueError as error:
            sys.stderr.write(f"error: {error}\n")
            code = 2
        finally:
            sys.stderr.flush()
            os._exit(code)

    def whole(self, job):
        """Run a job to its end; its exit code and seconds."""
        begun = time.monotonic()
        _, status = os.waitpid(self.start(job), 0)
        return os.waitstatus_to_exitcode(status), time.monotonic() - begun

    def killed(self, job, seconds):
        """Run a job for a while, then kill it and all that it started; whether it was still at work."""
        child = self.start(job)
        time.sleep(seconds)
        done, _ = os.waitpid(child, os.WNOHANG)
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        if not done:
            os.waitpid(child, 0)
        return not done


def contents(folder):
    """What a result is: its files, weights by their numbers, JSON without what tells times and paths."""
    found = {}
    for file in sorted(folder.rglob("*")):
        if file.suffix == ".safetensors":
            found[str(file.relative_to(folder))] = {k: t.tolist() for k, t in sorted(load_file(file).items())}
        elif file.suffix in (".onnx", ".txt"):
            found[str(file.relative_to(folder))] = file.read_bytes()
        elif file.name == "config.json":
            found[str(file.relative_to(folder))] = json.loads(file.read_text(encoding="utf-8"))
        elif file.is_file():
            found[str(file.relative_to(folder))] = None
    return found


def results(folder):
    """Task, settings and numbers of the results of a sweep."""
    found = {}
    for file in sorted((folder / "results").glob("*.json")):
        for row in json.loads(file.read_text(encoding="utf-8")):
            found[file.name, row["task"]] = (row["metrics"], row["bytes"])
    return found


def is_whole(folder):
    """Whether a folder is absent, or a checkpoint that loads."""
    return not folder.exists() or open_model(folder) is not None
