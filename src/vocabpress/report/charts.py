"""Charts of quality against size, one model's rows each, as SVG."""

from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING

from vocabpress.report.axes import (
    COLOURS,
    DASHES,
    LINE_HEIGHT,
    MARKERS,
    Series,
    add_legend,
    add_ratio_axis,
    bar_labels,
    bars_height,
    chart_height,
    cut,
    draw_curves,
    log_limits,
    log_ticks,
    positive,
    recovered_entry,
    say,
    scale_y,
    series,
    styles,
)
from vocabpress.report.console import size
from vocabpress.report.names import metric
from vocabpress.report.rows import Model, same_size
from vocabpress.report.svg import draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BOUND = "Gaussian rate-distortion bound"


@dataclass(frozen=True)
class Chart:
    """A drawing and what a page says around it. `svg` is markup, the others are text."""

    title: str
    svg: str
    caption: str = ""


def rate_distortion(model: Model, name: str) -> Chart | None:
    """Relative error over bits per weight, with the bound; None where no result has both."""
    rows = [row for row in model.compressed if "relative_error" in row.metrics and not model.is_reference(row)]
    rows = [row for row in rows if row.task.startswith("reconstruction")] or rows
    rows = list({(row.curve, row.place): row for row in rows}.values())
    curves = series(rows, lambda row: row.bits_per_weight, "relative_error")
    curves = [positive(curve) for curve in curves if positive(curve).points]
    if not curves:
        return None
    bits = log_limits([x for curve in curves for x, _ in curve.points], least=4)
    bound = [(point["bits_per_weight"], point["relative_error"]) for point in model.details("bound")]
    bound = sorted((at, error) for at, error in bound if at > 0 and error > 0)
    inside = [error for at, error in bound if bits[0] <= at <= bits[1]]
    if not inside and len(curves) > 1 and _at_one_size(curves):
        return None  # a dot for each curve, as `rate_quality` draws them, shows more

    def plot(figure: "Figure") -> None:
        axes = figure.subplots()
        low, high = log_limits([value.mean for curve in curves for _, value in curve.points], least=4)
        ours = [value.mean for curve in curves if not curve.peer for _, value in curve.points]
        if ours:  # peers of many bits would press all else into a corner; the tables have them
            low = max(low, min(ours) / 10)
        axes.set(xscale="log", yscale="log", xlim=bits, xlabel="bits per weight, everything counted")
        axes.set_ylabel("relative error ↓")
        log_ticks(axes.xaxis, bits, 6)
        entries = draw_curves(axes, model.names, curves)
        if inside:  # the bound falls steeply: what is far below the curves is cut off, but not all of it
            line = axes.plot(*zip(*bound, strict=True), color="black", linewidth=1.6, linestyle=(0, (1, 1.2)))
            entries.append((line[0], BOUND))
            low = min([low, max(inside) / 2, *(error / 1.3 for error in inside if error > low / 5)])
        axes.set_ylim(low, high)
        log_ticks(axes.yaxis, (low, high))
        add_ratio_axis(axes, bits, 32, bits_too=False)
        add_legend(figure, entries)

    title = "Rate and distortion"
    height = chart_height(curves, [BOUND] * bool(inside))
    return Chart(title, draw(name, say(title, model, curves), height, plot), _thin(curves))


