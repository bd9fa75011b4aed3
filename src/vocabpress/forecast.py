"""What compressing a table will take, before there is one: bytes, memory, traffic and time.

Bytes are those of the plans, counted on the meta device. Time and traffic are extrapolated from small tables of the
same width, fitted here by plans that give each row as much: a part that does not depend on the rows, and a part in
proportion to them, which the processes share. Memory is a bound: the rows, the result, and the fixed working set.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vocabpress.budget import Budget
from vocabpress.embeddings import CompressedEmbedding
from vocabpress.fitting.shards import STRETCHES, Combine, Shards, Value, added, chunk_borders, stretches_of
from vocabpress.fitting.table import Table
from vocabpress.methods import Blockwise, Method, Plan

WARM, SMALL = 256, (2048, 6144, 18432, 55296)  # rows of the tables that are fitted to see, two or more of them
ENOUGH = 3.0  # seconds of a fit that tells enough
BANDWIDTH = 10e9 / 8  # bytes a second between processes
WORKING_SET = 384_000_000  # chunks, samples and what is kept of derived tables
LOOPS = 128_000_000  # what compiling loops and starting threads takes in a fresh process, whatever the table
OF_A_SMALL_TABLE = 6  # times itself, if that is less
SQUARES = 8  # matrices of (d, d) in float64 at a time: sums on their way, eigenvectors
ROW_NUMBERS = 64  # bytes for each row: weights, blocks, energies, orders


@dataclass(frozen=True)
class Forecast:
    """What a fit is expected to take.

    Attributes:
        rows: V.
        columns: d.
        machines: Processes, one each, that share the rows.
        table_bytes: Of the table as it is.
        stored_bytes: Of the compressed table, at most.
        exact: Whether it is that many, whatever the table.
        memory_bytes: Of a process, at most, beside Python and torch: its rows, the result, the working set.
        received_bytes: By a process, from the others.
        seconds: Of the fit, from its start to the result on all.
        measured: Rows -> seconds of the small fits.
    """

    rows: int
    columns: int
    machines: int
    table_bytes: int
    stored_bytes: int
    exact: bool
    memory_bytes: int
    received_bytes: int
    seconds: float
    measured: dict[int, float]


@dataclass(frozen=True)
class Counted(Shards):
    """One process that counts what it would send if there were others: bytes by kind."""

    sent: dict[str, int] = field(default_factory=dict, compare=False)

    @property
    def alone(self) -> bool:
        return False

    def _count(self, kind: str, *tensors: Tensor) -> None:
        size = sum(tensor.numel() * tensor.itemsize for tensor in tensors)
        self.sent[kind] = self.sent.get(kind, 0) + size

    def fold(self, stretches: int, part: Callable[[int], Value | None], combine: Combine = added) -> Value:
        value = super().fold(stretches, part, combine)
        self._count("sums", *value)
        return value

    def share(self, target: Tensor, borders: Sequence[int]) -> None:
        self._count("rows", target)

    def add(self, tensor: Tensor) -> Tensor:
        self._count("gradients", tensor)
        return tensor

    def collect(self, rows: Tensor) -> Tensor:
        self._count("samples", rows)
        return rows

    def agree(self, tensor: Tensor) -> Tensor:
        self._count("sums", tensor)
        return tensor


def forecast(
    method: Method,
    rows: int,
    columns: int,
    budget: Budget,
    *,
    dtype: torch.dtype = torch.float32,
    machines: int = 1,
    bandwidth: float = BANDWIDTH,
    small: Sequence[int] = SMALL,
) -> Forecast:
    """What a fit of a table of any size will take, from small fits on this machine.

    Args:
        method: How it will be fitted.
        rows: V; there need not be such a table.
        columns: d.
        budget: The most that may be stored.
        dtype: Of the table as it is loaded.
        machines: Processes that share the rows, a machine like this one each.
        bandwidth: Bytes a second between them.
        small: Rows of the tables that are fitted in turn, two at least, until one takes some seconds.

    Raises:
        ValueError: If no plan fits the budget, there is no forecast for the method, or a size is below 1.
    """
    if min(rows, columns, machines) < 1 or bandwidth <= 0:
        raise ValueError(f"rows, columns and machines are at least 1, got {rows}, {columns} and {machines}")
    if isinstance(method, Blockwise):
        raise ValueError("the blocks of blockwise follow the token weights; ask for the method that it puts in them")
    weights = torch.ones(rows)
    plans = method.plans(rows, columns, budget, weights)
    stored = [method.stored_bits(rows, columns, plan) // 8 for plan in plans]
    bound = max(_limit(plan, size) for plan, size in zip(plans, stored, strict=True))
    fits = _small_fits(method, plans, rows, columns, small)
    seconds, sent = zip(*list(fits.values())[-2:], strict=True)
    largest = list(fits)[-2:]
    linear = _Line(largest, seconds)
    traffic = _received(sent, largest, rows, columns, machines)
    share = -(-rows // machines)
    return Forecast(
        rows=rows,
        columns=columns,
        machines=machines,
        table_bytes=rows * columns * dtype.itemsize,
        stored_bytes=bound,
        exact=len(plans) == 1 and type(method).resized is Method.resized,
        memory_bytes=share * columns * dtype.itemsize + working_set(method, plans, rows, columns),
        received_bytes=traffic,
        seconds=linear.start + linear.slope * share + traffic / bandwidth,
        measured={few: spent for few, (spent, _) in fits.items()},
    )


def working_set(method: Method, plans: list[Plan], rows: int, columns: int) -> int:
    """Bytes that a process holds at most beside its rows: the result in memory, numbers for each row, the rest."""
    with torch.device("meta"):
        held = max(_held(method.empty(rows, columns, plan)) for plan in plans)
    few = OF_A_SMALL_TABLE * 4 * rows * columns + 2**26
    return LOOPS + 2 * held + ROW_NUMBERS * rows + min(few, WORKING_SET) + SQUARES * 8 * columns**2


def _held(form: CompressedEmbedding) -> int:
    """Bytes of a form in memory, where floats have four."""
    return sum(tensor.numel() * tensor.itemsize for tensor in (*form.parameters(), *form.buffers()))


def _limit(plan: Plan, stored: int) -> int:
    """The most that a plan may come to store: some share out a limit when the table is known."""
    limits = [plan.get("limit", 0), *(part.get("limit", 0) for part in plan.values() if isinstance(part, dict))]
    return max(stored, sum(limits) // 8)


def _small_fits(
    method: Method, plans: list[Plan], rows: int, columns: int, small: Sequence[int]
) -> dict[int, tuple[float, dict[str, int]]]:
    """Rows -> what a fit of so many took, as `_fit` says it: the larger, the less a start or a sample counts for."""
    _fit(method, plans, rows, columns, min(WARM, *small))  # what is compiled or read at first use is no part of it
    fits, spent = {}, 0.0
    for few in small:
        if len(fits) > 1 and (few > rows or spent > ENOUGH):
            break
        fits[few] = spent, _ = _fit(method, plans, rows, columns, few)
    return fits


def _fit(method: Method, plans: list[Plan], rows: int, columns: int, few: int) -> tuple[float, dict[str, int]]:
    """Seconds of a small fit, and the bytes that its process would have sent."""
    generator = torch.Generator().manual_seed(0)
    deviations = torch.arange(1, columns + 1) ** -0.35
    lengths = (0.3 * torch.randn(few, 1, generator=generator)).exp()
    rows_at_hand = torch.randn(few, columns, generator=generator) * deviations * lengths
    weights, shards = torch.ones(few), Counted()
    table = Table.of(rows_at_hand, shards)
    resized = [method.resized(plan, rows, few, columns, weights) for plan in plans]
    start = time.perf_counter()
    plan = method.choose(table, resized, weights, generator, False)
    method.fit_plan(table, plan, weights, generator, False)
    return time.perf_counter() - start, shards.sent


@dataclass(frozen=True)
class _Line:
    """What grows in proportion, from two points; a start that noise makes negative is nothing."""

    places: Sequence[int]
    values: Sequence[float]

    @property
    def slope(self) -> float:
        return max(0.0, (self.values[1] - self.values[0]) / (self.places[1] - self.places[0]))

    @property
    def start(self) -> float:
        return max(0.0, self.values[1] - self.slope * self.places[1])


def _received(sent: Sequence[dict[str, int]], small: Sequence[int], rows: int, columns: int, machines: int) -> int:
    """Bytes that a process receives: sums of the others, their share of the rows, samples, gradients."""
    if machines == 1:
        return 0
    stretches = stretches_of(chunk_borders(rows, columns))[1]
    nodes = sum(Shards(rank, machines).nodes(stretches) for rank in range(machines))
    by_kind = {kind: tuple(each.get(kind, 0) for each in sent) for kind in ("sums", "rows", "gradients", "samples")}
    filled = _Line(small, by_kind["rows"])
    steps = _Line(small, by_kind["gradients"])
    others = (machines - 1) / machines
    received = by_kind["sums"][1] * min(nodes, STRETCHES) * others + (filled.start + filled.slope * rows) * others
    received += by_kind["samples"][1] * 2 * others + (steps.start + steps.slope * rows) * 2 * others
    return int(received)
