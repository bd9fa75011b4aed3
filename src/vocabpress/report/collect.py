"""Result files into rows: one model, one way to compress it, one size, all seeds together."""

import json
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vocabpress.methods import METHODS
from vocabpress.report.labels import asked_size, canonical, recovery_name, task_name, variant_name, without_seeds
from vocabpress.report.rows import Model, Row, Value
from vocabpress.report.speed.timed import is_timing, place
from vocabpress.results import Result, read_results


@dataclass(frozen=True)
class Collection:
    """What was found.

    Attributes:
        results: Without those that occur twice, as copies.
        models: By name.
        timings: Rows of the benchmarks of speed and memory, which are of no model's quality.
        files: Result files read.
        skipped: JSON files in the folders that hold no results.
    """

    results: list[Result]
    models: list[Model]
    timings: list[Row]
    files: int
    skipped: int


def collect(paths: Sequence[str | Path]) -> Collection:
    """Read files and folders, and group what they hold.

    Args:
        paths: JSON files, or folders that are searched for ``*.json``; hidden folders and ``*.work`` are left out.

    Raises:
        ValueError: If a path is missing, a file is not of results or of another schema version, or there is no result.
    """
    files, skipped = _find(paths)
    results: dict[str, Result] = {}
    for file in files:
        for result in read_results(file):
            _check(result, file)
            results.setdefault(canonical(vars(result)), result)  # a copy counts once
    if not results:
        where = ", ".join(str(path) for path in paths)
        raise ValueError(f"no results in {where}; give files or folders that vocabpress evaluate or sweep wrote")
    found = list(results.values())
    models = group(result for result in found if not is_timing(result))
    return Collection(found, models, group_timings(found), len(files), skipped)


def _find(paths: Sequence[str | Path]) -> tuple[list[Path], int]:
    """The files to read, and how many in the folders are JSON of other kinds."""
    files: dict[Path, Path] = {}
    skipped = 0
    for path in map(Path, paths):
        if not path.exists():
            raise ValueError(f"no such file or folder: {path}; give results that vocabpress evaluate or sweep wrote")
        if not path.is_dir():
            files.setdefault(path.resolve(), path)
            continue
        for file in sorted(path.rglob("*.json")):
            folders = file.relative_to(path).parts[:-1]
            if file.name.startswith(".") or any(name.startswith(".") or name.endswith(".work") for name in folders):
                continue
            if _may_be_results(file):
                files.setdefault(file.resolve(), file)
            else:
                skipped += 1
    return list(files.values()), skipped


def _may_be_results(file: Path) -> bool:
    """Whether a file in a folder is read: a checkpoint's ``config.json`` is not, a damaged file is, and refused."""
    try:
        data = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return True
    return isinstance(data, list) and all(isinstance(row, dict) and "schema_version" in row for row in data)


def _check(result: Result, file: Path) -> None:
    """Refuse a result whose fields are not of their types, which JSON does not promise."""
    for field in ("settings", "bytes", "metrics", "details", "environment"):
        if not isinstance(getattr(result, field), dict):
            raise ValueError(f"{file} holds a result whose {field} is no object; measure it again")
    if not isinstance(result.task, str) or not isinstance(result.variant, str):
        raise ValueError(f"{file} holds a result without the name of a task or a variant; measure it again")
    for name, value in {**result.bytes, **result.metrics}.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{file} holds a result whose {name} is no number ({value!r}); measure it again")


def group(results: Iterable[Result]) -> list[Model]:
    """Results into models and rows: those that differ in seeds alone become one row, a mean."""
    by_model: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        by_model[str(result.settings.get("model") or "model not named")].append(result)
    return [_model(name, by_model[name]) for name in sorted(by_model)]


def group_timings(results: Iterable[Result]) -> list[Row]:
    """The timings among the results into rows; those of one task and place differ in seeds alone, and become a mean."""
    by_place: dict[tuple[Any, ...], list[Result]] = defaultdict(list)
    for result in results:
        if is_timing(result):
            by_place[result.task, place(result)].append(result)
    return [row for members in by_place.values() for row in _rows(members, None)]


def _model(name: str, results: list[Result]) -> Model:
    sizes = Counter(size for result in results if (size := _float32(result)))
    float32 = sizes.most_common(1)[0][0] if sizes else None
    return Model(name, tuple(sorted(_rows(results, float32), key=_order)))


def _rows(results: list[Result], float32: float | None) -> list[Row]:
    """Results that differ in seeds alone as one row; `float32` is the table's size where a result does not say."""
    groups: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        settings = without_seeds(result.settings)
        groups[canonical([result.task, result.variant, settings, asked_size(result)])].append(result)
    firsts = [members[0] for members in groups.values()]
    return [
        Row(
            task=task_name(members[0], firsts),
            name=variant_name(members[0], firsts),
            recovered=recovery_name(members[0], firsts),
            peer=bool(members[0].settings.get("peer")),
            original=is_original(members[0]),
            table=_mean([result.bytes["table"] for result in members if "table" in result.bytes]),
            float32=_mean([size for result in members if (size := _float32(result))]) or float32,
            metrics=_values(members),
            results=tuple(members),
        )
        for members in groups.values()
    ]


def is_original(result: Result) -> bool:
    """Whether a result is of the uncompressed model."""
    return result.settings.get("method", result.variant) == "original"


def _order(row: Row) -> tuple[Any, ...]:
    known = list(METHODS)
    method = str(row.results[0].settings.get("method")).partition("+")[0]  # one on another's rest stands beside it
    rank = known.index(method) if method in known else len(known)
    return not row.original, row.peer, rank, row.name.casefold(), row.recovered or "", -(row.table or 0), row.task


def _values(results: list[Result]) -> dict[str, Value]:
    """Each metric's mean over the results that have it as a finite number."""
    names = sorted({name for result in results for name in result.metrics})
    values = {}
    for name in names:
        found = [r.metrics[name] for r in results if name in r.metrics and math.isfinite(r.metrics[name])]
        if found:
            values[name] = Value(
                statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else None, len(found)
            )
    others = values.keys() - {"mean"}
    if len(others) == 1 and values.get("mean") == values[next(iter(others))]:
        del values["mean"]  # of one data set; the other name says which
    return values


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _float32(result: Result) -> float | None:
    """Bytes of the table in float32; version 1 of the format says them as a ratio."""
    if "table_float32" in result.bytes:
        return result.bytes["table_float32"]
    ratio = result.metrics.get("ratio_to_float32")
    return round(result.bytes["table"] * ratio) if ratio and "table" in result.bytes else None
