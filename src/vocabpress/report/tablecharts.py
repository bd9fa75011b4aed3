"""Charts of the tables themselves, as SVG: spectrum, quality by token frequency, bytes by part."""

from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING

from vocabpress.report.axes import (
    COLOURS,
    PLOT_HEIGHT,
    Series,
    add_legend,
    bar_labels,
    bars_height,
    chart_height,
    draw_curves,
    legend_height,
    log_ticks,
    say,
    scale_y,
)
from vocabpress.report.charts import Chart
from vocabpress.report.console import size
from vocabpress.report.names import metric
from vocabpress.report.rows import Model, Row, Value
from vocabpress.report.svg import draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HATCHES = ("", "//", "", "\\\\", "", "xx")
SMALL = 0.01  # parts below this share of every table are shown as one


def spectrum(model: Model, name: str) -> Chart | None:
    """Singular values of the centred original table."""
    values = model.details("spectrum")
    values = [value for value in values if value > 1e-6 * max(values)]
    if len(values) < 2:
        return None

    def plot(figure: "Figure") -> None:
        axes = figure.subplots()
        ranks = range(1, len(values) + 1)
        axes.semilogy(ranks, values, color=COLOURS[0], linewidth=2)
        axes.fill_between(ranks, values, min(values), color=COLOURS[0], alpha=0.12, linewidth=0)
        axes.set(xlabel="rank", ylabel="singular value", xlim=(0, len(values) * 1.02))
        limits = axes.get_ylim()
        log_ticks(axes.yaxis, limits)

    title = "Singular values of the centred table"
    half = _rank_holding(values, 0.5)
    caption = f"Half of the variance lies in the first {half} of {len(values)} directions."
    return Chart(title, draw(name, f"{title} of {model.name}. {caption}", PLOT_HEIGHT, plot), caption)


def deciles(model: Model, key: str, name: str) -> Chart | None:
    """Quality by how frequent a token is, at the common size."""
    rows = [row for row in model.at_common_size(model.rows) if row.details("deciles")]
    curves = []
    for row in rows:
        points = [(i, tenth.get(key)) for i, tenth in enumerate(row.details("deciles"), 1)]
        kept = [(float(i), Value(value, None, 1)) for i, value in points if isinstance(value, int | float)]
        if kept:
            curves.append(Series(row.name, row.recovered, row.peer, kept))
    if not curves:
        return None
    shown = metric(key)

    def plot(figure: "Figure") -> None:
        axes = figure.subplots()
        entries = draw_curves(axes, model.names, curves)
        axes.set(xlabel="tenth of the vocabulary, the most frequent first", ylabel=f"{shown.label}{shown.arrow}")
        axes.set_xticks(range(1, 1 + max(len(curve.points) for curve in curves)))
        scale_y(axes, [value.mean for curve in curves for _, value in curve.points])
        add_legend(figure, entries)

    title = f"{shown.label.capitalize()} by token frequency"
    share = rows[0].details("deciles")[0]["share"]
    caption = f"At {common(model)}. The first tenth makes up {share:.0%} of the text."
    return Chart(title, draw(name, say(title, model, curves), chart_height(curves), plot), caption)


def storage(model: Model, name: str) -> Chart | None:
    """Bytes of the table by part, at the common size."""
    rows = {row.name: row for row in reversed(model.at_common_size(model.rows)) if row.details("storage")}
    if not rows:
        return None
    bars = _without_small({label: parts(row) for label, row in reversed(rows.items())})
    kinds = list(dict.fromkeys(kind for bar in bars.values() for kind in sorted(bar, key=lambda kind: -bar[kind])))
    names = bar_labels(bars)
    unit, factor = ("MB", 1e6) if max(sum(bar.values()) for bar in bars.values()) >= 1e6 else ("kB", 1e3)

    def plot(figure: "Figure") -> None:
        axes = figure.subplots()
        left = [0.0] * len(bars)
        entries = []
        for kind, colour, hatch in zip(kinds, cycle(COLOURS), cycle(HATCHES)):
            widths = [bar.get(kind, 0) / factor for bar in bars.values()]
            drawn = axes.barh(
                range(len(bars)),
                widths,
                left=left,
                color=colour,
                hatch=hatch,
                edgecolor="white",
                linewidth=0.5,
                height=0.66,
            )
            entries.append((drawn, kind))
            left = [a + b for a, b in zip(left, widths, strict=True)]
        axes.set_yticks(range(len(bars)), names)
        axes.set(xlabel=f"{unit} of the table", ylim=(len(bars) - 0.4, -0.6))
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        add_legend(figure, entries)

    title = "Bytes by part"
    height = bars_height(names) + legend_height(kinds)
    say = f"{title} of the compressed tables of {model.name}: {', '.join(bars)}"
    return Chart(title, draw(name, say, height, plot), f"At {common(model)}.")


def parts(row: Row) -> dict[str, float]:
    """Bytes by kind of part: what is stored for each token, and what all tokens share."""
    found: dict[str, float] = {}
    for item in row.details("storage"):
        path = str(item["name"]).split(".")
        kind = {
            "codes": "codes of the tokens",
            "rows": "float rows of the tokens",
            "weight": "float rows of the tokens",
            "scales": "scales",
            "bias": "mean or bias",
            "block_of": "map to blocks",
        }.get(path[-1], path[-1].replace("_", " "))
        kind = "decoder" if "basis" in path or path[-1].startswith(("codebook", "centroid")) else kind
        found[kind] = found.get(kind, 0) + item["bytes"]
    return found


def _without_small(bars: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """The bars, the kinds of parts that are small in all of them put together."""
    large = {kind for bar in bars.values() for kind, count in bar.items() if count >= SMALL * sum(bar.values())}
    kept = {}
    for label, bar in bars.items():
        rest = sum(count for kind, count in bar.items() if kind not in large)
        kept[label] = {kind: count for kind, count in bar.items() if kind in large}
        kept[label] |= {f"other, each below {SMALL:.0%}": rest} if rest else {}
    return kept


def _rank_holding(values: Sequence[float], share: float) -> int:
    """How many of the first values hold this share of the sum of squares."""
    total, held = sum(value * value for value in values), 0.0
    for rank, value in enumerate(values, 1):
        held += value * value
        if held >= share * total:
            return rank
    return len(values)


def common(model: Model) -> str:
    """The common size in words: ``"about 1.87 MB, ratio 25"``."""
    ratio = next((row.ratio for row in model.at_common_size(model.rows)), None)
    return f"about {size(model.common_size or 0)}" + (f", ratio {ratio:.3g}" if ratio else "")
