"""Results as data frames: a line for each metric of each compressed table, all seeds together."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy

from vocabpress.methods import METHODS
from vocabpress.report.labels import SEEDS, asked_size, canonical, differences, without_seeds
from vocabpress.report.names import headline, method
from vocabpress.results import Result

try:
    import pandas as typed_pandas
except ImportError:
    raise ValueError("a report needs pandas; pip install 'vocabpress[report]'") from None

pandas: Any = typed_pandas  # whose own annotations do not know what columns a frame has
Frame = Any  # a pandas.DataFrame

TASK = ("task", "text")  # settings of what was measured
# Settings that show elsewhere than in the name of a variant.
OWN_COLUMN = {*SEEDS, *TASK, "model", "method", "ratio", "budget", "recovered", "peer"}
SIZES = {"ratio_to_float32", "bits_per_weight"}  # metrics that every row shows as its size
USUAL_RATIO = 25  # what `vocabpress compress` makes if nothing else is asked for
SAME_SIZE = 1.12  # two sizes nearer than this factor are one for a reader
NUMBER = (int, float)
# What a report reads of details, most of `reconstruction`: the types of items, or of their fields.
SHAPES: dict[str, Any] = {
    "spectrum": NUMBER,
    "bound": {"bits_per_weight": NUMBER, "relative_error": NUMBER},
    "deciles": {"share": NUMBER},
    "storage": {"name": str, "bytes": NUMBER},
    "neighbours": {"word": str, "original": list, "compressed": list},
    "answers": {"prompt": str, "answer": str, "original": str},
}


@dataclass(frozen=True)
class Model:
    """All results of one original.

    Attributes:
        name: The original's; empty for results that name none.
        rows: A line for each table and task: ``task``, ``name`` (the variant, as a legend shows it), ``recovered``
            (empty, or in which way), ``label`` (both), ``peer`` (other people's method), ``original`` (not
            compressed), ``reference`` (not smaller than the original), ``asked`` (the size that was asked for),
            ``table`` and ``float32`` (bytes, NaN where unknown), ``ratio``, ``bits``, ``seconds``. The original's
            come first, then ours, then peers'.
        values: A line for each metric: the columns of `rows`, and ``row``, ``metric``, ``mean`` over seeds,
            ``spread`` (sample standard deviation, NaN for one seed) and ``n``.
        runs: The results that each of `rows` was made of.
    """

    name: str
    rows: Frame
    values: Frame
    runs: list[list[Result]]

    @property
    def title(self) -> str:
        return self.name or "Results that name no model"

    @cached_property
    def tasks(self) -> list[str]:
        """Names of the tasks, reconstruction first."""
        return sorted(set(self.rows.task), key=lambda name: (not name.startswith("reconstruction"), name))

    def metrics(self, task: str) -> list[str]:
        """The metrics of a task, its headline first."""
        names = sorted(set(self.values.metric[self.values.task == task]) - SIZES)
        return sorted(names, key=lambda name: name != headline(names))

    def of(self, task: str, metric: str) -> Frame:
        """The values of one metric of a task."""
        return self.values[(self.values.task == task) & (self.values.metric == metric)]

    @cached_property
    def compressed(self) -> Frame:
        """The rows of tables that are smaller than the original."""
        return self.rows[~self.rows.reference]

    @cached_property
    def common_size(self) -> float | None:
        """The table's bytes at which most curves have a row; of two such sizes that nearer to ratio 25."""
        found = self.compressed.dropna(subset="table")
        ratios = found.groupby("table").ratio.first().fillna(1)
        curves = {size: found.label[near(found.table, size)].nunique() for size in ratios.index}
        order = sorted(curves, key=lambda at: (-curves[at], abs(math.log(ratios[at] / USUAL_RATIO)), at))
        return float(order[0]) if order else None

    def at_common_size(self, frame: Frame) -> Frame:
        """Those lines of `rows` or `values` that are of tables compressed to the common size."""
        return frame[near(frame.table, self.common_size or 0) & ~frame.original]

    def details(self, key: str) -> list[Any]:
        """A list of the original's own, such as ``"spectrum"``, which all results with details repeat."""
        return next((found for runs in self.runs for result in runs if (found := details(result, key))), [])

    def detailed(self, key: str) -> list[tuple[Any, list[Any]]]:
        """(row, list) of one table of each curve at the common size whose results have such details."""
        found: dict[str, tuple[Any, list[Any]]] = {}
        for row in self.at_common_size(self.rows).itertuples():
            items = next((items for result in self.runs[row.Index] if (items := details(result, key))), [])
            if items:
                found.setdefault(row.label, (row, items))
        return list(found.values())

    def recovered(self) -> Frame:
        """Values of recovered tables, with ``before``: the same metric of the same table before."""
        same = ["task", "name", "asked", "metric"]
        before = self.values[self.values.recovered == ""].drop_duplicates(same)[[*same, "mean"]]
        after = self.values[self.values.recovered != ""]
        return after.merge(before.rename(columns={"mean": "before"}), on=same)


