"""What the charts share: curves in one style, legends below, round ticks on log axes."""

import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vocabpress.report.rows import Model, Row, Value
from vocabpress.report.svg import clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito, "Color universal design", 2008, without the yellow, which white swallows; black is the original's.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
RATIOS = (1, 2, 4, 8, 16, 25, 50, 100, 200, 400, 800, 1600)  # that a second axis marks
DASHES = ("--", "-.", ":")
OTHERS = ("#b5b5b5", ".")
MOST_NAMED = 16  # names in a legend
PLOT_HEIGHT = 2.9  # inches, axis labels included, legend not
LINE_HEIGHT = 0.2  # inches of a legend's line
NAME_WIDTH = 44  # characters of a legend's line; two columns where all names fit half of it
LABEL_WIDTH = 20  # characters of a name beside a bar


@dataclass(frozen=True)
class Series:
    """Points of one curve: (x, value), by x."""

    name: str
    recovered: str | None
    peer: bool
    points: list[tuple[float, Value]]

    @property
    def label(self) -> str:
        """For the legend."""
        return f"{self.name}, {self.recovered}" if self.recovered else self.name


def series(rows: Iterable[Row], x: Callable[[Row], float | None], name: str) -> list[Series]:
    """The curves of a metric; rows without it or without a size are left out."""
    found: dict[tuple[str, str | None], Series] = {}
    for row in rows:
        at = x(row)
        if at and name in row.metrics:
            curve = found.setdefault(row.curve, Series(row.name, row.recovered, row.peer, []))
            curve.points.append((at, row.metrics[name]))
    for curve in found.values():
        curve.points.sort(key=lambda point: point[0])
    return list(found.values())


