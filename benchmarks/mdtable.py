"""Markdown tables of the docs, and the folder of their figures."""

from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def table(headers: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, the first column aligned left."""
    rule = ["---", *["---:"] * (len(headers) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [headers, rule, *rows]) + "\n"
