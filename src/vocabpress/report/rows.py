"""What a report shows: models, and the rows that were measured of each."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy

from vocabpress.report.labels import asked_size
from vocabpress.report.names import headline
from vocabpress.results import Result

SIZES = {"ratio_to_float32", "bits_per_weight"}  # metrics that every row shows as its size
USUAL_RATIO = 25  # what `vocabpress compress` makes if not told otherwise
SAME_SIZE = 1.12  # two sizes nearer than this factor are one for a reader
NUMBER = (int, float)
# What a report reads of the details of a `reconstruction` result: the types of items, or of their fields.
SHAPES: dict[str, Any] = {
    "spectrum": NUMBER,
    "bound": {"bits_per_weight": NUMBER, "relative_error": NUMBER},
    "deciles": {"share": NUMBER},
    "storage": {"name": str, "bytes": NUMBER},
    "neighbours": {"word": str, "original": list, "compressed": list},
}


@dataclass(frozen=True)
class Value:
    """A metric over n seeds; `spread` is the sample standard deviation, None for one seed."""

    mean: float
    spread: float | None
    n: int


@dataclass(frozen=True)
class Row:
    """Everything that was measured by one task of one compressed table, all seeds together.

    Attributes:
        task: Name of the task; with its settings where one model was measured with several.
        name: The variant as a legend shows it.
        recovered: None, or ``"recovered"``, with its settings where there are several.
        peer: Whether the method is other people's code.
        original: Whether this is the uncompressed model.
        table: Bytes of the table, None where the result does not say.
        float32: Bytes of the same table in float32, None where nothing says.
        metrics: Name -> value.
        results: What the row was made of, at least one.
    """

    task: str
    name: str
    recovered: str | None
    peer: bool
    original: bool
    table: float | None
    float32: float | None
    metrics: dict[str, Value]
    results: tuple[Result, ...]

    @property
    def ratio(self) -> float | None:
        """Bytes in float32 over the bytes stored."""
        return self.float32 / self.table if self.table and self.float32 else None

    @property
    def bits_per_weight(self) -> float | None:
        """Bits stored for each entry of the table."""
        return 32 / self.ratio if self.ratio else None

    @property
    def curve(self) -> tuple[str, str | None]:
        """Rows of one curve differ in size alone."""
        return self.name, self.recovered

    @property
    def place(self) -> str:
        """The size that was asked for; see `asked_size`."""
        return asked_size(self.results[0])

    @property
    def label(self) -> str:
        """Name, and whether it was recovered."""
        return f"{self.name}, {self.recovered}" if self.recovered else self.name

    def details(self, key: str) -> list[Any]:
        """A list among the details of the first result that has it; items of another shape are left out."""
        found = next((found for result in self.results if isinstance(found := result.details.get(key), list)), [])
        return [item for item in found if _has_shape(item, SHAPES[key])]


@dataclass(frozen=True)
class Model:
    """All rows of one original, the original's first, then ours, then peers'."""

    name: str
    rows: tuple[Row, ...]

    @cached_property
    def tasks(self) -> list[str]:
        """Names of the tasks, reconstruction first."""
        return sorted({row.task for row in self.rows}, key=lambda name: (not name.startswith("reconstruction"), name))

    @cached_property
    def names(self) -> list[str]:
        """Names of the compressed variants, in the order of the rows."""
        return list(dict.fromkeys(row.name for row in self.rows if not row.original))

    @cached_property
    def tables(self) -> list[Row]:
        """One row for each compressed table: its first."""
        return list({(row.curve, row.place): row for row in reversed(self.compressed)}.values())[::-1]

    @property
    def compressed(self) -> list[Row]:
        """The rows that are not the original's."""
        return [row for row in self.rows if not row.original]

    def of(self, task: str) -> list[Row]:
        """The rows of a task."""
        return [row for row in self.rows if row.task == task]

    def metrics(self, task: str) -> list[str]:
        """The metrics of a task, its headline first."""
        names = sorted({name for row in self.of(task) for name in row.metrics} - SIZES)
        return sorted(names, key=lambda name: name != headline(names))

    def original(self, task: str, metric: str) -> Value | None:
        """What the uncompressed model scores: by its own result, or by what those of the compressed say of it."""
        rows = self.of(task)
        named = [row.metrics[metric] for row in rows if row.original and metric in row.metrics]
        for name in (f"{metric}_original", f"{metric.split('_')[0]}_original"):
            named += [row.metrics[name] for row in rows if name in row.metrics and name != metric]
        return next(iter(named), None)

    def details(self, key: str) -> list[Any]:
        """A list of the original's own, such as ``"spectrum"``, which all rows with details repeat."""
        return next((found for row in self.rows if (found := row.details(key))), [])

    @cached_property
    def common_size(self) -> float | None:
        """The table's bytes at which most curves have a row; of two such sizes that nearer to ratio 25."""
        rows = [row for row in self.compressed if row.table and not self.is_reference(row)]
        curves = {row.table: {other.curve for other in rows if same_size(row.table, other.table)} for row in rows}
        ratios = {row.table: row.ratio or 1 for row in rows}
        return min(curves, key=lambda at: (-len(curves[at]), abs(math.log(ratios[at] / USUAL_RATIO)), at), default=None)

    def at_common_size(self, rows: Iterable[Row]) -> list[Row]:
        """Those of the rows that are compressed to the common size."""
        size = self.common_size
        return [row for row in rows if size and row.table and not row.original and same_size(row.table, size)]

    def is_reference(self, row: Row) -> bool:
        """Whether the row's table is no smaller than the original's: a line to compare with, no point of a curve."""
        sizes = [other.table for other in self.rows if other.original and other.table] or [row.float32]
        return row.original or bool(row.table and sizes[0] and row.table >= sizes[0])

    def over_bound(self, row: Row) -> Value | None:
        """Decibels of a row's relative error over the Gaussian bound at its rate; None where the bound is not known."""
        error, rate = row.metrics.get("relative_error"), row.bits_per_weight
        points = [(point["bits_per_weight"], point["relative_error"]) for point in self.details("bound")]
        points = sorted((at, least) for at, least in points if least > 0)
        if not error or not rate or error.mean <= 0 or not points or not points[0][0] <= rate <= points[-1][0]:
            return None
        rates, errors = zip(*points, strict=True)
        bound = float(numpy.interp(rate, rates, numpy.log10(errors)))  # nearly a line where many axes have bits
        return Value(10 * (math.log10(error.mean) - bound), None, error.n)

    def pairs(self) -> list[tuple[Row, Row]]:
        """(before, after) recovery: rows of one task, variant and size."""
        found = []
        for after in self.compressed:
            if after.recovered:
                before = [row for row in self.of(after.task) if row.name == after.name and not row.recovered]
                found += [(row, after) for row in before if row.place == after.place][:1]
        return found


def same_size(a: float | None, b: float | None) -> bool:
    """Whether two sizes, of bytes or ratios, are the same for a reader."""
    return a is not None and b is not None and max(a, b) < SAME_SIZE * min(a, b)


def _has_shape(item: Any, shape: Any) -> bool:
    if not isinstance(shape, dict):
        return isinstance(item, shape)
    return isinstance(item, dict) and all(isinstance(item.get(name), kind) for name, kind in shape.items())
