"""Rows as tables of text, for pages and Markdown alike."""

from dataclasses import dataclass

from vocabpress.report.console import size
from vocabpress.report.names import figure, metric, places, short
from vocabpress.report.rows import Model, Row, Value


@dataclass(frozen=True)
class Cell:
    """A cell: its text, a remark in small print, and the number that it sorts by, None where it is text or empty."""

    text: str
    remark: str = ""
    number: float | None = None


@dataclass(frozen=True)
class Table:
    """A table; the first `text_columns` columns are text, the others numbers."""

    caption: str
    heads: list[str]
    rows: list[list[Cell]]
    text_columns: int = 1


EMPTY = Cell("–")
OVER_BOUND = "dB over the bound\u00a0↓"  # Model.over_bound


def overview(model: Model) -> Table:
    """One line for each table of the model, compressed or not; one column for each task, its headline."""
    columns = [(task, model.metrics(task)[0]) for task in model.tasks if model.metrics(task)]
    lines: dict[tuple[str, str | None, str], dict[str, Row]] = {}
    for row in model.rows:
        lines.setdefault((*row.curve, row.place), {}).setdefault(row.task, row)
    firsts = [next(iter(line.values())) for line in lines.values()]
    heads = [*SIZE_HEADS, *(f"{task}: {metric(name).label}{metric(name).arrow}" for task, name in columns)]
    values = [
        value_cells([line[task].metrics.get(name) if task in line else None for line in lines.values()])
        for task, name in columns
    ]
    sizes = [size_cells(row) for row in firsts]
    rows = [[*sized, *(column[index] for column in values)] for index, sized in enumerate(sizes)]
    rows = [*_original(model, columns), *rows]
    return Table("One line for each table, one figure for each task", heads, rows)


def _original(model: Model, columns: list[tuple[str, str]]) -> list[list[Cell]]:
    """A line of an original that has no row of its own: what the results of the compressed say of it.

    Charts draw it, so a table has it, too.
    """
    if any(row.original for row in model.rows):
        return []
    known = [model.original(task, name) for task, name in columns]
    if not any(known):
        return []
    return [[Cell("original"), EMPTY, EMPTY, EMPTY, *(value_cells([value])[0] for value in known)]]


SIZE_HEADS = ["method", "table", "ratio to float32", "bits per weight"]


def task_table(model: Model, task: str) -> Table:
    """All metrics of a task."""
    names = model.metrics(task)
    rows = model.of(task)
    heads = [*SIZE_HEADS, *(f"{metric(name).label}{metric(name).arrow}" for name in names), "seconds"]
    values = [value_cells([row.metrics.get(name) for row in rows]) for name in names]
    first = _original(model, [(task, name) for name in names])
    gaps = [model.over_bound(row) for row in rows]
    if any(gaps):
        heads.insert(-1, OVER_BOUND)
        values.append(value_cells(gaps))
    seconds = [sum(result.seconds for result in row.results) for row in rows]
    body = [
        [*size_cells(row), *(column[index] for column in values), Cell(f"{seconds[index]:,.1f}", "", seconds[index])]
        for index, row in enumerate(rows)
    ]
    beside = len(heads) - len(first[0]) if first else 0  # columns after the metrics
    return Table(task, heads, [*([*line, *[EMPTY] * beside] for line in first), *body])


def recovery(model: Model) -> Table | None:
    """Each headline before and after recovery, one line for each table; None where nothing was recovered."""
    lines: dict[tuple[str, str | None, str], dict[str, tuple[Row, Row]]] = {}
    for before, after in model.pairs():
        lines.setdefault((*after.curve, after.place), {})[after.task] = before, after
    columns = [(task, *model.metrics(task)[:1]) for task in model.tasks if any(task in line for line in lines.values())]
    cells = [_changes([line.get(task) for line in lines.values()], *name) for task, *name in columns if name]
    heads = [f"{task}: {metric(name[0]).label}{metric(name[0]).arrow}" for task, *name in columns if name]
    rows = []
    for index, line in enumerate(lines.values()):
        after = next(iter(line.values()))[1]
        name = after.name if after.recovered == "recovered" else after.label
        rows.append([Cell(name), *size_cells(after)[1:3], *(column[index] for column in cells)])
    caption = "Before → after recovery; columns sort by the change"
    return Table(caption, [*SIZE_HEADS[:3], *heads], rows) if heads else None


def _changes(pairs: list[tuple[Row, Row] | None], name: str) -> list[Cell]:
    """A column of a metric before and after."""
    values = [
        (before.metrics[name].mean, after.metrics[name].mean)
        for before, after in filter(None, pairs)
        if name in before.metrics and name in after.metrics
    ]
    decimals = places([value for pair in values for value in pair])
    cells = []
    for pair in pairs:
        if pair is None or any(name not in row.metrics for row in pair):
            cells.append(EMPTY)
            continue
        before, after = (row.metrics[name].mean for row in pair)
        better = {"lower": after < before, "higher": after > before}.get(metric(name).better or "")
        verdict = "" if better is None or after == before else ", better" if better else ", worse"
        remark = (
            f"{figure(after - before, decimals) if after < before else f'+{figure(after - before, decimals)}'}{verdict}"
        )
        cells.append(Cell(f"{figure(before, decimals)} → {figure(after, decimals)}", remark, after - before))
    return cells


def storage(model: Model) -> Table | None:
    """Every saved tensor of the tables at the common size; None where no result lists them."""
    rows = []
    for row in {row.curve: row for row in model.at_common_size(model.rows) if row.details("storage")}.values():
        items = row.details("storage")
        total = sum(item["bytes"] for item in items)
        for item in items:
            share = item["bytes"] / total if total else 0.0
            cells = [Cell(row.label), Cell(str(item["name"])), Cell(str(item.get("dtype", "")))]
            rows.append([*cells, Cell(f"{item['bytes']:,}", "", item["bytes"]), Cell(f"{share:.1%}", "", share)])
    heads = ["method", "tensor", "dtype", "bytes", "share"]
    return Table("Saved tensors", heads, rows, 3) if rows else None


def size_cells(row: Row) -> list[Cell]:
    """Method, bytes, ratio and bits per weight of a row."""
    remarks = ["by others"] * row.peer
    return [
        Cell(row.label, ", ".join(remarks)),
        Cell(size(row.table), "", row.table) if row.table else EMPTY,
        Cell(f"{row.ratio:.2f}", "", row.ratio) if row.ratio else EMPTY,
        Cell(short(row.bits_per_weight), "", row.bits_per_weight) if row.bits_per_weight else EMPTY,
    ]


def value_cells(values: list[Value | None]) -> list[Cell]:
    """A column of a metric, all its numbers to as many decimals: the mean, and spread and n where there are seeds."""
    decimals = places([value.mean for value in values if value is not None])
    cells = []
    for value in values:
        if value is None:
            cells.append(EMPTY)
            continue
        spread = (
            "" if value.spread is None else f"±\u00a0{figure(value.spread, max(decimals, 1))} (n\u00a0=\u00a0{value.n})"
        )
        cells.append(Cell(figure(value.mean, decimals), spread, value.mean))
    return cells
