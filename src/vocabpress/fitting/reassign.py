"""Rows moved to the block whose subspace represents them best, within a budget.

Memory beside the table is a number for each row and block.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vocabpress.fitting.table import Table
from vocabpress.progress import Bar

LEAST_GAIN = 1e-4  # relative gain of a round below which it is the last
PRICES = 24  # halvings of the interval in which the price of a bit is sought


@dataclass(frozen=True)
class Storage:
    """What blocks cost.

    Attributes:
        bits: (sizes of the blocks) -> bits of the table.
        limit: The most allowed.
        row_bits: Bits of one more row in each block.
        whole: Whether each block is stored whole at its present size.
    """

    bits: Callable[[list[int]], int]
    limit: int
    row_bits: Sequence[float]
    whole: Sequence[bool]


def reassign(
    table: Table | Tensor,
    weights: Tensor,
    block_of: Tensor,
    ranks: Sequence[int],
    storage: Storage,
    *,
    rounds: int,
    moving_ratio: float,
    least_candidates: int,
    title: str = "",
    progress: bool = False,
) -> Tensor:
    """Move rows between blocks in rounds, the subspaces refitted after each, while the weighted error falls.

    In a round the share ``moving_ratio`` of the rows with a better block moves, those that gain most; fewer such rows
    than ``least_candidates`` end it.

    A row costs ``w_i * squared error + price * bits of a row of that block``. The price is 0 where the moves fit the
    limit, and else the lowest at which they do: without it every row would go to the block of the highest rank. A block
    of full rank d represents every row. Another block that is whole because it is small represents its own rows, and
    would not be whole with more: its rows stay, and it gets none.

    Returns:
        The new block of each row, (V).
    """
    table = Table.of(table)
    blocks = _Blocks(table, weights, block_of.clone(), ranks, storage.whole)
    row_bits = torch.tensor(storage.row_bits, dtype=table.dtype, device=table.device)
    best, best_error = block_of, blocks.error()
    with Bar(total=rounds, desc=title, disable=not progress) as bar:
        for _ in range(rounds):
            rows, targets = _moves(blocks, row_bits, storage, moving_ratio, least_candidates)
            if not len(rows):
                break
            blocks.move(rows, targets)
            error, before = blocks.error(), best_error
            bar.set_note(error=f"{error:.4g}", moved=len(rows))
            bar.update()
            if error < best_error:
                best, best_error = blocks.block_of.clone(), error
            if not error < before * (1 - LEAST_GAIN):
                break
    return best


def _moves(
    blocks: "_Blocks", row_bits: Tensor, storage: Storage, moving_ratio: float, least_candidates: int
) -> tuple[Tensor, Tensor]:
    """Rows to move and the blocks to move them to, within the limit; none if too small a number would gain."""
    block_of = blocks.block_of
    sizes = torch.bincount(block_of, minlength=len(row_bits))
    spare = storage.limit - storage.bits(sizes.tolist())

    def at(price: float) -> tuple[Tensor, Tensor]:
        costs = blocks.errors + price * row_bits
        least, target = costs.min(1)
        gains = costs.gather(1, block_of[:, None])[:, 0] - least
        candidates = int((gains > 0).sum())
        if candidates < least_candidates:
            return block_of[:0], target[:0]
        rows = gains.topk(max(1, int(moving_ratio * candidates))).indices
        return rows, target[rows]

    def added(rows: Tensor, targets: Tensor) -> float:
        return float((row_bits[targets] - row_bits[block_of[rows]]).sum())

    rows, targets = at(0.0)
    if added(rows, targets) > spare:
        # The unit is the price at which the mean row gains as much from an exact copy as that costs.
        unit = blocks.error() / len(block_of) / float(row_bits.max())
        low, high = 1e-6 * unit, 1e6 * unit
        for _ in range(PRICES):
            price = (low * high) ** 0.5
            low, high = (low, price) if added(*at(price)) <= spare else (price, high)
        rows, targets = at(high)
    after = sizes - torch.bincount(block_of[rows], minlength=len(sizes)) + torch.bincount(targets, minlength=len(sizes))
    # The search uses approximate bits a row; the exact bits decide.
    return (rows, targets) if storage.bits(after.tolist()) <= storage.limit else (rows[:0], targets[:0])


class _Blocks:
    """Moments, subspaces and errors of the blocks, updated as rows move.

    Attributes:
        block_of: (V).
        errors: (V, blocks), the weighted squared distance of each row from the subspace of each block; infinite where
            the row can't go.
    """

    def __init__(
        self, table: Table | Tensor, weights: Tensor, block_of: Tensor, ranks: Sequence[int], whole: Sequence[bool]
    ) -> None:
        self.table, self.weights, self.block_of, self.ranks = Table.of(table), weights, block_of, ranks
        count, width = len(ranks), table.shape[1]
        self.moments = torch.zeros(count, width + 1, width + 1, dtype=torch.float64, device=table.device)
        self.squares = self.table.column(lambda _, rows: rows.square().sum(1))
        # Block by block in memory: a block's errors are written together.
        self.errors = torch.zeros(count, len(table), dtype=self.table.dtype, device=table.device).T
        for block in range(count):
            self._add(block, (block_of == block).nonzero()[:, 0], 1)
            self._refit(block)
        for block in (block for block in range(count) if whole[block] and ranks[block] < width):
            members = block_of == block
            self.errors[members] = torch.inf
            self.errors[:, block] = torch.where(members, 0.0, torch.inf)

    def error(self) -> float:
        """Weighted squared error of all rows, each in its own block."""
        return float(self.errors.gather(1, self.block_of[:, None]).double().sum())

    def move(self, rows: Tensor, targets: Tensor) -> None:
        """Move rows to other blocks, and refit the subspaces of these blocks."""
        sources = self.block_of[rows]
        self.block_of[rows] = targets
        for block in torch.cat([sources, targets]).unique().tolist():
            self._add(block, rows[sources == block], -1)
            self._add(block, rows[targets == block], 1)
            self._refit(block)

    def _add(self, block: int, rows: Tensor, sign: int) -> None:
        """Add rows to the moments of a block, or take them away: sums of w (x, 1) (x, 1)^T."""
        if not len(rows):
            return
        ids = rows.sort().values

        def products(places: slice, some: Tensor) -> tuple[Tensor]:
            extended = torch.nn.functional.pad(some.double(), (0, 1), value=1.0)
            return ((extended * self.weights[ids[places], None].double()).T @ extended,)

        self.moments[block] += sign * self.table.some(ids).sum(products)[0]

    def _refit(self, block: int) -> None:
        """The block's weighted mean and principal axes, and all rows' distances from them."""
        if self.ranks[block] >= self.table.shape[1]:
            return
        products, sums, mass = self.moments[block, :-1, :-1], self.moments[block, :-1, -1], self.moments[block, -1, -1]
        mean, dtype = sums / mass.clamp(min=1e-300), self.table.dtype
        axes = torch.linalg.eigh(products - torch.outer(sums, mean)).eigenvectors[:, -self.ranks[block] :]
        axes = self.table.shards.agree(axes)
        # One product gives a row's coordinates and its inner product with the mean.
        probe = torch.cat([axes, mean[:, None]], 1).to(dtype)
        shift, square = (mean @ axes).to(dtype), mean.square().sum().to(dtype)

        def distances(places: slice, rows: Tensor) -> list[Tensor]:
            seen = rows @ probe
            distance = self.squares[places] - 2 * seen[:, -1] + square - (seen[:, :-1] - shift).square().sum(1)
            return [self.weights[places] * distance.clamp(min=0)]

        self.table.fill([self.errors.T[block]], distances)
