"""One cell as a process: ``python -m vocabpress.sweep.cell SPEC.json``.

Exit code 0 for success, 2 for bad input (the last line then starts with ``error:``), 1 for a crash, 130 for an
interruption. Results appear whole or not at all.
"""

import json
import shutil
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vocabpress.budget import Budget
from vocabpress.calibrate import Calibration, calibrate
from vocabpress.calibrate.calibration import TFIDF, UNIFORM
from vocabpress.evaluate import task_from
from vocabpress.evaluate.run import Labels, evaluate, provenance, sizes
from vocabpress.hf.folders import find_folder
from vocabpress.hf.request import LinearShapes
from vocabpress.job.compress import compress
from vocabpress.methods import make_method
from vocabpress.recover import Recovery, recover
from vocabpress.results import Result, environment, write_results
from vocabpress.sweep.expand import Folders

BAD_INPUT = 2
INTERRUPTED = 130
COMPRESSION_METRICS = (
    "ratio_to_float32",
    "bits_per_weight",
    "relative_error",
    "mean_cosine",
    "weighted_relative_error",
    "weighted_mean_cosine",
)
Outcome = tuple[dict[str, float], float, dict[str, Any]]
"""Metrics, seconds, details."""


def make(job: dict[str, Any], folders: Folders) -> None:
    """Compress or recover a model, move it to its place, then write the result that marks the cell as done."""
    made, target = folders.work(job["name"]) / "model", folders.model(job["name"])
    shutil.rmtree(made, ignore_errors=True)  # a process that was killed may have left it
    metrics, seconds, details = (compress_one if job["stage"] == "press" else recover_one)(job, made, folders)
    # The plan's settings of the recovery: a checkpoint has none of one that did not help, and more that varies.
    settings = {"model": Path(job["model"]).name, **provenance(made)}
    settings |= {"recovered": job["recovered"], "seed": job["seed"]}
    result = Result(
        job["stage"],
        job["variant"],
        settings,
        sizes(made, find_folder(job["model"])),
        metrics,
        seconds,
        {**details, "text": [Path(file).name for file in job["text"]]},
        environment(job["device"]),
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    made.replace(target)
    write_results(folders.result(job["name"]), [result])
    shutil.rmtree(folders.work(job["name"]), ignore_errors=True)


def compress_one(job: dict[str, Any], made: Path, folders: Folders) -> Outcome:
    """Compress the original."""
    report = compress(
        job["model"],
        made,
        method=make_method(job["method"]["name"], **job["method"]["fields"]),
        budget=Budget.ratio(job["ratio"]),
        linears=LinearShapes.read(job["linears"]) if "linears" in job else None,
        calibration=calibration(job),
        measure=False,  # tasks of the plan do
        seed=job["seed"],
        device=job["device"],
        progress=True,
    )
    metrics = {name: getattr(report, name) for name in COMPRESSION_METRICS}
    metrics |= {f"relative_error_{part.role}": part.relative_error for part in report.linears}
    return {name: value for name, value in metrics.items() if value is not None}, report.seconds, {}


def calibration(job: dict[str, Any]) -> Calibration:
    """The calibration that the keys of a plan describe; without any, all tokens have equal weights."""
    weights = job["weights"]
    by_counts = isinstance(weights, int | float)
    begin = [] if job["text"] else [job["counts"] or UNIFORM]
    begin += [] if weights is None or weights == TFIDF or by_counts else [weights]
    if "metric" in job:
        measured = Calibration.load(job["metric"]).metric
        begin.append(Calibration(metric=measured, metric_strength=job["metric_strength"]))
    return calibrate(
        job["model"],
        text=job["text"],
        start=begin,
        exponent=weights if by_counts else None,
        weights_from=TFIDF if weights == TFIDF else "counts",
        metric=False,
        progress=True,
    )


def recover_one(job: dict[str, Any], made: Path, folders: Folders) -> Outcome:
    """Recover a compressed model; an interrupted recovery resumes from files beside ``made``."""
    report = recover(
        folders.model(job["needs"]),
        made,
        teacher=job["model"],
        text=job["text"],
        settings=Recovery(**job["settings"]),
        seed=job["seed"],
        device=job["device"],
        progress=True,
    )
    metrics = {
        "held_out_before": report.held_out_before,
        "held_out_after": report.held_out_after,
        "steps": float(report.steps),
        "minutes": report.seconds / 60,
    }
    details = {key: value for key, value in asdict(report).items() if key not in {*metrics, "output", "seconds"}}
    return metrics, report.seconds, details


def measure(job: dict[str, Any], folders: Folders) -> None:
    """Run one task on one model."""
    task, work = job["task"], folders.work(job["name"])
    (result,) = evaluate(
        job["model"] if job["needs"] is None else folders.model(job["needs"]),
        {task["name"]: task_from(task["name"], task["fields"])},
        against=job["model"],
        data=job["data"],
        text=job["text"],
        seeds=[job["seed"]],
        device=job["device"],
        output=work,
        labels=Labels(job["variant"], {"recovered": job["recovered"]}),
        progress=True,
    )
    write_results(folders.result(job["name"]), [result])
    shutil.rmtree(work, ignore_errors=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the cell that a spec file describes, by default the one in ``sys.argv``; returns the exit code."""
    (spec,) = sys.argv[1:] if arguments is None else arguments
    try:
        job = json.loads(Path(spec).read_text(encoding="utf-8"))
        (measure if job["stage"] == "measure" else make)(job, Folders(Path(job["output"])))
    except ValueError as error:
        sys.stderr.write(f"\nerror: {' '.join(str(error).split())}\n")
        return BAD_INPUT
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted\n")
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that half-written folders are removed
    sys.exit(main())
