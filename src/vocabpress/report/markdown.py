"""The tables of a report as Markdown, for a README."""

import html
from collections.abc import Sequence

from vocabpress.report.rows import Model, Row
from vocabpress.report.speed.section import TITLE, parts
from vocabpress.report.svg import clean
from vocabpress.report.tables import Table, overview, recovery, task_table

SPECIAL = "\\`*_{}[]#|$~"


def to_markdown(models: Sequence[Model], title: str, timings: Sequence[Row] = ()) -> str:
    """The overview, the recovery and every task of each model; then speed and memory.

    Args:
        models: Of a collection.
        title: Of the page.
        timings: Of the same collection.
    """
    pieces = [f"# {escape(title)}"]
    for model in models:
        pieces.append(f"## {escape(model.name)}")
        tables = [overview(model), recovery(model), *(task_table(model, task) for task in model.tasks)]
        for table in tables:
            if table is not None:
                pieces.append(f"### {escape(table.caption)}\n\n{markdown_table(table)}")
    if timings:
        pieces.append(f"## {TITLE}")
    for part in parts(timings):
        pieces.append(f"### {escape(part.title)}\n\n{escape(part.lead)}")
        pieces += [f"{escape(table.caption)}\n\n{markdown_table(table)}" for table in (*part.ratios, part.figures)]
    return "\n\n".join(pieces) + "\n"


def markdown_table(table: Table) -> str:
    """One table, its numbers to the right."""
    rule = ["---" if index < table.text_columns else "---:" for index in range(len(table.heads))]
    body = [[escape(" ".join(filter(None, (cell.text, cell.remark)))) for cell in row] for row in table.rows]
    rows = [[escape(head) for head in table.heads], rule, *body]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def escape(text: str) -> str:
    """Text that Markdown shows as it is: on one line, no markup, no HTML, no end of a cell."""
    marked = "".join(f"\\{character}" if character in SPECIAL else character for character in clean(text))
    return html.escape(marked, quote=False)
