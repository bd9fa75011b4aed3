"""Blocks of a table's rows, each of a rank of its own: what they store, and ranks in proportion to their importance."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vocabpress.embeddings import CompressedEmbedding, Projected, Rows
from vocabpress.fitting.quantise import Factors, empty_factor, empty_low_rank, store_factor, store_low_rank
from vocabpress.fitting.table import Table


class ProportionalRanks(Sequence[tuple[int, ...]]):
    """All ranks ``max(1, floor(k * importance))``, clipped to full, for a real k that grows from 0; one tuple a step.

    Between two tuples one block gains one rank: the block whose rank is due at the smallest k. Blocks of no importance
    come last, blocks of equal importance one after another.

    Example:
        >>> list(ProportionalRanks(importance=[2.0, 1.0], full=[3, 2]))
        [(1, 1), (2, 1), (3, 1), (3, 2)]
    """

    def __init__(self, importance: Sequence[float], full: Sequence[int]) -> None:
        due = [
            (rank / share if share > 0 else math.inf, block)
            for block, (share, most) in enumerate(zip(importance, full, strict=True))
            for rank in range(2, most + 1)
        ]
        self._raised = torch.tensor([block for _, block in sorted(due)], dtype=torch.int64)
        self._blocks = len(full)

    def __len__(self) -> int:
        return len(self._raised) + 1

    def __getitem__(self, steps: Any) -> Any:
        """The ranks after so many steps."""
        if not 0 <= steps < len(self):
            raise IndexError(steps)
        return tuple((1 + torch.bincount(self._raised[:steps], minlength=self._blocks)).tolist())


def full_ranks(sizes: Sequence[int], width: int) -> list[int]:
    """The highest rank that a block of each size can have."""
    return [min(size, width) for size in sizes]


def empty_block(rows: int, width: int, rank: int, factors: Factors) -> CompressedEmbedding:
    """The empty form of a block: of low rank, or whole, with a scale a row, where that takes no more.

    Raises:
        ValueError: If no matrix of this shape has that rank.
    """
    if not 1 <= rank <= min(rows, width):
        raise ValueError(f"a block of {rows} x {width} has a rank of 1 to {min(rows, width)}, got {rank}")
    low, whole = empty_low_rank(rows, width, rank, factors), empty_factor(rows, width, factors, "row")
    return low if low.total_bits() < whole.total_bits() else whole


def store_blocks(
    table: Table | Tensor, block_of: Tensor, ranks: Sequence[int], weights: Tensor, factors: Factors
) -> Rows:
    """The weighted SVD of each block, in the form of :func:`empty_block`; blocks without rows are left out.

    Ranks are clipped to what a block can have. A block whose rows all have the weight 0 is fitted with equal weights.
    """
    table, (block_of, numbers), forms = Table.of(table), by_first_row(block_of), []
    for block, old in enumerate(numbers):
        ids = (block_of == block).nonzero()[:, 0]
        rows = table.some(ids)
        rank = min(ranks[old], *rows.shape)
        with torch.device("meta"):
            form = empty_block(rows.shape[0], rows.shape[1], rank, factors)
        weighs = weights[ids] if bool(weights[ids].any()) else torch.ones_like(weights[ids])
        low = isinstance(form, Projected)
        forms.append(store_low_rank(rows, rank, weighs, factors) if low else store_factor(rows, factors, "row"))
    return Rows.of(forms, block_of)


def by_first_row(block_of: Tensor) -> tuple[Tensor, list[int]]:
    """The blocks numbered by their first row, and their old numbers; the map then is free wherever it can be.

    Blocks without rows are left out.
    """
    old, inverse = block_of.unique(return_inverse=True)
    places = torch.arange(len(block_of), device=block_of.device)
    first = torch.full_like(old, len(block_of)).scatter_reduce(0, inverse, places, "amin")
    order = first.argsort()
    return order.argsort()[inverse], old[order].tolist()


def contiguous(block_of: Tensor) -> bool:
    """Whether each block is a run of neighbouring rows, so that no map needs to be stored."""
    return not bool((by_first_row(block_of)[0].diff() < 0).any())
