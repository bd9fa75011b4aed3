"""One call on every form of a table, its time between what memory allows and what the dense table takes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vocabpress.report.axes import COLOURS, add_legend, bar_labels, bars_height, legend_height, log_ticks
from vocabpress.report.charts import Chart
from vocabpress.report.console import size
from vocabpress.report.rows import Row
from vocabpress.report.speed.dots import put_names, put_numbers, steps
from vocabpress.report.speed.timed import pairs, place, ratio
from vocabpress.report.svg import draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FASTER, SLOWER = "faster than dense", "slower than dense"
DENSE, FLOOR = "dense table", "bandwidth floor: one read of the bytes"
LOOKS = {FASTER: (COLOURS[0], "o"), SLOWER: (COLOURS[1], "s")}


def beside_dense(rows: Sequence[Row], drawing: str, *, title: str, name: str, floor: str = "") -> Chart | None:
    """A dot for each form, the smallest table first, between two lines: the floor, and the dense table.

    Args:
        rows: Of one place.
        drawing: Id of the drawing.
        title: Of the chart.
        name: The time to draw, a metric.
        floor: That of the floor; forms without it have none.

    Returns:
        None where no row has both the time and its dense peer's.
    """
    dense = pairs(rows).get(name, "")
    shown = sorted((row for row in rows if ratio(row, name, dense)), key=lambda row: row.table or 0)
    if not shown:
        return None
    names, speedups = _labels(shown), [value.mean for row in shown if (value := ratio(row, dense, name))]
    times, peers = ([row.metrics[key].mean for row in shown] for key in (name, dense))
    floors = [row.metrics[floor].mean if floor in row.metrics else float("nan") for row in shown]
    floors = [least if least > 0 else float("nan") for least in floors]
    known = [least for least in floors if least == least]  # without the NaN of forms that have none
    dtype = place(shown[0].results[0]).dtype
    peer = f"{DENSE}, {dtype}" if dtype else DENSE
    kinds = [FASTER if time < other else SLOWER for time, other in zip(times, peers, strict=True)]

    def plot(figure: "Figure") -> None:
        axes = figure.subplots()
        limits = min(times + peers + known) / 1.6, max(times + peers) * 1.6
        axes.set(xscale="log", xlim=limits, xlabel="milliseconds ↓")
        entries = _lines(axes, floors if known else [], peers, peer)
        log_ticks(axes.xaxis, limits, 4)
        for at, (time, least, kind) in enumerate(zip(times, floors, kinds, strict=True)):
            colour, marker = LOOKS[kind]
            axes.plot([least, time], [at, at], color=colour, linewidth=1.6, alpha=0.45)
            dot = axes.plot(time, at, color=colour, marker=marker, markersize=6.5, linestyle="none")
            entries += [(dot[0], kind)] if kind not in [label for _, label in entries] else []
        put_names(axes, names)
        put_numbers(axes, speedups, "speed-up ↑")
        add_legend(figure, entries)

    legend = [*dict.fromkeys(kinds), peer, *[FLOOR] * bool(known)]
    height = bars_height(names) + legend_height(legend)
    said = f"{title}: {', '.join(row.label for row in shown)}, beside the dense table" + " and the floor" * bool(known)
    caption = "The smallest table first; at the right, the speed-up over the dense table in the same run."
    return Chart(title, draw(drawing, said, height, plot), caption)


def _labels(rows: Sequence[Row]) -> list[str]:
    """Names to stand beside dots, and under each the bytes stored."""
    names = bar_labels(row.label for row in rows)
    return [f"{name}\n{size(row.table)}" if row.table else name for name, row in zip(names, rows, strict=True)]


def _lines(axes: "Axes", floors: Sequence[float], peers: Sequence[float], peer: str) -> list[tuple[Any, str]]:
    """The floor, below which nothing can be, and the dense table: steps, since each form was timed beside its own."""
    entries = []
    if floors:
        x, edges = steps(floors)
        line = axes.plot(x, edges, color="#444444", linewidth=1.6, zorder=1.5)
        axes.fill_betweenx(edges, 0, x, color="#888888", alpha=0.18, linewidth=0)
        entries.append((line[0], FLOOR))
    line = axes.plot(*steps(peers), color="black", linewidth=1.3, linestyle="--", zorder=1.5)
    return [*entries, (line[0], peer)]
