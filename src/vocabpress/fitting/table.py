"""A table as fits see it: rows that are read in chunks, so that no fit needs a second table in memory.

Methods turn, centre, cut and code tables that may be as large as the machine's memory, or lie in a file. A `Table`
defines its rows by those of another, and makes them when they are read; sums run over its chunks, and what has a value
for each row is filled in chunk by chunk. `Shards` decides which rows this process has; a table that is read by one
process has them all.

Places are numbers of rows, from 0 to n - 1, in any process.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from vocabpress.embeddings import CompressedEmbedding
from vocabpress.embeddings.inference import lookup
from vocabpress.fitting.shards import ALONE, Combine, Shards, Value, added, chunk_borders, rows_per_chunk, stretches_of

ENTRIES_CACHED = 2**25  # of a derived table, at most, that is stored because it is read many times: 128 MB
SAMPLED_WHOLE = 2**22  # numbers, at most, from which a sample is drawn by shuffling all

Places = slice | Tensor
"""Rows by number: neighbours, or any, int64 of one axis."""


class Readable(Protocol):
    """Rows by place: a tensor, a table, or what some form decodes."""

    def __getitem__(self, places: Any, /) -> Tensor: ...


@dataclass(frozen=True)
class Decoded:
    """The rows that a form decodes."""

    form: CompressedEmbedding

    def __getitem__(self, places: Places) -> Tensor:
        with torch.no_grad():
            return lookup(self.form, numbers(places, self.form.device))


@dataclass(frozen=True)
class Beside:
    """Rows of several, side by side."""

    parts: Sequence[Readable]

    def __getitem__(self, places: Places) -> Tensor:
        return torch.cat([part[places] for part in self.parts], 1)


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of a matrix, (n, width).

    Attributes:
        shape: n and width.
        dtype: Dtype of the rows as they are read.
        device: Device of the rows.
        read: (places, whether they are read on every process) -> rows. Without that they are this process' own.
        borders: Where chunks begin, and the end.
        shards: The processes, and their chunks.
        at_once: Rows anywhere in the table that may be read at a time, as a chunk of neighbours is.
        in_memory: Whether the rows are in memory as they are read.
        narrow: How to read some columns alone, where that takes less than all.
    """

    shape: tuple[int, int]
    dtype: torch.dtype
    device: torch.device
    read: Callable[[Places, bool], Tensor]
    borders: Sequence[int]
    at_once: int
    shards: Shards = ALONE
    in_memory: bool = False
    narrow: "Callable[[slice], Table] | None" = None

    @classmethod
    def of(
        cls, rows: "Table | Tensor", shards: Shards = ALONE, count: int | None = None, dtype: torch.dtype | None = None
    ) -> "Table":
        """A table of the rows of a tensor, or the table itself; float64 is read as it is, other dtypes as float32.

        Args:
            rows: This process' rows, (n, width), in memory or mapped from a file.
            shards: The processes that share the rows.
            count: Rows of all processes; None means that all are here.
            dtype: Dtype in which rows are read, instead.
        """
        if isinstance(rows, Table):
            return rows
        source = rows.detach()
        wanted = dtype or (torch.float64 if source.dtype == torch.float64 else torch.float32)
        shape = (len(source) if count is None else count, source.shape[1])
        step = rows_per_chunk(shape[1])
        table = cls(shape, wanted, source.device, lambda places, _: source[places], chunk_borders(*shape), step, shards)
        return replace(table, read=table._reader(source), in_memory=source.dtype == wanted)

    def _reader(self, source: Tensor) -> Callable[[Places, bool], Tensor]:
        """A function that reads the rows of this process, and those of all."""
        (first, end), wanted = self.own, self.dtype

        def read(places: Places, everywhere: bool) -> Tensor:
            if isinstance(places, slice):
                return source[places.start - first : places.stop - first].to(wanted)
            if not everywhere or self.shards.world == 1:
                rows = source[places - first if first else places].to(wanted)
                return self.shards.add(rows) if everywhere else rows
            rows, here = source.new_zeros(len(places), self.shape[1], dtype=wanted), (places >= first) & (places < end)
            rows[here] = source[places[here] - first].to(wanted)
            return self.shards.add(rows)

        return read

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, places: Places) -> Tensor:
        """Rows of this process."""
        return self.read(places, False)

    def gather(self, places: Tensor) -> Tensor:
        """Rows of any process, on every process; all of them must ask for the same."""
        return torch.cat([self.read(part, True) for part in places.split(self.at_once)])

    def dense(self) -> Tensor:
        """All rows in memory."""
        return self.gather(torch.arange(len(self), device=self.device))

    @property
    def shares(self) -> list[int]:
        """The first row of each process, and the end."""
        return self.shards.shares(self.borders)

    @property
    def own(self) -> tuple[int, int]:
        """The first row of this process, and the end."""
        return self.shares[self.shards.rank], self.shares[self.shards.rank + 1]

    def chunks(self, stretch: int | None = None) -> Iterator[tuple[slice, Tensor]]:
        """This process' rows, chunk after chunk, each with its places; of one stretch, or of all its own."""
        length, count = stretches_of(self.borders)
        own = self.shards.own(count) if stretch is None else range(stretch, stretch + 1)
        for start, stop in pairwise(self.borders[own.start * length : own.stop * length + 1]):
            if stop > start:
                yield slice(start, stop), self.read(slice(start, stop), False)

    def fold(self, part: Callable[[slice, Tensor], Value], combine: Combine) -> Value:
        """What ``part`` makes of the chunks, combined in an order that no number of processes changes."""

        def of_stretch(number: int) -> Value | None:
            found: Value | None = None
            for places, rows in self.chunks(number):
                value = part(places, rows)
                found = value if found is None else combine(found, value)
            return found

        return self.shards.fold(stretches_of(self.borders)[1], of_stretch, combine)

    def sum(self, part: Callable[[slice, Tensor], Value]) -> Value:
        """The sum of what ``part`` makes of the chunks: tensors of its own, float64 where they are to be exact."""
        return self.fold(part, added)

    def fill(self, targets: Sequence[Tensor], make: Callable[[slice, Tensor], Sequence[Tensor]]) -> None:
        """Write what ``make`` makes of the chunks into the rows of targets, (n, …) each; all processes get all rows."""
        for places, rows in self.chunks():
            for target, made in zip(targets, make(places, rows), strict=True):
                target[places] = made
        for target in targets:
            self.shards.share(target, self.shares)

    def mean_square(self) -> Tensor:
        """Mean of the squared entries, float64."""
        (squares,) = self.sum(lambda _, rows: (rows.square().sum().double(),))
        return squares / (len(self) * self.shape[1])

    def column(self, make: Callable[[slice, Tensor], Tensor]) -> Tensor:
        """A number for each row, (n), on every process."""
        found = torch.empty(len(self), dtype=self.dtype, device=self.device)
        self.fill([found], lambda places, rows: [make(places, rows)])
        return found

    def _made(self, shape: tuple[int, int], read: Callable[[Places, bool], Tensor], **changes: Any) -> "Table":
        """A table whose rows are made of this one's."""
        return replace(self, shape=shape, read=read, in_memory=False, narrow=None, **changes)

    def map(self, change: Callable[[Places, Tensor], Tensor], width: int | None = None) -> "Table":
        """The table whose rows are ``change`` of the places and rows of this one."""
        inner, shape = self.read, (len(self), self.shape[1] if width is None else width)
        return self._made(shape, lambda places, everywhere: change(places, inner(places, everywhere)))

    def minus(self, other: Tensor | Readable) -> "Table":
        """Less a row, (width), or row by row."""
        if isinstance(other, Tensor) and other.ndim == 1:
            return self.map(lambda _, rows: rows - other)
        return self.map(lambda places, rows: rows - other[places])

    def times(self, matrix: Tensor) -> "Table":
        """The rows times a matrix, (width, any)."""
        found = self.map(lambda _, rows: rows @ matrix, matrix.shape[1])
        return replace(found, narrow=lambda columns: self.times(matrix[:, columns]))

    def columns(self, some: slice) -> "Table":
        """Neighbouring columns of the rows."""
        if self.narrow is not None:
            return self.narrow(some)
        return self.map(lambda _, rows: rows[:, some], some.stop - some.start)

    def some(self, ids: Tensor) -> "Table":
        """Some of the rows, by places that rise."""
        edges = torch.tensor(self.borders, device=ids.device)
        borders = torch.searchsorted(ids, edges).tolist()
        inner, shape = self.read, (len(ids), self.shape[1])
        return self._made(shape, lambda places, everywhere: inner(ids[places], everywhere), borders=borders)

    def pieces(self, count: int) -> "Table":
        """The rows cut into ``count`` rows each, one after another."""
        inner, width = self.read, self.shape[1] // count

        def read(places: Places, everywhere: bool) -> Tensor:
            if isinstance(places, slice):
                return inner(slice(places.start // count, places.stop // count), everywhere).reshape(-1, width)
            rows = inner(places // count, everywhere).unflatten(1, (count, width))
            return rows[torch.arange(len(places), device=places.device), places % count]

        borders = [border * count for border in self.borders]
        return self._made((len(self) * count, width), read, borders=borders)

    def grouped(self, count: int) -> "Table":
        """Each ``count`` rows one after another as one row; zeros pad the last one.

        Raises:
            ValueError: If rows of different processes would have to come together.
        """
        if count == 1:
            return self
        inner, number, width = self.read, len(self), self.shape[1]
        borders = self.borders
        if any(border % count for border in borders[:-1]):
            if self.shards.world > 1:
                raise ValueError(f"{count} rows that belong together lie on several processes; take a power of two")
            step = max(1, borders[1] // count) * count
            borders = [*range(0, number, step), number]

        def read(places: Places, everywhere: bool) -> Tensor:
            ids = numbers(places, self.device)[:, None] * count + torch.arange(count, device=self.device)
            rows = inner(ids.clamp(max=number - 1).flatten(), everywhere)
            return (rows * (ids < number).flatten()[:, None]).view(len(ids), count * width)

        shape, borders = (-(-number // count), count * width), [-(-border // count) for border in borders]
        return self._made(shape, read, borders=borders, at_once=-(-self.at_once // count))

    def cached(self) -> "Table":
        """The same, its rows in memory if the table is small, for what reads them many times."""
        if self.in_memory or len(self) * self.shape[1] > ENTRIES_CACHED:
            return self
        first, end = self.own
        rows = torch.empty(end - first, self.shape[1], dtype=self.dtype, device=self.device)
        for places, some in self.chunks():
            rows[places.start - first : places.stop - first] = some
        return replace(self, read=self._reader(rows), in_memory=True, narrow=None)


def numbers(places: Places, device: torch.device) -> Tensor:
    """Places as a tensor."""
    return torch.arange(places.start, places.stop, device=device) if isinstance(places, slice) else places


def draw(count: int, some: int, generator: torch.Generator) -> Tensor:
    """At most ``some`` different numbers below ``count``, in random order; memory follows the sample, not the count."""
    if count <= SAMPLED_WHOLE:
        return torch.randperm(count, generator=generator, device=generator.device)[:some]
    found = torch.randint(count, (2 * some,), generator=generator, device=generator.device)
    first = {number: place for place, number in reversed(list(enumerate(found.tolist())))}
    return found[sorted(first.values())[:some]]
