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
from vocabpress.hf.compress import compress
from vocabpress.hf.folders import find_folder
from vocabpress.hf.request import LinearShapes
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


def compress_one(job: dict[str, Any], folders: Folders) -> None:
    """Compress, and write the report as a result."""
    made = _place(job, folders)
    report = compress(
        job["model"],
        made,
        method=make_method(job["method"]["name"], **job["method"]["fields"]),
        budget=Budget.ratio(job["ratio"]),
        linears=LinearShapes.read(job["linears"]) if "linears" in job else None,
        calibration=calibration(job),
        seed=job["seed"],
        device=job["device"],
        progress=True,
    )
    metrics = {name: getattr(report, name) for name in COMPRESSION_METRICS}
    metrics |= {f"relative_error_{part.role}": part.relative_error for part in report.linears}
    _finish(job, made, {name: value for name, value in metrics.items() if value is not None}, report.seconds)


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


def recover_one(job: dict[str, Any], folders: Folders) -> None:
    """Recover a compressed model, and write the report as a result."""
    made = _place(job, folders)
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
    _finish(job, made, metrics, report.seconds, details)


def measure_one(job: dict[str, Any], folders: Folders) -> None:
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


RUN = {"press": compress_one, "recover": recover_one, "measure": measure_one}


def _place(job: dict[str, Any], folders: Folders) -> Path:
    """Where the model is made; an interrupted recovery resumes from files beside it."""
    made = folders.work(job["name"]) / "model"
    shutil.rmtree(made, ignore_errors=True)  # a process that was killed may have left it
    return made


def _finish(
    job: dict[str, Any], made: Path, metrics: dict[str, float], seconds: float, details: dict[str, Any] | None = None
) -> None:
    """Move the model to its place, then write the result that marks the cell as done."""
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
        {**(details or {}), "text": [Path(file).name for file in job["text"]]},
        environment(job["device"]),
    )
    folders = Folders(Path(job["output"]))
    target = folders.model(job["name"])
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    made.replace(target)
    write_results(folders.result(job["name"]), [result])
    shutil.rmtree(folders.work(job["name"]), ignore_errors=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the cell that a spec file describes, by default the one in ``sys.argv``; returns the exit code."""
    (spec,) = sys.argv[1:] if arguments is None else arguments
    try:
        job = json.loads(Path(spec).read_text(encoding="utf-8"))
        RUN[job["stage"]](job, Folders(Path(job["output"])))
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
