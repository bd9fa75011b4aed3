"""Data frames as tables of text, for pages and Markdown alike."""

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from vocabpress.report.frame import Model
from vocabpress.report.names import figure, metric, places, short, size

SPECIAL = "\\`*_{}[]#|$~"  # characters that mean something in Markdown


@dataclass(frozen=True)
class SheetCell:
    """A cell: its text, a remark in small print, and the number that it sorts by, None where it is text or empty."""

    text: str
    remark: str = ""
    number: float | None = None


@dataclass(frozen=True)
class Sheet:
    """A table; the first `text_columns` columns are text, the others numbers."""

    caption: str
    heads: list[str]
    rows: list[list[SheetCell]]
    text_columns: int = 1


EMPTY = SheetCell("–")
SIZE_HEADS = ["method", "table", "ratio to float32", "bits per weight"]


def overview(model: Model) -> Sheet:
    """One line for each table of the model, compressed or not; one column for each task, its headline."""
    lines = model.rows.drop_duplicates(["label", "asked"])
    keys = list(zip(lines.label, lines.asked, strict=True))
    columns = {}
    for task in model.tasks:
        for name in model.metrics(task)[:1]:
            found = model.of(task, name).drop_duplicates(["label", "asked"]).set_index(["label", "asked"])
            columns[f"{task}: {metric(name).head}"] = value_cells(found, keys)
    return _table("One line for each table, one figure for each task", lines, columns)


def task_sheet(model: Model, task: str) -> Sheet:
    """All metrics of a task."""
    lines = model.rows[model.rows.task == task]
    columns = {
        metric(n).head: value_cells(model.of(task, n).set_index("row"), lines.index) for n in model.metrics(task)
    }
    columns["seconds"] = [SheetCell(f"{seconds:,.1f}", "", seconds) if seconds else EMPTY for seconds in lines.seconds]
    return _table(task, lines, columns)


def _table(caption: str, lines: Any, columns: dict[str, list[SheetCell]]) -> Sheet:
    """A table whose first columns say which compressed table a line is of."""
    sized = [size_cells(line) for line in lines.itertuples()]
    rows = [[*cells, *(column[index] for column in columns.values())] for index, cells in enumerate(sized)]
    return Sheet(caption, [*SIZE_HEADS, *columns], rows)


def recovery(model: Model) -> Sheet | None:
    """Each headline before and after recovery, one line for each table; None where nothing was recovered."""
    found = model.recovered()
    found = found[[name == model.metrics(task)[0] for task, name in zip(found.task, found.metric, strict=True)]]
    if found.empty:
        return None
    lines = found.drop_duplicates(["label", "asked"])
    columns: dict[str, list[SheetCell]] = {}
    for task in (task for task in model.tasks if task in set(found.task)):
        own = found[found.task == task]
        name, by_line = own.metric.iloc[0], own.set_index(["label", "asked"])
        decimals = places([*own["before"], *own["mean"]])
        columns[f"{task}: {metric(name).head}"] = [
            _change(by_line.loc[key], metric(name).better, decimals) if key in by_line.index else EMPTY
            for key in zip(lines.label, lines.asked, strict=True)
        ]
    table = _table("Before → after recovery; columns sort by the change", lines, columns)
    one_way = set(lines.recovered) == {"recovered"}
    names = [SheetCell(name) for name in (lines["name"] if one_way else lines.label)]
    return Sheet(table.caption, table.heads, [[name, *row[1:]] for name, row in zip(names, table.rows, strict=True)])


def _change(values: Any, better: str | None, decimals: int) -> SheetCell:
    before, after = float(values["before"]), float(values["mean"])
    change = figure(after - before, decimals)
    verdict = {"lower": after < before, "higher": after > before}.get(better or "")
    words = "" if verdict is None or after == before else ", better" if verdict else ", worse"
    remark = f"{'' if after < before else '+'}{change}{words}"
    return SheetCell(f"{figure(before, decimals)} → {figure(after, decimals)}", remark, after - before)


def saved_tensors(model: Model) -> Sheet | None:
    """Every saved tensor of the tables at the common size; None where no result lists them."""
    rows = []
    for line, items in model.detailed("storage"):
        total = sum(item["bytes"] for item in items)
        for item in items:
            share = item["bytes"] / total if total else 0.0
            cells = [SheetCell(str(line.label)), SheetCell(str(item["name"])), SheetCell(str(item.get("dtype", "")))]
            rows.append(
                [*cells, SheetCell(f"{item['bytes']:,}", "", item["bytes"]), SheetCell(f"{share:.1%}", "", share)]
            )
    return Sheet("Saved tensors", ["method", "tensor", "dtype", "bytes", "share"], rows, 3) if rows else None


def size_cells(line: Any) -> list[SheetCell]:
    """Method, bytes, ratio and bits per weight of a row."""
    shown = ((line.table, size), (line.ratio, "{:.2f}".format), (line.bits, short))
    cells = [EMPTY if math.isnan(number) else SheetCell(say(number), "", float(number)) for number, say in shown]
    return [SheetCell(line.label, "by others" if line.peer else ""), *cells]


def value_cells(values: Any, keys: Iterable[Any]) -> list[SheetCell]:
    """A column of a metric, all its numbers to as many decimals: the mean, and spread and n where there are seeds.

    There is a cell for each key, empty where the frame's index lacks it.
    """
    decimals = places(values["mean"])
    known = values[["mean", "spread", "n"]].T.to_dict("list")
    cells = []
    for mean, spread, n in (known.get(key, (math.nan, math.nan, 0)) for key in keys):
        remark = "" if n < 2 else f"±\u00a0{figure(spread, max(decimals, 1))} (n\u00a0=\u00a0{n:.0f})"
        cells.append(EMPTY if math.isnan(mean) else SheetCell(figure(mean, decimals), remark, float(mean)))
    return cells


def to_markdown(models: Sequence[Model], title: str) -> str:
    """The overview, the recovery and every task of each model, for a README."""
    pieces = [f"# {escape(title)}"]
    for model in models:
        pieces.append(f"## {escape(model.title)}")
        tables = [overview(model), recovery(model), *(task_sheet(model, task) for task in model.tasks)]
        pieces += [f"### {escape(table.caption)}\n\n{markdown_sheet(table)}" for table in tables if table is not None]
    return "\n\n".join(pieces) + "\n"


def markdown_sheet(table: Sheet) -> str:
    """One table, its numbers to the right."""
    rule = ["---" if index < table.text_columns else "---:" for index in range(len(table.heads))]
    body = [[escape(" ".join(filter(None, (cell.text, cell.remark)))) for cell in row] for row in table.rows]
    rows = [[escape(head) for head in table.heads], rule, *body]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def escape(text: str) -> str:
    """Text that Markdown shows as it is: on one line, no markup, no HTML, no end of a cell."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return html.escape("".join(f"\\{c}" if c in SPECIAL else c for c in line), quote=False)
