"""All tasks of one model: from names to results, and to files that an interrupted run goes on from."""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from vocabpress.budget import Budget
from vocabpress.evaluate.task import Subject, Task
from vocabpress.hf.checkpoint import open_model
from vocabpress.hf.folders import find_folder, weight_bytes
from vocabpress.hf.inner import method_of
from vocabpress.hf.modules import TokenEmbedding
from vocabpress.hf.report import model_name
from vocabpress.hf.tables import input_table_name
from vocabpress.hf.writing import check_output
from vocabpress.results import Result, environment, read_results, write_results


@dataclass(frozen=True)
class Labels:
    """What a result says of the model besides what its config.json says.

    Attributes:
        variant: The name of the row; None takes the method's.
        settings: Override the keys of `provenance`.
        bytes: Override the counted sizes; for models whose table is a dense stand-in for what a peer would store.
    """

    variant: str | None = None
    settings: Mapping[str, Any] | None = None
    bytes: Mapping[str, int] | None = None


def provenance(folder: Path) -> dict[str, Any]:
    """Where a checkpoint's numbers come from: the well-known keys of `Result.settings`."""
    quantization = getattr(AutoConfig.from_pretrained(folder), "quantization_config", None) or {}
    stored = quantization if isinstance(quantization, dict) else quantization.to_dict()
    fitted = stored.get("fitted_by") or {}
    if not fitted:
        return {"method": "original", "recovered": None}
    budget = Budget.read(fitted["budget"]) if fitted.get("budget") else None
    # Said only where there are any, so that results of checkpoints without them stay what they were.
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
    model = open_model(folder, whole=False)
    module = model.get_submodule(input_table_name(model))
    if isinstance(module, TokenEmbedding):
        table = module.table.total_bits() // 8
        entries = module.num_embeddings * module.embedding_dim
    else:
        weight: Any = module.weight
        stored = getattr(AutoConfig.from_pretrained(folder), "dtype", None) or weight.dtype
        entries = weight.numel()
        table = entries * stored.itemsize
    counted = {"table": table, "table_float32": entries * 4, "model": weight_bytes(folder)}
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
        tasks: Name -> task, in the order in which they are to run.
        against: The original, hub id or folder, for the tasks that compare.
        data: Folder of the data sets, each in its own layout.
        text: UTF-8 text files, for the tasks that read text.
        seeds: For the tasks that depend on one; the others run once, with the first.
        device: Where to run.
        output: Folder that gets one JSON file for each task and seed. Those that are there already are not run again.
        keep: Folder that gets the model that each task fine-tuned, as TASK-seedN; a task that has its result in the
            output and no model here runs again.
        labels: What the results are to say of the model besides what its config says.
        progress: Whether to draw progress bars on stderr.

    Returns:
        One result for each task and seed.

    Raises:
        ValueError: With one line that says what was wrong; results that were there stay as they are.
    """
    folder = find_folder(model)
    original = None if against is None else find_folder(against)
    base = Subject(folder, original, None if data is None else Path(data), [Path(file) for file in text], device)
    labels = labels or Labels()
    said = {"model": model_name(against or model), **provenance(folder), **(labels.settings or {})}
    counted = {**sizes(folder, original), **(labels.bytes or {})}
    results = []
    for name, task in tasks.items():
        for seed in seeds if task.seeded else seeds[:1]:
            place = None if output is None else Path(output) / f"{name}{f'-seed{seed}' if task.seeded else ''}.json"
            work = None if place is None else place.with_suffix(".work")
            kept = Path(keep) / f"{name}-seed{seed}" if keep is not None and task.fine_tunes else None
            subject = replace(base, seed=seed, work=work, keep=kept, progress=progress)
            settings = {**said, "seed": seed, "task": asdict(task)}  # pyright: ignore[reportArgumentType]
            if task.reads_text:
                settings["text"] = [file.name for file in base.text]
            empty = Result(name, labels.variant or str(said["method"]), settings, counted, {}, 0.0, environment={})
            found = _found(place, empty)
            again = found is None or (kept is not None and not kept.exists())
            if again and kept is not None:
                check_output(kept)
            results.append(_measured(task, subject, empty, place) if found is None or again else found)
    return results


def _found(place: Path | None, wanted: Result) -> Result | None:
    """The result of an earlier run, if it is of the same settings and bytes.

    Raises:
        ValueError: If the file holds something else.
    """
    if place is None or not place.exists():
        return None
    found = read_results(place)
    if [_identity(result) for result in found] != [_identity(wanted)]:
        raise ValueError(f"{place} holds a result of other settings; remove it, or give another output folder")
    return found[0]


def _identity(result: Result) -> tuple[Any, ...]:
    return result.task, result.variant, result.settings, result.bytes


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
