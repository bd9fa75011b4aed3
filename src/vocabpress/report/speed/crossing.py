"""Logits by tables of inner products and by rows decoded in tiles: where the one way crosses the other."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vocabpress.report.axes import PLOT_HEIGHT, add_legend, legend_height, log_limits, log_ticks, styles
from vocabpress.report.charts import Chart
from vocabpress.report.rows import Row
from vocabpress.report.svg import draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WAYS = {"tables": "solid: tables of inner products", "tiles": "dashed, hollow: decoded tiles"}
FEW = "where the reading changes over"


def crossing(rows: Sequence[Row], drawing: str, *, title: str) -> Chart | None:
    """Milliseconds over the number of vectors, two curves for each form; of one place. None where no row has them."""
    curves = {(row.label, way): points for row in rows for way in WAYS if (points := _points(row, way))}
    if not curves:
        return None
    names = list(dict.fromkeys(name for name, _ in curves))
    few = next((at for row in rows if isinstance(at := row.results[0].settings.get("few"), int) and at > 0), None)

    def plot(figure: "Figure") -> None:
        from matplotlib.lines import Line2D

        axes = figure.subplots()
        entries: dict[str, Any] = {}
        for (name, way), points in curves.items():
            colour, marker = styles(names)[name]
            (line,) = axes.plot(
                *zip(*points, strict=True), color=colour, marker=marker, markersize=5.5, linewidth=1.7,
                linestyle="-" if way == "tables" else "--", markerfacecolor=colour if way == "tables" else "white",
            )  # fmt: skip
            entries.setdefault(name, line)
        if few:
            entries[FEW] = axes.axvline(few, color="black", linewidth=1.3, linestyle="--", zorder=1)
        for way, label in WAYS.items():
            filled: Any = {"linestyle": "-"} if way == "tables" else {"linestyle": "--", "markerfacecolor": "white"}
            entries[label] = Line2D([], [], color="#444444", marker="o", **filled)
        limits = [log_limits([point[at] for points in curves.values() for point in points], least=4) for at in (0, 1)]
        axes.set(xscale="log", yscale="log", xlim=limits[0], ylim=limits[1], xlabel="vectors", ylabel="milliseconds ↓")
        axes.set_xticks(counts := sorted({at for points in curves.values() for at, _ in points}), map(str, counts))
        axes.set_xticks([], minor=True)
        log_ticks(axes.yaxis, limits[1])
        add_legend(figure, [(handle, name) for name, handle in entries.items()])

    legend = [*names, *[FEW] * bool(few), *WAYS.values()]
    said = f"{title}: {', '.join(names)}, by tables of inner products and by decoded tiles"
    return Chart(title, draw(drawing, said, PLOT_HEIGHT + legend_height(legend), plot))


def _points(row: Row, way: str) -> list[tuple[int, float]]:
    """(vectors, milliseconds) of one way."""
    found = [(re.fullmatch(rf"{way}_(\d+)_ms", name), value.mean) for name, value in row.metrics.items()]
    return sorted((int(match[1]), time) for match, time in found if match and int(match[1]) and time > 0)
