"""Charts of a model's results, as specifications of Vega-Lite made by Altair."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vocabpress.report.frame import Frame, Model, near, pandas
from vocabpress.report.names import metric, size

try:
    import altair as alt
except ImportError as error:
    raise ValueError(f"a report needs {error.name}; pip install 'vocabpress[report]'") from None

BOUND = "Gaussian rate-distortion bound"
# Okabe and Ito, "Color universal design", 2008, those that show on white and on black; black is the original's.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8a8a8a")
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")
TICK_RATIOS = [1, 2, 4, 8, 16, 25, 50, 100, 200, 400, 800, 1600]  # at which axes of sizes have ticks
COLUMNS = ("name", "recovered", "peer", "mean", "spread", "n", "table", "ratio", "bits", "tenth")  # of a chart's data
HEIGHT = 280  # pixels of the axes
MOST_TICKS = 7  # of a logarithmic axis
BAR = 22  # pixels of a bar or a row of dots
SMALL = 0.01  # parts below this share of every table are shown as one
CONFIG = {
    "background": "transparent",
    "font": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif",
    "view": {"stroke": None},
    "axis": {
        **dict.fromkeys(("labelColor", "titleColor", "domainColor", "tickColor"), "currentColor"),
        "gridColor": "#8a8a8a", "gridOpacity": 0.25, "labelFontSize": 12, "titleFontSize": 12.5, "titleFontWeight": 500,
    },
    "legend": {
        "orient": "bottom", "labelColor": "currentColor", "labelFontSize": 12, "title": None,
        "rowPadding": 4, "symbolStrokeWidth": 2, "offset": 8,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Chart:
    """A drawing and what a page says around it; `spec` is JSON of Vega-Lite."""

    title: str
    spec: dict[str, Any]
    caption: str = ""


def rate_distortion(model: Model) -> Chart | None:
    """Relative error over bits per weight, with the bound; None where no result has both."""
    found = model.values[(model.values.metric == "relative_error") & ~model.values.reference]
    found = found[found.bits.notna() & (found["mean"] > 0)]
    if found.task.str.startswith("reconstruction").any():
        found = found[found.task.str.startswith("reconstruction")]
    found = found.drop_duplicates(["label", "asked"])
    bound = pandas.DataFrame(model.details("bound"), columns=["bits_per_weight", "relative_error"])
    bound = bound[(bound.bits_per_weight > 0) & (bound.relative_error > 0)]
    if found.empty or (bound.empty and found.label.nunique() > 1 and _one_size(found)):
        return None  # a dot for each curve, as `quality` draws them, shows more
    every, ours = found["mean"], found["mean"][~found.peer | found.peer.all()]
    x = _size_axis(found, "bits", "bits per weight; times smaller than float32", 32)
    # Peers of many bits would squeeze all else into a corner; the tables have them, and so has a zoom.
    y = level_axis(pandas.Series([min(ours.min(), max(every.min(), ours.min() / 10)), every.max()]), "relative error ↓")
    line = alt.Chart(bound).mark_line(clip=True, color="currentColor", strokeDash=[2, 3], strokeWidth=2)
    line = line.encode(x=alt.X("bits_per_weight:Q"), y="relative_error:Q", tooltip=alt.value(BOUND))
    layers = [line] * (not bound.empty) + _curves(found, x, y, "relative_error", model)
    return to_chart("Rate and distortion", layers, "Dotted: the Gaussian bound." if len(bound) else "", found)


def quality(model: Model, task: str, name: str) -> Chart | None:
    """A metric over the bytes of the table; at one size, a dot for each curve.

    None where no row has both, or where all rows have the same, as with counts of tokens.
    """
    every = model.of(task, name)
    found, lines = every[~every.reference & every.table.notna()], every[every.reference]
    if found.empty or (len(found) > 1 and every["mean"].nunique() == 1):
        return None
    shown, title = metric(name), f"{task}: {metric(name).head}"
    if found.label.nunique() > 1 and _one_size(found):
        caption = f"All tables at about {size(found.table.min())}."
        layers = [*_rules(lines, alt.X("mean:Q")), *_dots(found, name)]
        return to_chart(title, layers, caption, found, found["name"].nunique())
    x = _size_axis(found, "table", "bytes; times smaller than float32", float(found.float32.max()))
    low = lines["mean"].mean() < every["mean"].median()
    layers = [
        *_rules(lines, alt.Y("mean:Q"), "bottom" if low else "top"),
        *_curves(found, x, level_axis(every["mean"], shown.head), name, model),
    ]
    return to_chart(title, layers, f"Dashed across: {', '.join(lines.label)}." if len(lines) else "", found)


def _one_size(found: Frame) -> bool:
    return bool(near(found.table, float(found.table.min())).all())


def _size_axis(found: Frame, field: str, title: str, float32: float) -> Any:
    """A logarithmic axis of sizes; at round ratios to the size in float32, NaN where unknown, it says both."""
    low, high = found[field].min() / 1.2, found[field].max() * 1.2
    say = "format(datum.value, '.3~r')" if field == "bits" else "format(datum.value, '.2~s') + 'B'"
    ticks = [float32 / ratio for ratio in TICK_RATIOS if low <= float32 / ratio <= high]
    labels = say if math.isnan(float32) else f"[{say}, format({float32} / datum.value, '.3~r') + 'x']"
    fixed: Any = {"values": ticks} if len(ticks) > 1 else {}
    axis = alt.Axis(labelExpr=labels, labelOverlap=True, tickCount=6, **fixed)
    return alt.X(f"{field}:Q", title=title, axis=axis).scale(type="log", domain=[low, high], nice=False)


def level_axis(values: Any, title: str, axis: Any = None) -> Any:
    """The axis of a metric; logarithmic, with at most seven round ticks, where values span more than a decade."""
    axis, low, high = (axis or alt.Y("mean:Q")).title(title), float(values.min()), float(values.max())
    form = "~s" if high >= 1000 else "~r"
    if not 0 < 10 * low < high:
        return axis.scale(zero=False, nice=True).axis(format=form, tickCount=6)
    low, high = low / 1.3, high * 1.3
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        ticks = [digit * 10.0**decade for decade in decades for digit in digits if low <= digit * 10.0**decade <= high]
        if len(ticks) <= MOST_TICKS:
            break
    return axis.scale(type="log", domain=[low, high], nice=False).axis(values=ticks, format=form)


def _curves(found: Frame, x: Any, y: Any, name: str, model: Model) -> list[Any]:
    """Lines and points, and what one can do with them: hover, zoom, pick in the legend."""
    order = {each: index for index, each in enumerate(dict.fromkeys(model.compressed["name"]))}
    names = [each for each in order if each in set(found["name"])]
    looks = looks_of("name", names, [order[each] for each in names])  # the same in all charts of a model
    pick = alt.selection_point(fields=["name"], bind="legend")
    faded = alt.when(pick).then(alt.value(1.0)).otherwise(alt.value(0.07))
    base = alt.Chart(_data(found, COLUMNS)).encode(x=x, y=y, opacity=faded, color=looks["color"])
    lines = base.mark_line(clip=True).encode(
        detail="recovered:N",
        strokeDash=alt.when("datum.recovered != ''").then(alt.value([5, 3])).otherwise(alt.value([1, 0])),
        strokeWidth=alt.when("datum.peer").then(alt.value(1)).otherwise(alt.value(2)),
    )
    first, *points = _points(base, found, name, "y", shape=looks["shape"])
    zoom = alt.selection_interval(bind="scales", zoom="wheel![event.shiftKey]")
    return [lines.add_params(pick), first.add_params(zoom), *points]


def _points(base: Any, found: Frame, name: str, axis: str, **looks: Any) -> list[Any]:
    """Points for what is compressed, hollow ones for what was recovered, and error bars along an axis."""
    bars = base.transform_filter("datum.n > 1").mark_rule(clip=True, strokeWidth=1.5)
    bars = bars.transform_calculate(low="datum.mean - datum.spread", high="datum.mean + datum.spread")
    ends = {"x": {"x": alt.X("low:Q"), "x2": "high:Q"}, "y": {"y": alt.Y("low:Q"), "y2": "high:Q"}}
    base, layers = base.encode(tooltip=_tooltip(name, found), **looks), []
    for filled, which in ((True, "datum.recovered == ''"), (False, "datum.recovered != ''")):
        if ((found.recovered == "") == filled).any():
            layers.append(base.transform_filter(which).mark_point(filled=filled, size=70, clip=True))
    return [*layers, bars.encode(**ends[axis])] if (found.n > 1).any() else layers


def looks_of(field: str, names: Iterable[str], places: Iterable[int]) -> dict[str, Any]:
    """Colour and shape of each name of a field, by its place among all names that charts share."""
    names, places, legend = list(names), list(places), alt.Legend(symbolLimit=60)
    looks = (("color", alt.Color, COLOURS), ("shape", alt.Shape, SHAPES))
    return {
        key: make(f"{field}:N", legend=legend).scale(domain=names, range=[of[place % len(of)] for place in places])
        for key, make, of in looks
    }


def _tooltip(name: str, found: Frame) -> list[Any]:
    """What a point shows of itself: the columns that are set anywhere in the chart."""
    columns = {
        "name:N": ("method", ""),
        "recovered:N": ("after", ""),
        "mean:Q": (metric(name).label, ",.5~g"),
        "spread:Q": ("± over seeds", ".3~g"),
        "n:Q": ("seeds", ""),
        "table:Q": ("bytes", ",.0f"),
        "ratio:Q": ("times smaller than float32", ".4~g"),
        "bits:Q": ("bits per weight", ".4~g"),
    }
    known = {column for column in found if found[column].replace("", None).notna().any()}
    return [alt.Tooltip(key, title=title, format=form) for key, (title, form) in columns.items() if key[:-2] in known]


def _dots(found: Frame, name: str) -> list[Any]:
    """A metric for each curve, all at about one size, the best first."""
    ordered = found.sort_values("mean", ascending=metric(name).better == "lower")
    x = level_axis(found["mean"], metric(name).head, alt.X("mean:Q"))
    y = alt.Y("name:N", title=None, sort=list(dict.fromkeys(ordered["name"]))).axis(labelLimit=180, grid=True)
    return _points(alt.Chart(_data(found, COLUMNS)).encode(x, y, color=alt.value(COLOURS[0])), found, name, "x")


def _rules(lines: Frame, at: Any, baseline: Any = "top") -> list[Any]:
    """Lines across the chart at what the original, and floors such as shuffled rows, score."""
    base = alt.Chart(_data(lines, ["label", "mean"])).encode(at)
    if lines.empty:
        return []
    text = base.mark_text(align="right", baseline=baseline, dy=-2 if baseline == "bottom" else 3, color="currentColor")
    over = [text.encode(x=alt.value("width"), text="label:N")] * (isinstance(at, alt.Y) and len(lines) == 1)
    return [base.mark_rule(strokeDash=[6, 4], strokeWidth=1.5, color="currentColor").encode(tooltip="label:N"), *over]


def by_frequency(model: Model, key: str) -> Chart | None:
    """Quality by how frequent a token is, at the common size."""
    found = [
        {"name": row.name, "recovered": row.recovered, "peer": row.peer, "tenth": at, "mean": tenth[key], "n": 1}
        for row, items in model.detailed("deciles")
        for at, tenth in enumerate(items, 1)
        if isinstance(tenth.get(key), int | float)
    ]
    if not found:
        return None
    shown, frame = metric(key), pandas.DataFrame(found)
    x = alt.X("tenth:Q", title="tenth of the vocabulary, the most frequent first").axis(tickCount=10)
    y = level_axis(frame["mean"], shown.head)
    share = model.detailed("deciles")[0][1][0]["share"]
    caption = f"At {common_size(model)}. The first tenth makes up {share:.0%} of the text."
    return to_chart(f"{shown.label.capitalize()} by token frequency", _curves(frame, x, y, key, model), caption, frame)


def spectrum_chart(model: Model) -> Chart | None:
    """Singular values of the centred original table."""
    values = model.details("spectrum")
    values = [value for value in values if value > 1e-6 * max(values)]
    if len(values) < 2:
        return None
    squares = pandas.Series(values) ** 2
    half = int((squares.cumsum() < 0.5 * squares.sum()).sum()) + 1
    frame = pandas.DataFrame({"rank": range(1, len(values) + 1), "value": values})
    look: Any = {"color": COLOURS[0], "opacity": 0.35, "line": {"color": COLOURS[0]}}
    area = (
        alt.Chart(_data(frame, ["rank", "value"]))
        .mark_area(**look)
        .encode(
            x=alt.X("rank:Q"),
            y=level_axis(frame.value, "singular value", alt.Y("value:Q", stack=None)),
            tooltip=["rank:Q", alt.Tooltip("value:Q", title="singular value", format=".4~g")],
        )
    )
    caption = f"Half of the variance lies in the first {half} of {len(values)} directions."
    return to_chart("Singular values of the centred table", [area], caption)


def bytes_by_part(model: Model) -> Chart | None:
    """Bytes of the table by part, at the common size."""
    found = [
        {"name": row.name, "part": kind_of_part(str(item["name"])), "bytes": item["bytes"]}
        for row, items in model.detailed("storage")
        if not row.recovered
        for item in items
    ]
    if not found:
        return None
    frame = pandas.DataFrame(found).groupby(["name", "part"], sort=False).bytes.sum().reset_index()
    large = frame[frame.bytes >= SMALL * frame.groupby("name").bytes.transform("sum")].part
    frame["part"] = frame.part.where(frame.part.isin(large), f"other, each below {SMALL:.0%}")
    frame = frame.groupby(["name", "part"], sort=False).bytes.sum().reset_index()
    kinds = list(dict.fromkeys(frame.part))
    bars = alt.Chart(_data(frame, ["name", "part", "bytes"])).mark_bar().encode(
        x=alt.X("bytes:Q").axis(format=".2~s"),
        y=alt.Y("name:N", title=None, sort=list(dict.fromkeys(frame["name"]))).axis(labelLimit=180),
        color=looks_of("part", kinds, range(len(kinds)))["color"],
        tooltip=["name:N", "part:N", alt.Tooltip("bytes:Q", format=",")],
    )  # fmt: skip
    return to_chart("Bytes by part", [bars], f"At {common_size(model)}.", rows=frame["name"].nunique())


def kind_of_part(name: str) -> str:
    """The kind of a saved tensor: what is stored for each token, and what all tokens share."""
    path = name.split(".")
    if "basis" in path or path[-1].startswith(("codebook", "centroid")):
        return "decoder"
    kinds = {"codes": "codes of the tokens", "bias": "mean or bias", "block_of": "map to blocks"}
    kinds |= dict.fromkeys(("rows", "weight"), "float rows of the tokens")
    return kinds.get(path[-1], path[-1].replace("_", " "))


def common_size(model: Model) -> str:
    """The common size in words: ``"about 1.87 MB, ratio 25"``."""
    ratio = model.at_common_size(model.rows).ratio.median()
    return f"about {size(model.common_size or 0)}" + ("" if math.isnan(ratio) else f", ratio {ratio:.3g}")


def _data(frame: Frame, columns: Iterable[str]) -> Frame:
    """The columns that there are, numbers to five digits: a page holds no more."""
    found = frame[[column for column in columns if column in frame]]
    return found.map(lambda value: float(f"{value:.5g}") if isinstance(value, float) else value)


def to_chart(title: str, layers: list[Any], caption: str = "", found: Any = None, rows: int = 0) -> Chart:
    """The layers as one chart; the caption says which lines and points are drawn how."""
    kinds = [] if found is None or "peer" not in found else ["Thin lines: methods by others."] * bool(found.peer.any())
    kinds += [] if found is None else ["Dashed, hollow: recovered."] * bool((found.recovered != "").any())
    drawn = alt.layer(*layers).properties(width="container", height=rows * BAR or HEIGHT)
    spec = drawn.to_dict(validate=False)
    spec = {key: value for key, value in spec.items() if key not in ("$schema", "config")}
    return Chart(title, spec, " ".join(filter(None, [caption, *kinds])))
