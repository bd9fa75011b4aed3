"""Tables of timings: ratios to the dense peers, and every figure as it was measured."""

from collections.abc import Callable, Sequence

from vocabpress.report.console import size
from vocabpress.report.names import metric, short
from vocabpress.report.rows import Row, Value
from vocabpress.report.speed.timed import by_place, natural, pairs, place, place_names, ratio, time_name
from vocabpress.report.tables import EMPTY, Cell, Table

FLOOR = "floor_ms"


def ratios(rows: Sequence[Row], over_floor: str = "") -> list[Table]:
    """Each time over that of the dense peer in the same run: a table for each place where some metric has one.

    Args:
        rows: Of one task.
        over_floor: The time that is also shown over the floor, the least that reading the bytes takes.
    """
    places = by_place(rows)
    names = place_names(list(places))
    found = []
    for at, members in places.items():
        columns = [(f"{time_name(name)}\u00a0↓", name, dense) for name, dense in pairs(members).items()]
        if any(ratio(row, over_floor, FLOOR) for row in members):
            columns.append((f"{time_name(over_floor)}, over the floor\u00a0↓", over_floor, FLOOR))
        caption = f"Time over the dense peer's in the same run{': ' * bool(names[at])}{names[at]}"
        cells = [[_ratio(row, name, other) for row in members] for _, name, other in columns]
        body = [[*sized, *(column[index] for column in cells)] for index, sized in enumerate(_sized(members))]
        if columns:
            heads = [*_sized_heads(members), *(head for head, _, _ in columns)]
            found.append(Table(caption, heads, body))
    return found


def figures(rows: Sequence[Row], caption: str) -> Table:
    """Every metric of a task, as it was measured."""
    places = [place(row.results[0]) for row in rows]
    where = [Cell(place_names(places)[at] or "–") for at in places]
    names = sorted({name for row in rows for name in row.metrics}, key=natural)
    body = [
        [sized[0], at, *sized[1:], *(_value(name, row.metrics.get(name)) for name in names)]
        for row, at, sized in zip(rows, where, _sized(rows), strict=True)
    ]
    heads = [f"{metric(name).label}{metric(name).arrow}" for name in names]
    variant, *stored = _sized_heads(rows)
    return Table(caption, [variant, "measured on", *stored, *heads], body, 2)


def _sized_heads(rows: Sequence[Row]) -> list[str]:
    return ["variant", *["bytes of the table"] * any(row.table for row in rows)]


def _sized(rows: Sequence[Row]) -> list[list[Cell]]:
    """The first cells of each row: what it is, and the bytes stored where a result knows them."""
    cells = []
    for row in rows:
        asked = row.results[0].settings.get("ratio")
        stored = Cell(size(row.table), "", row.table) if row.table else EMPTY
        variant = Cell(row.label, f"ratio {asked:g}" if isinstance(asked, int | float) else "")
        cells.append([variant, *[stored] * (len(_sized_heads(rows)) - 1)])
    return cells


def _value(name: str, value: Value | None) -> Cell:
    """A figure to digits of its own: times of a column may lie decades apart."""
    if value is None:
        return EMPTY
    said = size if name.endswith("bytes") else short
    return Cell(said(value.mean), _spread(value, said), value.mean)


def _spread(value: Value, said: Callable[[float], str] = short) -> str:
    return "" if value.spread is None else f"±\u00a0{said(value.spread)} (n\u00a0=\u00a0{value.n})"


def _ratio(row: Row, name: str, other: str) -> Cell:
    """A ratio, and what it is a ratio of."""
    found = ratio(row, name, other)
    if found is None:
        return EMPTY
    times = f"{_milliseconds(row.metrics[name])} of {_milliseconds(row.metrics[other])} ms"
    return Cell(short(found.mean), ", ".join(filter(None, [_spread(found), times])), found.mean)


def _milliseconds(value: Value) -> str:
    return f"{value.mean:,.0f}" if value.mean >= 100 else f"{value.mean:.3g}"