def near(sizes: Any, size: float) -> Any:
    """Which sizes are the same as one for a reader."""
    return (sizes < SAME_SIZE * size) & (size < SAME_SIZE * sizes)


def _has_shape(item: Any, shape: Any) -> bool:
    if not isinstance(shape, dict):
        return isinstance(item, shape)
    return isinstance(item, dict) and all(isinstance(item.get(name), kind) for name, kind in shape.items())


def group(results: Iterable[Result]) -> list[Model]:
    """Results by model, by name; those that differ in seeds alone become one row, a mean."""
    by_model: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        by_model[str(result.settings.get("model") or "")].append(result)
    return [_model(name, by_model[name]) for name in sorted(by_model, key=lambda name: (not name, name))]


def _model(name: str, results: list[Result]) -> Model:
    sizes = Counter(size for result in results if (size := _float32(result)))
    usual = sizes.most_common(1)[0][0] if sizes else math.nan  # the table's size where a result does not say
    results = [*_with_bound(results, usual), *_implied_originals(results)]
    groups: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        settings = without_seeds(result.settings)
        groups[canonical([result.task, result.variant, settings, asked_size(result)])].append(result)
    firsts = [runs[0] for runs in groups.values()]
    rows = pandas.DataFrame(_columns(list(groups.values()), usual))
    rows = rows.iloc[sorted(rows.index, key=lambda index: _order(rows.loc[index], firsts[index]))]
    runs = [list(groups.values())[index] for index in rows.index]
    rows = rows.reset_index(drop=True)
    rows["ratio"] = rows.float32 / rows.table
    rows["bits"] = 32 / rows.ratio
    whole = rows.table[rows.original].dropna()
    rows["reference"] = rows.original | (rows.table >= (whole.iloc[0] if len(whole) else rows.float32))
    return Model(name, rows, _values(runs).join(rows, on="row"), runs)


def _columns(runs: list[list[Result]], usual: float) -> dict[str, Any]:
    """The columns of rows that their results hold."""
    firsts = [members[0] for members in runs]
    tasks = differences(firsts, lambda r: r.task, lambda r: _some(r, TASK), apart=lambda _: "")
    variants = differences(firsts, lambda r: r.variant, lambda r: _some(r, r.settings.keys() - OWN_COLUMN))
    ways = differences(firsts, lambda r: (r.variant, bool(_some(r, ["recovered"]))), lambda r: _some(r, ["recovered"]))
    names = [method(first.variant) + words for first, words in zip(firsts, variants, strict=True)]
    recovered = [f"recovered{way}" if _some(r, ["recovered"]) else "" for r, way in zip(firsts, ways, strict=True)]
    return {
        "task": [first.task + words for first, words in zip(firsts, tasks, strict=True)],
        "name": names,
        "recovered": recovered,
        "label": [f"{name}, {way}" if way else name for name, way in zip(names, recovered, strict=True)],
        "peer": [bool(first.settings.get("peer")) for first in firsts],
        "original": [is_original(first) for first in firsts],
        "asked": ["original" if is_original(first) else asked_size(first) for first in firsts],
        "table": [_mean(result.bytes.get("table", math.nan) for result in members) for members in runs],
        "float32": [_mean(_float32(result) or usual for result in members) for members in runs],
        "seconds": [sum(result.seconds for result in members) for members in runs],
    }


