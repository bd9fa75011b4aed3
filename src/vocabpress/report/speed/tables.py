"""Tables of timings: ratios to the dense peers, and every figure as it was measured."""

from collections.abc import Callable, Sequence

from vocabpress.report.console import size
from vocabpress.report.names import metric, short
from vocabpress.report.rows import Row, Value
from vocabpress.report.speed.timed import (
    COUNTED,
    by_place,
    count_of,
    labels,
    natural,
    pairs,
    place,
    place_names,
    ratio,
    time_name,
)
from vocabpress.report.tables import EMPTY, Cell, Table

FLOOR = "floor_ms"


def ratios(rows: Sequence[Row], speedup: bool = False, over_floor: str = "") -> list[Table]:
    """Each time beside that of the dense peer in the same run: a table for each place where some metric has one.

    Args:
        rows: Of one task.
        speedup: Whether to show the peer's time over the form's, where times lie decades apart; else the inverse.
        over_floor: The time that is also shown over the floor, the least that reading the bytes takes.
    """
    places = by_place(rows)
    names, arrow = place_names(list(places)), "↑" if speedup else "↓"
    what = "Speed-up over the dense peer" if speedup else "Time over the dense peer's"
    found = []
    for at, members in places.items():
        columns = {
            f"{time_name(name)}\u00a0{arrow}": [_ratio(row, name, dense, speedup) for row in members]
            for name, dense in pairs(members).items()
        }
        if any(ratio(row, over_floor, FLOOR) for row in members):
            head = f"{time_name(over_floor)}, over the floor\u00a0↓"
            columns[head] = [_ratio(row, over_floor, FLOOR) for row in members]
        if columns:
            caption = f"{what} in the same run{': ' * bool(names[at])}{names[at]}"
            body = [[*sized, *cells] for sized, *cells in zip(_sized(members), *columns.values(), strict=True)]
            found.append(Table(caption, [*_sized_heads(members), *columns], body))
    return found


def figures(rows: Sequence[Row], caption: str) -> Table:
    """Every metric of a task, as it was measured, and what else was counted in bytes."""
    places = [place(row.results[0]) for row in rows]
    where = [Cell(place_names(places)[at] or "–") for at in places]
    counts = sorted({name for row in rows for result in row.results for name in result.bytes} - {"table"})
    columns = {name.replace("_", " "): [_bytes(count_of(row, name)) for row in rows] for name in counts}
    for name in sorted({name for row in rows for name in row.metrics}, key=natural):
        shown = metric(name)
        columns[f"{shown.label}{shown.arrow}"] = [_value(name, row.metrics.get(name)) for row in rows]
    body = [
        [variant, at, *stored, *cells]
        for (variant, *stored), at, *cells in zip(_sized(rows), where, *columns.values(), strict=True)
    ]
    variant, *stored = _sized_heads(rows)
    return Table(caption, [variant, "measured on", *stored, *columns], body, 2)


def _sized_heads(rows: Sequence[Row]) -> list[str]:
    return ["variant", *["bytes of the table"] * any(row.table for row in rows)]


def _sized(rows: Sequence[Row]) -> list[list[Cell]]:
    """The first cells of each row: what it is, and the bytes stored where a result knows them."""
    sized = any(row.table for row in rows)
    return [[Cell(label), *[_bytes(row.table)] * sized] for row, label in zip(rows, labels(rows), strict=True)]


def _bytes(count: float | None) -> Cell:
    return Cell(size(count), "", count) if count else EMPTY


def _value(name: str, value: Value | None) -> Cell:
    """A figure to digits of its own: times of a column may lie decades apart."""
    if value is None:
        return EMPTY
    said = size if name in COUNTED else short
    return Cell(said(value.mean), _spread(value, said), value.mean)


def _spread(value: Value, said: Callable[[float], str] = short) -> str:
    return "" if value.spread is None else f"±\u00a0{said(value.spread)} (n\u00a0=\u00a0{value.n})"


def _ratio(row: Row, name: str, other: str, inverse: bool = False) -> Cell:
    """A time over another, or the inverse, and the two."""
    found = ratio(row, other, name) if inverse else ratio(row, name, other)
    if found is None:
        return EMPTY
    times = f"{_milliseconds(row.metrics[name])} vs. {_milliseconds(row.metrics[other])} ms"
    return Cell(short(found.mean), ", ".join(filter(None, [_spread(found), times])), found.mean)


def _milliseconds(value: Value) -> str:
    return f"{value.mean:,.0f}" if value.mean >= 100 else f"{value.mean:.3g}"