def rate_quality(model: Model, task: str, metric_name: str, name: str) -> Chart | None:
    """A metric over the bytes of the table; at one size, a dot for each curve.

    None where no row has both, or where all rows have the same, as with counts of tokens.
    """
    shown = metric(metric_name)
    rows = [row for row in model.of(task) if not row.original]
    lines = [("Original", original.mean)] if (original := model.original(task, metric_name)) else []
    lines += [
        (r.label, r.metrics[metric_name].mean) for r in rows if model.is_reference(r) and metric_name in r.metrics
    ]
    curves = series([row for row in rows if not model.is_reference(row)], lambda row: row.table, metric_name)
    title = f"{task}: {shown.label}{shown.arrow}"
    values = [value.mean for curve in curves for _, value in curve.points]
    if not values or (len(values) > 1 and len({*values, *(value for _, value in lines)}) == 1):
        return None
    sizes = [x for curve in curves for x, _ in curve.points]
    if len(curves) > 1 and _at_one_size(curves):
        return _dots(model, curves, lines, (title, shown.better == "lower"), name)
    float32 = next((row.float32 for row in rows if row.float32), None)

    def plot(figure: "Figure") -> None:
        axes = figure.subplots()
        limits = log_limits(sizes, least=4)
        axes.set(xscale="log", xlim=limits, xlabel="bytes of the table", ylabel=f"{cut(shown.label, 34)}{shown.arrow}")
        log_ticks(
            axes.xaxis,
            limits,
            5,
            lambda value: (
                size(value).replace(".00", "").replace("0 ", " ")
                if "." in size(value).replace(".00", "")
                else size(value).replace(".00", "")
            ),
        )
        entries = draw_curves(axes, model.names, curves)
        for (label, value), dash in zip(lines, cycle(DASHES)):
            entries.append((axes.axhline(value, color="black", linewidth=1.3, linestyle=dash, zorder=1), label))
        scale_y(axes, values + [value for _, value in lines])
        if float32:
            add_ratio_axis(axes, limits, float32)
        add_legend(figure, entries)

    height = chart_height(curves, [label for label, _ in lines])
    return Chart(title, draw(name, say(title, model, curves), height, plot), _thin(curves))


def _dots(
    model: Model, curves: list[Series], lines: list[tuple[str, float]], what: tuple[str, bool], name: str
) -> Chart:
    """A metric for each curve, all at about one size, the best first."""
    title, ascending = what
    best = {curve.name: curve.points[0][1].mean for curve in curves}
    for curve in curves:
        best[curve.name] = (min if ascending else max)(best[curve.name], curve.points[0][1].mean)
    order = sorted(best, key=lambda key: best[key] if ascending else -best[key])
    names = bar_labels(order)

    def plot(figure: "Figure") -> None:
        axes = figure.subplots()
        style = styles(model.names) if len(order) <= len(MARKERS) else dict.fromkeys(order, (COLOURS[0], MARKERS[0]))
        for curve in curves:
            colour, marker = style[curve.name]
            for _, value in curve.points:
                axes.errorbar(
                    value.mean, order.index(curve.name), xerr=value.spread, color=colour, marker=marker, capsize=2.5,
                    markerfacecolor="white" if curve.recovered else colour, linestyle="none",
                )  # fmt: skip
        entries = [
            (axes.axvline(value, color="black", linewidth=1.3, linestyle=dash), label)
            for (label, value), dash in zip(lines, cycle(DASHES))
        ]
        axes.set_yticks(range(len(order)), names)
        axes.set(ylim=(len(order) - 0.4, -0.6), xlabel=cut(title.split(": ", 1)[-1], 34))
        axes.locator_params(axis="x", nbins=5)
        axes.tick_params(axis="y", length=0)
        if len(order) > len(MARKERS):
            axes.tick_params(axis="x", top=True, labeltop=True)
        add_legend(figure, entries + recovered_entry(curves))

    height = bars_height(names) + LINE_HEIGHT * (len(lines) + 1)
    sizes = [x for curve in curves for x, _ in curve.points]
    caption = " ".join(filter(None, [f"All tables at about {size(min(sizes))}.", _thin(curves)]))
    return Chart(title, draw(name, say(title, model, curves), height, plot), caption)


def _bytes(count: float) -> str:
    """``500 kB``, ``1.5 MB``."""
    number, unit = size(count).split()
    return f"{float(number):g} {unit}"


def _at_one_size(curves: list[Series]) -> bool:
    sizes = [x for curve in curves for x, _ in curve.points]
    return same_size(min(sizes), max(sizes))


def _thin(curves: list[Series]) -> str:
    return "Thin lines: methods by others." if any(curve.peer for curve in curves) else ""
