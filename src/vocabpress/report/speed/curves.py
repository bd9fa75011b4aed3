"""Times and memory as something grows: rows of the table, vectors, tokens."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vocabpress.report.axes import (
    Series,
    add_legend,
    chart_height,
    draw_curves,
    log_limits,
    log_ticks,
    scale_y,
)
from vocabpress.report.charts import Chart
from vocabpress.report.console import size
from vocabpress.report.names import metric
from vocabpress.report.rows import Row
from vocabpress.report.speed.timed import COUNTED, labels, pairs, place, ratio, time_name
from vocabpress.report.svg import draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINEAR = "dotted: as the rows grow"
TABLE = "the table in float32"
ORIGINAL = "Original"
MOST_TICKS = 6


def forward_passes(rows: Sequence[Row], drawing: str, *, title: str) -> Chart | None:
    """Time over the original model's by size of the batch, a curve for each way of reading; of one place."""
    names = [name for name in pairs(rows) if name.startswith("ms_")]
    curves = []
    for row, label in zip(rows, labels(rows), strict=True):
        found = [(float(at), ratio(row, name, pairs([row]).get(name, ""))) for at, name in enumerate(names)]
        points = [(at, value) for at, value in found if value is not None]
        curves += [Series(label, None, row.peer, points)] if points else []
    if not curves:
        return None

    def plot(figure: "Figure") -> None:
        axes = figure.subplots()
        entries = draw_curves(axes, [curve.name for curve in curves], curves)
        entries.append((axes.axhline(1, color="black", linewidth=1.3, linestyle="--", zorder=1), ORIGINAL))
        axes.set_xticks(range(len(names)), [time_name(name) for name in names])
        axes.set(xlabel="sequences x tokens of a batch", ylabel="time over the original's ↓")
        axes.set_xlim(-0.3, len(names) - 0.7)
        scale_y(axes, [1.0, *(value.mean for curve in curves for _, value in curve.points)])
        add_legend(figure, entries)

    said = f"{title}: {', '.join(curve.name for curve in curves)}, over the original model"
    return Chart(title, draw(drawing, said, chart_height(curves, [ORIGINAL]), plot))


def growth(rows: Sequence[Row], drawing: str, *, title: str, name: str) -> Chart | None:
    """A metric of fits over the rows of the table, both axes logarithmic, a curve for each method and ratio.

    Seconds have a dotted guide from each curve's first point, of slope one; memory over the table has a line at the
    table itself; a working set, in bytes, should be flat and needs neither.
    """
    curves = fits(rows, name)
    if not curves:
        return None
    over_table, shown, guides = name.endswith("_over_table"), metric(name), name == "seconds"
    counts = sorted({x for curve in curves for x, _ in curve.points})
    values = [value.mean for curve in curves for _, value in curve.points] + [1.0] * over_table

    def plot(figure: "Figure") -> None:
        axes = figure.subplots()
        limits = log_limits(counts, least=4)
        heights = log_limits(values, least=4)
        axes.set(xscale="log", yscale="log", xlim=limits, ylim=heights)
        axes.set(xlabel="rows of the table", ylabel=f"{shown.label}{shown.arrow}")
        if len(counts) > MOST_TICKS:
            log_ticks(axes.xaxis, limits, MOST_TICKS, _rows)
        else:
            axes.xaxis.set_ticks(counts, [_rows(count) for count in counts])
            axes.xaxis.set_ticks([], minor=True)
        log_ticks(axes.yaxis, heights, label=size if name in COUNTED else "{:g}".format)
        entries = draw_curves(axes, [curve.name for curve in curves], curves)
        if over_table:
            entries.append((axes.axhline(1, color="black", linewidth=1.3, linestyle="--", zorder=1), TABLE))
        if guides:
            entries.append((_guides(axes, curves, limits[1]), LINEAR))
        add_legend(figure, entries)

    height = chart_height(curves, [TABLE] * over_table + [LINEAR] * guides)
    said = f"{title} over the rows of the table: {', '.join(curve.name for curve in curves)}"
    return Chart(title, draw(drawing, said, height, plot))


def fits(rows: Sequence[Row], name: str) -> list[Series]:
    """The curves of a metric over the rows of the table; ratios join the names where there are several."""
    curves: dict[str, Series] = {}
    for row, label in zip(rows, labels(rows), strict=True):
        count = place(row.results[0]).rows
        if count and count > 0 and name in row.metrics and row.metrics[name].mean > 0:
            curves.setdefault(label, Series(label, None, row.peer, [])).points.append((count, row.metrics[name]))
    for curve in curves.values():
        curve.points.sort(key=lambda point: point[0])
    return list(curves.values())


def _guides(axes: "Axes", curves: Sequence[Series], end: float) -> Any:
    """What the first point of each curve would grow to if its time were proportional to the rows."""
    line: Any = None
    for curve in curves:
        start, value = curve.points[0]
        ends = [start, end], [value.mean, value.mean * end / start]
        (line,) = axes.plot(*ends, color="#444444", linewidth=1.1, linestyle=":", zorder=1.5)
    return line


def _rows(count: float) -> str:
    """``16k`` for 16,384, ``1.05M`` for 1,048,576."""
    return f"{count / 1e6:.3g}M" if count >= 1e6 else f"{count / 1e3:.3g}k" if count >= 1e3 else f"{count:g}"
