"""The processes that fit one table together; any number of them makes the same bytes as one.

Each process has a run of the table's rows. Sums over rows are formed in an order that no number of processes changes:
the table is cut into at most `STRETCHES` runs of chunks, these are added up in groups of `GROUP`, and the groups one
after another. A process adds up the groups that it has as a whole; all processes are sent what the others have, and add
the rest up alike. So a sum takes a few times its own size in memory and traffic, and every process goes on with the
same bits. Rows of codes stay where they are made, until all are there; then every process gets all of them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import groupby
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor

ENTRIES_PER_CHUNK = 2**22  # 16 MB in float32, 32 MB in float64; a step holds several
STRETCHES, GROUP = 64, 8

Value = tuple[Tensor, ...]
Combine = Callable[[Value, Value], Value]


def rows_per_chunk(width: int) -> int:
    """Rows of a chunk: a power of two, so that chunks of tables of one width are alike."""
    return 1 << max(1, ENTRIES_PER_CHUNK // max(1, width)).bit_length() - 1


def chunk_borders(num_rows: int, width: int) -> list[int]:
    """Where the chunks of a table begin, and its end."""
    return [*range(0, num_rows, rows_per_chunk(width)), num_rows]


def stretches_of(borders: Sequence[int]) -> tuple[int, int]:
    """Chunks of a stretch, and how many stretches there are."""
    length = -(-(len(borders) - 1) // STRETCHES)
    return length, -(-(len(borders) - 1) // length)


def added(first: Value, second: Value) -> Value:
    """The sum of two values; the first one's memory is used again."""
    return tuple(a.add_(b) for a, b in zip(first, second, strict=True))


@dataclass(frozen=True)
class Shards:
    """Which part of a table this process has.

    Attributes:
        rank: Number of this process, from 0.
        world: Processes.
    """

    rank: int = 0
    world: int = 1

    @classmethod
    def here(cls) -> Self:
        """All processes of the job, where `torch.distributed` was initialised; else this process alone."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def rows(self, num_embeddings: int, embedding_dim: int) -> range:
        """The rows of a table that this process should have."""
        shares = self.shares(chunk_borders(num_embeddings, embedding_dim))
        return range(shares[self.rank], shares[self.rank + 1])

    def shares(self, borders: Sequence[int]) -> list[int]:
        """The first row of each process, and the end, for the borders of chunks."""
        length, count = stretches_of(borders)
        firsts = (replace(self, rank=rank).own(count).start for rank in range(self.world))
        return [borders[length * first] for first in firsts] + [borders[-1]]

    def own(self, stretches: int) -> range:
        """The stretches of this process; it may have none if there are fewer than processes."""
        return range(self.rank * stretches // self.world, (self.rank + 1) * stretches // self.world)

    def fold(self, stretches: int, part: Callable[[int], Value | None], combine: Combine = added) -> Value:
        """The values of all stretches combined, on every process.

        ``part`` makes the value of one of this process' stretches, or None, which is left out. ``combine`` may write
        into its first value.

        Raises:
            ValueError: If no stretch has a value.
        """
        own, nodes = self.own(stretches), []
        for group in range(own.start // GROUP, -(-own.stop // GROUP)):
            whole = range(group * GROUP, min((group + 1) * GROUP, stretches))
            members = range(max(whole.start, own.start), min(whole.stop, own.stop))
            values = (value for number in members if (value := part(number)) is not None)
            nodes += [(group, value) for value in (_merged(values, combine) if members == whole else values)]
        groups = groupby(self._from_all(nodes), key=lambda node: node[0])
        merged = _merged((_merged((value for _, value in each), combine)[0] for _, each in groups), combine)
        if not merged:
            raise ValueError("there is no row to add up")
        return merged[0]

    def _from_all(self, nodes: list[tuple[int, Value]]) -> Iterator[tuple[int, Value]]:
        """The nodes of all processes, in the order of the rows."""
        if self.world == 1:
            yield from nodes
            return
        received: list[Any] = [None] * self.world
        kinds = [
            (group, [(tuple(part.shape), part.dtype, str(part.device.type)) for part in value])
            for group, value in nodes
        ]
        dist.all_gather_object(received, kinds)
        for rank, theirs in enumerate(received):
            for place, (group, parts) in enumerate(theirs):
                value = nodes[place][1] if rank == self.rank else ()
                value = tuple(part.contiguous() for part in value) or tuple(
                    torch.empty(shape, dtype=dtype, device=device) for shape, dtype, device in parts
                )
                for part in value:
                    dist.broadcast(part, rank)
                yield group, value

    def share(self, target: Tensor, borders: Sequence[int]) -> None:
        """Give every process the rows of ``target`` that others have; process r has those from borders[r] on."""
        for rank in range(self.world) if self.world > 1 else ():
            rows = target[borders[rank] : borders[rank + 1]]
            if rows.numel():
                sent = rows.contiguous()
                dist.broadcast(sent, rank)
                if rank != self.rank:
                    rows.copy_(sent)

    def total(self, number: int) -> int:
        """The sum of a number that each process has."""
        received = [number] * self.world
        if self.world > 1:
            dist.all_gather_object(received, number)
        return sum(received)

    def add(self, tensor: Tensor) -> Tensor:
        """The sum over processes, in place, in any order."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def agree(self, tensor: Tensor) -> Tensor:
        """The first process' numbers, on all: machines may round differently."""
        if self.world > 1:
            tensor = tensor.contiguous()
            dist.broadcast(tensor, 0)
        return tensor

    def agree_on(self, plan: Any) -> Any:
        """The first process' plan, on all."""
        if self.world > 1:
            received = [plan]
            dist.broadcast_object_list(received, 0)
            return received[0]
        return plan


ALONE = Shards()


def _merged(values: Iterable[Value], combine: Combine) -> list[Value]:
    """The values combined from left to right, as a list of one; empty without any."""
    values = iter(values)
    first = next(values, None)
    return [] if first is None else [reduce(combine, values, first)]
