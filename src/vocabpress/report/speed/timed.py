"""What a timing is, where it was taken, and which of its metrics are a form's time and its dense peer's."""

import math
import re
import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from vocabpress.report.labels import canonical
from vocabpress.report.rows import Row, Value
from vocabpress.results import Result

TIMED = ("heads", "gpu", "reading", "runtimes", "scaling", "memory", "resident")  # tasks, in the order of the page
COUNTED = ("anonymous", "resident", "working_set")  # metrics in bytes
SAID = {"top_ms": "top-k, 1 vector", "lookup_graph_ms": "lookup in a CUDA graph"}  # others say themselves
PARTNERS = ("dense", "original")  # what the peer of a time is called


class Place(NamedTuple):
    """What timings have in common that may stand in one chart; what a result does not say is empty, or None."""

    model: str
    rows: int | None
    columns: int | None
    tokens: int | None
    dtype: str
    machine: str

    @property
    def shape(self) -> str:
        """``"30,522 x 768"`` of the table, or the columns alone, or nothing."""
        if self.columns is None:
            return ""
        return f"{self.columns:,} columns" if self.rows is None else f"{self.rows:,} x {self.columns:,}"


def is_timing(result: Result) -> bool:
    """Whether a result is of speed or memory, not of a model's quality."""
    return result.task in TIMED


def place(result: Result) -> Place:
    """Where a result was measured: on which table, and on which machine."""
    rows, columns, tokens = (_whole(result.settings.get(name)) for name in ("rows", "columns", "tokens"))
    model, dtype = (_text(result.settings.get(name)) for name in ("model", "dtype"))
    return Place(model, rows, columns, tokens, dtype, machine(result))


def machine(result: Result) -> str:
    """``"CPU, x86_64, 2 threads"``: times of different ones are no times to compare."""
    device, kind, threads = (result.environment.get(name) for name in ("device", "machine", "threads"))
    said = [_text(device), _text(kind), f"{threads} threads" if isinstance(threads, int) else ""]
    return ", ".join(filter(None, said)) or "a machine not named"


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else canonical(value)


def by_place(rows: Iterable[Row], over_rows: bool = False) -> dict[Place, list[Row]]:
    """Rows that may stand in one chart, each group by its place.

    Args:
        rows: Of one task.
        over_rows: Whether tables of any number of rows stand in one chart.
    """
    found: dict[Place, list[Row]] = {}
    for row in rows:
        at = place(row.results[0])
        found.setdefault(at._replace(rows=None) if over_rows else at, []).append(row)
    return found


def place_names(places: Sequence[Place]) -> dict[Place, str]:
    """Each place in words: model and shape, and what else tells these places apart."""
    names = {}
    for at in places:
        said = [at.model, at.shape]
        said += [at.dtype] if len({other.dtype for other in places}) > 1 else []
        said += [f"{at.tokens:,} tokens"] if at.tokens and len({other.tokens for other in places}) > 1 else []
        said += [at.machine] if len({other.machine for other in places}) > 1 else []
        names[at] = ", ".join(filter(None, said))
    return names


def pairs(rows: Iterable[Row]) -> dict[str, str]:
    """Metric -> that of the dense peer, of all metrics that have one: ``logits_1_ms`` -> ``logits_1_dense_ms``."""
    names = dict.fromkeys(name for row in rows for name in row.metrics)
    found: dict[str, str] = {}
    for name in sorted(names, key=natural):
        peers = [f"{name}_{partner}" for partner in PARTNERS]
        peers += [f"{name.removesuffix('_ms')}_{partner}_ms" for partner in PARTNERS if name.endswith("_ms")]
        for peer in peers:
            if peer in names:
                found[name] = peer
    return found


def ratio(row: Row, name: str, other: str) -> Value | None:
    """One metric over another of the same result, a mean over seeds; None where no result has both."""
    found = [
        result.metrics[name] / result.metrics[other]
        for result in row.results
        if all(0 < result.metrics.get(each, 0) < math.inf for each in (name, other))
    ]
    if not found:
        return None
    return Value(statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else None, len(found))


def labels(rows: Sequence[Row]) -> list[str]:
    """Names of rows, the ratio that was asked for in them where there are several."""
    asked = [row.results[0].settings.get("ratio") for row in rows]
    several = len({str(ratio) for ratio in asked}) > 1
    return [
        f"{row.label}, {ratio:g}x" if several and isinstance(ratio, int | float) else row.label
        for row, ratio in zip(rows, asked, strict=True)
    ]


def count_of(row: Row, name: str) -> float | None:
    """Bytes that results name, a mean over seeds."""
    found = [result.bytes[name] for result in row.results if result.bytes.get(name, 0) > 0]
    return statistics.fmean(found) if found else None


def time_name(name: str) -> str:
    """A time in words: ``logits_8_ms`` -> ``"logits, 8 vectors"``, ``ms_8x128`` -> ``"8 x 128"``."""
    if name in SAID:
        return SAID[name]
    words = name.removesuffix("_ms").removeprefix("ms_").split("_")
    said = [" ".join(word for word in words if not word[:1].isdigit())]
    for word in words:
        if match := re.fullmatch(r"(\d+)x(\d+)", word):
            said.append(f"{match[1]} x {match[2]}")
        elif word.isdigit():
            said.append(f"{word} vector{'' if word == '1' else 's'}")
    return ", ".join(filter(None, said))


def natural(name: str) -> list[Any]:
    """Sorts names of times, the numbers in them by value: 1, 8, 64."""
    parts = re.split(r"(\d+)", name.removesuffix("_ms"))
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]
