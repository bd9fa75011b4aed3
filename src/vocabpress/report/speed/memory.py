"""Memory: of compressing a checkpoint, beside its bytes, and of a loaded table, beside its file."""

from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING

from vocabpress.report.axes import (
    COLOURS,
    DASHES,
    add_legend,
    bar_labels,
    bars_height,
    legend_height,
    log_ticks,
)
from vocabpress.report.charts import Chart
from vocabpress.report.rows import Row
from vocabpress.report.speed.dots import put_names, put_numbers, steps
from vocabpress.report.speed.timed import count_of, labels
from vocabpress.report.svg import draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OWN, FILES = "memory of its own", "with pages of mapped files"
KNOWN = {"table_before": "the table", "limit": "the limit that was set", "model_before": "the whole checkpoint"}
FILE, DENSE = "the file", "the dense table in float32"


def peaks(rows: Sequence[Row], drawing: str, *, title: str) -> Chart | None:
    """Bars of peak memory, beside lines at the bytes of the table and of the checkpoint; of one place."""
    shown = [(row, label) for row, label in zip(rows, labels(rows), strict=True) if "anonymous" in row.metrics]
    if not shown:
        return None
    names = bar_labels(label for _, label in shown)
    counts = {label: max((count_of(row, key) or 0 for row, _ in shown), default=0) for key, label in KNOWN.items()}
    lines = {label: count for label, count in counts.items() if count}
    own = [row.metrics["anonymous"].mean for row, _ in shown]
    files = [row.metrics["resident"].mean if "resident" in row.metrics else 0.0 for row, _ in shown]
    unit, factor = ("GB", 1e9) if max(own) >= 1e9 else ("MB", 1e6)

    def plot(figure: "Figure") -> None:
        axes = figure.subplots()
        entries = []
        bars = [(OWN, own, 1.0), (FILES, files, 0.3)] if any(files) else [(OWN, own, 1.0)]
        for label, values, alpha in bars:
            widths = [value / factor for value in values]
            drawn = axes.barh(range(len(shown)), widths, color=COLOURS[0], alpha=alpha, height=0.6, linewidth=0)
            entries.append((drawn, label))
        for (label, count), dash in zip(lines.items(), cycle((":", *DASHES))):
            entries.append((axes.axvline(count / factor, color="black", linewidth=1.3, linestyle=dash), label))
        axes.set(xlabel=f"{unit} ↓", xlim=(0, max([*own, *files, *lines.values()]) * 1.05 / factor))
        put_names(axes, names)
        add_legend(figure, entries)

    height = bars_height(names) + legend_height([OWN, FILES, *lines])
    said = f"{title} of compressing: {', '.join(label for _, label in shown)}"
    return Chart(title, draw(drawing, said, height, plot))


def over_file(rows: Sequence[Row], drawing: str, *, title: str) -> Chart | None:
    """A dot for each way of reading: memory over the file's bytes, between the file itself and the dense table."""
    name = "memory_over_file"
    named = zip(rows, labels(rows), strict=True)
    shown = [(row, label) for row, label in named if name in row.metrics and row.metrics[name].mean > 0]
    if not shown:
        return None
    names = bar_labels(label for _, label in shown)
    values = [row.metrics[name].mean for row, _ in shown]
    sizes = [(count_of(row, "table_before"), row.table) for row, _ in shown]
    dense = [before / table if before and table else float("nan") for before, table in sizes]
    known = [value for value in dense if value == value]  # without NaN

    def plot(figure: "Figure") -> None:
        axes = figure.subplots()
        limits = min([1.0, *values]) / 1.3, max([1.0, *values, *known]) * 1.3
        axes.set(xscale="log", xlim=limits, xlabel="memory over the file's bytes ↓")
        log_ticks(axes.xaxis, limits, 5)
        line = axes.axvline(1, color="#444444", linewidth=1.6, zorder=1.5)
        entries = [(line, FILE)]
        if known:
            entries.append((axes.plot(*steps(dense), color="black", linewidth=1.3, linestyle="--")[0], DENSE))
        for at, value in enumerate(values):
            axes.plot([1, value], [at, at], color=COLOURS[0], linewidth=1.6, alpha=0.45)
        axes.plot(values, range(len(values)), color=COLOURS[0], marker="o", markersize=6.5, linestyle="none")
        put_names(axes, names)
        put_numbers(axes, values)
        add_legend(figure, entries)

    height = bars_height(names) + legend_height([FILE, *[DENSE] * bool(known)])
    said = f"{title}, over its file: {', '.join(label for _, label in shown)}"
    return Chart(title, draw(drawing, said, height, plot))
