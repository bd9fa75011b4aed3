"""Runs all tasks of one model, and writes result files, which are reused when a run is repeated."""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from vocabpress.budget import Budget
from vocabpress.evaluate.table import open_table
from vocabpress.evaluate.task import Subject, Task
from vocabpress.hf.folders import find_folder, weight_bytes
from vocabpress.hf.inner import method_of
from vocabpress.hf.writing import check_output
from vocabpress.hub import model_name
from vocabpress.results import Result, environment, read_results, write_results


@dataclass(frozen=True)
class Labels:
    """Overrides of what results state about the model."""

    variant: str | None = None  # name of the row; None takes the method's
    settings: Mapping[str, Any] | None = None  # instead of those of `provenance`
    bytes: Mapping[str, int] | None = None  # if the model's dense table stands for what a peer would store


def provenance(folder: Path) -> dict[str, Any]:
    """How a checkpoint was made: the well-known keys of `Result.settings`."""
    quantization = getattr(AutoConfig.from_pretrained(folder), "quantization_config", None) or {}
    stored = quantization if isinstance(quantization, dict) else quantization.to_dict()
    fitted = stored.get("fitted_by") or {}
    if not fitted:
        return {"method": "original", "recovered": None}
    budget = Budget.read(fitted["budget"]) if fitted.get("budget") else None
    # Only if they exist, so that results of checkpoints without them do not change.
    more = {key: fitted[key] for key in ("linears", "metric", "direction", "calibration") if key in fitted}
    if "inner" in stored:
        more["body"] = method_of(stored["inner"])
    return {
        **more,
        "method": fitted.get("method"),
        "fields": fitted.get("settings"),
        "ratio": budget.amount if budget and (budget.unit, budget.reference) == ("ratio", "float32") else None,
        "budget": None if budget is None else asdict(budget),
        "token_weights": fitted.get("token_weights"),
        "fit_seed": fitted.get("seed"),
        "recovered": fitted.get("recovered"),
    }


def sizes(folder: Path, against: Path | None) -> dict[str, int]:
    """Bytes of the table as stored, of the same in float32, and of the weight files."""
    table = open_table(folder, whole=False)
    float32 = 4 * table.num_embeddings * table.embedding_dim
    counted = {"table": table.total_bits() // 8, "table_float32": float32, "model": weight_bytes(folder)}
    return counted if against is None else counted | {"model_before": weight_bytes(against)}


def evaluate(
    model: str | Path,
    tasks: Mapping[str, Task],
    *,
    against: str | Path | None = None,
    data: str | Path | None = None,
    text: Sequence[str | Path] = (),
    seeds: Sequence[int] = (0,),
    device: str = "cpu",
    output: str | Path | None = None,
    keep: str | Path | None = None,
    labels: Labels | None = None,
    progress: bool = False,
) -> list[Result]:
    """Measure a model, compressed or not.

    Args:
        model: A hub id, or a folder.
        tasks: Name -> task, in the order in which they run.
        against: The original, hub id or folder, for tasks that compare.
        data: Folder of the data sets, each in its own layout.
        text: UTF-8 text files, for tasks that read text.
        seeds: For tasks that depend on a seed; other tasks run once, with the first.
        device: Device to run on.
        output: Folder for one JSON file for each task and seed; a task that already has its file does not run again.
        keep: Folder for the fine-tuned model of each task, as TASK-seedN; a task without its model here runs again.
        labels: Overrides of what results state about the model.
        progress: Whether to draw progress bars on stderr.

    Returns:
        One result for each task and seed.

    Raises:
        ValueError: In one line what is wrong; existing results do not change.
    """
    folder = find_folder(model)
    original = None if against is None else find_folder(against)
    base = Subject(folder, original, None if data is None else Path(data), [Path(file) for file in text], device)
    labels = labels or Labels()
    about = {"model": model_name(against or model), **provenance(folder), **(labels.settings or {})}
    counted = {**sizes(folder, original), **(labels.bytes or {})}
    results = []
    for name, task in tasks.items():
        for seed in seeds if task.seeded else seeds[:1]:
            place = None if output is None else Path(output) / f"{name}{f'-seed{seed}' if task.seeded else ''}.json"
            work = None if place is None else place.with_suffix(".work")
            target = Path(keep) / f"{name}-seed{seed}" if keep is not None and task.fine_tunes else None
            subject = replace(base, seed=seed, work=work, keep=target, progress=progress)
            settings = {**about, "seed": seed, "task": asdict(task)}  # pyright: ignore[reportArgumentType]
            if task.reads_text:
                settings["text"] = [file.name for file in base.text]
            empty = Result(name, labels.variant or str(about["method"]), settings, counted, {}, 0.0, environment={})
            found = _found(place, empty)
            again = found is None or (target is not None and not target.exists())
            if again and target is not None:
                check_output(target)
            results.append(_measured(task, subject, empty, place) if found is None or again else found)
    return results


def _found(place: Path | None, wanted: Result) -> Result | None:
    """The result of an earlier run of the same settings; a ValueError if the file holds another."""
    if place is None or not place.exists():
        return None
    found, identity = read_results(place), attrgetter("task", "variant", "settings", "bytes")
    if list(map(identity, found)) != [identity(wanted)]:
        raise ValueError(f"{place} holds a result of other settings; remove it, or give another output folder")
    return found[0]


def _measured(task: Task, subject: Subject, empty: Result, place: Path | None) -> Result:
    start = time.perf_counter()
    measurement = task.measure(subject)
    result = replace(
        empty,
        metrics=measurement.metrics,
        details=measurement.details,
        seconds=time.perf_counter() - start,
        environment=environment(subject.device),
    )
    if place is not None:
        write_results(place, [result])
        if subject.work is not None:
            shutil.rmtree(subject.work, ignore_errors=True)
    return result