def styles(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each name: the same in all charts that are given the same names."""
    return {name: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(names)}


def draw_curves(axes: "Axes", names: Sequence[str], curves: list[Series]) -> list[tuple[Any, str]]:
    """Lines with error bars; gives the entries of a legend, one for each name that has a colour."""
    named = _named(curves)
    style = {name: look for name, look in styles(names).items() if name in named}
    entries: dict[str, Any] = {}
    for curve in sorted(curves, key=lambda curve: curve.name in named):  # grey ones lie below
        colour, marker = style.get(curve.name, OTHERS)
        x, values = zip(*curve.points, strict=True)
        spreads = [value.spread or 0 for value in values]
        drawn = axes.errorbar(
            x, [value.mean for value in values], yerr=spreads if any(spreads) else None,
            color=colour, marker=marker, markersize=5.5, capsize=2.5, markeredgewidth=1.3,
            linewidth=1.0 if curve.peer else 1.7, linestyle="--" if curve.recovered else "-",
            markerfacecolor="white" if curve.recovered else colour,
        )  # fmt: skip
        name = curve.name if curve.name in named else _others(curves)
        if name not in entries or not curve.recovered:
            entries[name] = drawn[0]  # the line without the error bars
    return [(entries[name], name) for name in _legend_names(curves)] + recovered_entry(curves)


def _named(curves: Sequence[Series]) -> list[str]:
    """The names that get a colour of their own: where there are too many, those of the longest curves."""
    lengths: dict[str, int] = {}
    for curve in curves:
        lengths[curve.name] = lengths.get(curve.name, 0) + len(curve.points)
    kept = sorted(lengths, key=lambda name: -lengths[name])[:MOST_NAMED]
    return [name for name in lengths if name in kept]


def _others(curves: Sequence[Series]) -> str:
    rest = len({curve.name for curve in curves}) - len(_named(curves))
    return f"{rest} others, named in the tables"


def _legend_names(curves: Sequence[Series]) -> list[str]:
    named = _named(curves)
    return named + [_others(curves)] * (len(named) < len({curve.name for curve in curves}))


def recovered_entry(curves: Sequence[Series]) -> list[tuple[Any, str]]:
    """The legend's line that says how recovered tables are drawn."""
    if not any(curve.recovered for curve in curves):
        return []
    from matplotlib.lines import Line2D

    style: Any = {"color": "#444444", "marker": "o", "markerfacecolor": "white", "linestyle": "--"}
    return [(Line2D([], [], **style), "dashed, hollow: recovered")]


def add_legend(figure: "Figure", entries: Sequence[tuple[Any, str]]) -> None:
    """A legend of (handle, label) below the axes, in two columns where all names are short."""
    if not entries:
        return
    labels = [cut(label) for _, label in entries]
    columns = 1 if max(map(len, labels)) > NAME_WIDTH // 2 else 2
    figure.legend(
        [handle for handle, _ in entries], labels, loc="outside lower left", ncols=columns, frameon=False,
        borderaxespad=0.1, handlelength=2.4, columnspacing=1.2, labelspacing=0.35,
    )  # fmt: skip


def legend_height(labels: Sequence[str]) -> float:
    """Inches that `add_legend` takes."""
    columns = 1 if max((len(cut(label)) for label in labels), default=0) > NAME_WIDTH // 2 else 2
    return LINE_HEIGHT * math.ceil(len(labels) / columns) + 0.12


def chart_height(curves: Sequence[Series], more: Sequence[str] = ()) -> float:
    """Inches of a chart whose legend names the curves, and more."""
    labels = _legend_names(curves) + [label for _, label in recovered_entry(curves)]
    return PLOT_HEIGHT + legend_height([*labels, *more])


def log_limits(values: Sequence[float], least: float) -> tuple[float, float]:
    """Limits of a log axis around the values, at least a factor of `least` apart."""
    low, high = min(values), max(values)
    pad = max(1.2, math.sqrt(least * low / high))
    return low / pad, high * pad


def log_ticks(
    axis: Any, limits: tuple[float, float], most: int = 7, label: Callable[[float], str] = "{:g}".format
) -> None:
    """At most so many ticks of a log axis, at round numbers."""
    low, high = limits
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        ticks = [digit * 10.0**decade for decade in decades for digit in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= most:
            break
    axis.set_ticks(ticks, [label(tick) for tick in ticks])
    axis.set_ticks([], minor=True)


def add_ratio_axis(axes: "Axes", limits: tuple[float, float], float32: float, bits_too: bool = True) -> None:
    """A second axis on top: the ratio to float32, and the bits per weight under it where asked for.

    Args:
        axes: With a log axis of sizes.
        limits: Of that axis.
        float32: The size, in the unit of that axis, whose ratio is 1.
        bits_too: Whether to say bits per weight.
    """
    shown = [ratio for ratio in RATIOS if limits[0] <= float32 / ratio <= limits[1]]
    top = axes.secondary_xaxis("top")
    top.set_xscale("log")
    labels = [f"{ratio}" + (f"\n{f'{32 / ratio:g}'}" if bits_too else "") for ratio in shown]
    top.set_xticks([float32 / ratio for ratio in shown], labels)
    top.set_xticks([], minor=True)
    top.set_xlabel("ratio to float32" + (", bits per weight below it" if bits_too else ""))
    top.spines["top"].set_visible(True)


def scale_y(axes: "Axes", values: Sequence[float]) -> None:
    """A log scale where the values span more than a decade, and no offsets either way."""
    if min(values) > 0 and max(values) > 10 * min(values):
        limits = log_limits(values, least=4)
        axes.set(yscale="log", ylim=limits)
        log_ticks(axes.yaxis, limits)
    else:
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.locator_params(axis="y", nbins=6)


def positive(curve: Series) -> Series:
    """The points that a log axis can show."""
    return Series(curve.name, curve.recovered, curve.peer, [point for point in curve.points if point[1].mean > 0])


def say(title: str, model: Model, curves: list[Series]) -> str:
    """The chart in words."""
    return f"{title}. {model.name}: {', '.join(curve.label for curve in curves)}"


def cut(label: str, width: int = NAME_WIDTH) -> str:
    """A label on one line, cut at a width in characters."""
    label = clean(label)
    return label if len(label) <= width else label[: width - 1].rstrip() + "…"


def bar_labels(names: Iterable[str]) -> list[str]:
    """Names to stand beside bars: in up to three lines, or in one where there are many."""
    names = [clean(name) for name in names]
    if len(names) > len(MARKERS):
        return [cut(name, LABEL_WIDTH + 4) for name in names]
    return ["\n".join(textwrap.wrap(name, LABEL_WIDTH, max_lines=3, placeholder="…")) for name in names]


def bars_height(labels: Sequence[str]) -> float:
    """Inches of a chart with a bar for each label."""
    lines = max(1 + label.count("\n") for label in labels)
    return 0.75 + len(labels) * (0.08 + 0.17 * lines)