def _some(result: Result, keys: Iterable[str]) -> dict[str, Any]:
    """Those of the settings that are set."""
    return {key: result.settings[key] for key in keys if result.settings.get(key) is not None}


def _values(runs: list[list[Result]]) -> Frame:
    """Each metric's mean over the results that have it as a finite number."""
    lines = [
        (row, name, value)
        for row, members in enumerate(runs)
        for result in members
        for name, value in result.metrics.items()
        if math.isfinite(value) and not (name == "mean" and len(result.metrics) == 2 and _doubled(result.metrics))
    ]
    found = pandas.DataFrame(lines, columns=["row", "metric", "value"]).astype({"row": int, "value": float})
    return found.groupby(["row", "metric"]).value.agg(mean="mean", spread="std", n="count").reset_index()


def _doubled(metrics: dict[str, float]) -> bool:
    """Whether the mean over data sets is that of one; the other name says which."""
    return len(set(metrics.values())) == 1


def _with_bound(results: list[Result], usual: float) -> list[Result]:
    """The results, those of known size with the decibels of their relative error over the Gaussian bound."""
    bound = next((found for result in results if (found := details(result, "bound"))), [])
    points = sorted((p["bits_per_weight"], p["relative_error"]) for p in bound if p["relative_error"] > 0)
    if not points:
        return results
    rates, errors = numpy.array(points, dtype=float).T

    def over(result: Result) -> dict[str, float]:
        error, table = result.metrics.get("relative_error", 0), result.bytes.get("table", math.nan)
        rate = 32 * table / (_float32(result) or usual)
        if not (error > 0 and rates[0] <= rate <= rates[-1]):
            return {}
        least = float(numpy.interp(rate, rates, numpy.log10(errors)))  # nearly a line where many axes have bits
        return {"over_bound": 10 * (math.log10(error) - least)}

    return [replace(result, metrics={**result.metrics, **over(result)}) for result in results]


def _implied_originals(results: list[Result]) -> list[Result]:
    """What the uncompressed model scores by results of the compressed, for tasks that it has no result of."""
    found: dict[str, Result] = {}
    for result in sorted(results, key=lambda result: not is_original(result)):
        own = {key: result.settings.get(key) for key in ("task", "text")}
        names = {name: (f"{name}_original", f"{name.split('_')[0]}_original") for name in result.metrics}
        scores = {name: result.metrics[other] for name, others in names.items()
                  for other in others[::-1] if other != name and other in result.metrics}  # fmt: skip
        if scores or is_original(result):
            settings = {"model": result.settings.get("model"), "method": "original", **own}
            implied = Result(result.task, "original", settings, {}, scores, 0.0, environment={})
            found.setdefault(canonical([result.task, without_seeds(own)]), result if is_original(result) else implied)
    return [result for result in found.values() if not result.environment]


def details(result: Result, key: str) -> list[Any]:
    """A list among the details of a result; items of another shape are left out."""
    found = result.details.get(key)
    return [item for item in found if _has_shape(item, SHAPES[key])] if isinstance(found, list) else []


def is_original(result: Result) -> bool:
    """Whether a result is of the uncompressed model."""
    return result.settings.get("method", result.variant) == "original"


def _order(row: Any, first: Result) -> tuple[Any, ...]:
    known = list(METHODS)
    kind = str(first.settings.get("method")).partition("+")[0]  # one on another's rest stands beside it
    rank = known.index(kind) if kind in known else len(known)
    size = 0 if math.isnan(row.table) else -row.table
    return not row.original, row.peer, rank, row["name"].casefold(), row.recovered, size, row.task


def _mean(values: Iterable[float]) -> float:
    return float(numpy.nanmean(found)) if not all(map(math.isnan, found := list(values))) else math.nan


def _float32(result: Result) -> float | None:
    """Bytes of the table in float32; version 1 of the format holds them as a ratio."""
    if "table_float32" in result.bytes:
        return result.bytes["table_float32"]
    ratio = result.metrics.get("ratio_to_float32")
    return round(result.bytes["table"] * ratio) if ratio and "table" in result.bytes else None
