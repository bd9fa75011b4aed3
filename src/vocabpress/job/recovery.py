"""Train what was compressed against its original, before it is written."""

import shutil
import warnings
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from vocabpress.budget import dtype_name
from vocabpress.calibrate.outputs import dtype_to_run_in
from vocabpress.evaluate.language import is_causal
from vocabpress.hf.checkpoint import named_class
from vocabpress.hf.report import Change, Report, load_report, save_report
from vocabpress.job.search import Bench
from vocabpress.job.text import JobText
from vocabpress.recover.run import recover
from vocabpress.recover.settings import Recovery

STEPS_PER_MINUTE = 600  # at most; the clock ends a training before that
FEWEST_LINES = 40  # of text to train on
# Where all maps are codes, what is left to train are scales, biases, norms and decoders, by the model's output alone.
WHOLE: dict[str, Any] = {
    "mode": "model",
    "embedding": 0.0,
    "hidden": 0.0,
    "attention": 0.0,
    "sentence": 1.0,
    "batch_size": 48,
    "stream": True,
    "max_length": 192,
    "learning_rate": 0.001,
    "patience": 1000,
}
# What a causal language model is for are its predictions. A step of few tokens leaves time for many steps.
PREDICTIONS: dict[str, Any] = {
    "embedding": 0.0,
    "hidden": 0.0,
    "attention": 0.0,
    "logits": 1.0,
    "stream": True,
    "learning_rate": 0.003,
    "batch_size": 2,
    "max_length": 256,
    "held_out": 8,
    "evaluate_every": 100,
    "patience": 1000,
}


@dataclass(frozen=True)
class Recovering:
    """How a compressed model is trained: against the original in ``folder``, for so many minutes at most.

    ``whole`` says whether its linear maps are coded, too.
    """

    folder: Path
    text: JobText
    minutes: float
    seed: int
    device: str | None
    whole: bool = False


def check_minutes(minutes: float | None, processes: int) -> None:
    """Raise ValueError if a training of so many minutes is not possible here."""
    if minutes is None:
        return
    if not 0 < minutes < float("inf"):
        raise ValueError(f"the minutes of a recovery are a positive number, got {minutes:g}; try 10")
    if processes > 1:
        raise ValueError("recovery inside compress is for one process; compress first, then run vocabpress recover")
    if find_spec("accelerate") is None:
        raise ValueError("training needs accelerate; pip install 'vocabpress[train]'")


def check_text(text: JobText) -> None:
    """Raise ValueError if there is too little text to train on."""
    if text.lines < FEWEST_LINES:
        reason = f"there are {text.lines}" if text.lines else text.lacking
        raise ValueError(f"recovery needs {FEWEST_LINES} lines of text or more ({reason}); give --text, or text=[…]")


def recovered(target: Path, compressed: Path, bench: Bench, report: Report, how: Recovering) -> Report:
    """Train a compressed checkpoint, and move the better one of the two into the folder above.

    Args:
        target: The folder above; it gets the files.
        compressed: The checkpoint's folder in it, which disappears.
        bench: What measures it.
        report: Of the compression.
        how: How it is trained.
    """
    save_report(report, compressed)
    trained, change, best = target / "recovered", report.change, compressed
    steps = max(1, round(how.minutes * STEPS_PER_MINUTE))
    given = dict(WHOLE) if how.whole else {}
    if is_causal(bench.original.model):
        dtype = dtype_to_run_in(bench.original.weight.dtype, torch.device(how.device or "cpu"))
        given |= PREDICTIONS | {"precision": dtype_name(dtype)}
    settings = Recovery(minutes=how.minutes, steps=steps, **given)
    try:
        done = recover(
            compressed,
            trained,
            teacher=how.folder,
            text=how.text.files,
            settings=settings,
            seed=how.seed,
            device=how.device,
            progress=bench.progress,
        )
    except ValueError as error:  # the fit took longer, so it is not lost
        warnings.warn(f"not recovered: {error}", stacklevel=5)
    else:
        change = None if done.kept_input else _measured(trained, bench)
        if not done.kept_input and (change is None or report.change is None or change.loss <= report.change.loss):
            best = trained
    found = load_report(best) or report
    if best is trained:
        found = replace(found, change=change, change_unrecovered=report.change)
    for file in best.iterdir():
        file.rename(target / file.name)
    for left in (compressed, trained, target / "recovered.recover"):
        shutil.rmtree(left, ignore_errors=True)
    return found


def _measured(folder: Path, bench: Bench) -> Change | None:
    """What a checkpoint changes, read back from the disk in the dtype of the original."""
    if bench.probe is None:
        return None
    model = named_class(folder).from_pretrained(folder, dtype=bench.original.model.dtype, local_files_only=True)
    return replace(bench.probe, model=model.eval()).measure()
