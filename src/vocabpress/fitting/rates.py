"""Rates by axis and by block of tokens: reverse water-filling with one slope for a whole table.

Each axis of each block has a variance, so each has a distortion at each rate (Cover and Thomas, section 10.3); one
slope over all of them gives the bits of each (`allocation.py`). Each kind of codes has a ladder of possible rates. All
rows of a block have the same rates, and a row is a whole number of bytes.
"""

import math
from dataclasses import dataclass
from functools import cache
from itertools import groupby

import torch
from torch import Tensor
from torch.nn.functional import pad

from vocabpress.embeddings import Run
from vocabpress.fitting.allocation import allocate
from vocabpress.fitting.lowrank import principal_axes, weighted_mean
from vocabpress.fitting.table import Table


@dataclass(frozen=True)
class Ladder:
    """The rates that axes can have.

    Attributes:
        group: Neighbouring axes that share a rate; zeros pad the axes to whole groups.
        rungs: (bits, columns), bits for each so many columns, which divide a group; rising, the first one none.
        losses: The share of its variance that an axis loses at each rung; the first loses all.
    """

    group: int
    rungs: tuple[tuple[int, int], ...]
    losses: tuple[float, ...]

    def least(self, bits: int) -> int:
        """The lowest rung at which a group takes at least so many bits."""
        return next(n for n, (rung, width) in enumerate(self.rungs) if rung * self.group >= bits * width)


def weight_classes(weights: Tensor, blocks: int) -> Tensor:
    """The block of each token, (V): equal steps of the logarithm of its weight, numbered without gaps."""
    logs = weights.clamp(min=float(weights[weights > 0].min())).log2()
    span = logs.max() - logs.min()
    if blocks == 1 or float(span) < 1e-3:
        return torch.zeros(len(weights), dtype=torch.int64, device=weights.device)
    steps = ((logs.max() - logs) / span * blocks).long().clamp(max=blocks - 1)
    return steps.unique(return_inverse=True)[1]


class Axes:
    """The principal axes of a weighted table, (V, d), padded by zeros to whole groups of ``group`` axes.

    Attributes:
        deviations: Standard deviations of the table along the axes, padding included.
    """

    def __init__(self, table: Table, weights: Tensor, group: int) -> None:
        self.mean = weighted_mean(table, weights)
        axes, values = principal_axes(table.minus(self.mean), weights)
        # Where all weighted rows equal the mean, any divisor is right: 1 leaves the other rows as they are.
        least = 1e-12 * float(values[0].sqrt()) + 1e-30 if values[0] > 0 else 1.0
        deviations = values.sqrt().clamp(min=least).to(table.dtype)
        lacking = -table.shape[1] % group
        self.deviations = pad(deviations, (0, lacking), value=float(deviations[-1]))
        self._turn = pad(axes.to(table.dtype).T / deviations, (0, lacking))

    def coordinates(self, table: Table, width: int | None = None) -> Table:
        """A table on the axes, each divided by its deviation, (V, d and padding); or on the first ``width`` axes."""
        return table.minus(self.mean).times(self._turn[:, :width])


class BlockRates:
    """The weighted energy of each block of tokens in each group of axes, and the rates that follow from it.

    Args:
        axes: Axes of the table.
        coordinates: The table on these axes.
        weights: (V).
        block_of: (V).
        ladder: The rates that exist.
        first: The fewest bits of the first group.
        floor: The fewest bits of a row.
    """

    def __init__(
        self,
        axes: Axes,
        coordinates: Table,
        weights: Tensor,
        block_of: Tensor,
        ladder: Ladder,
        first: int = 0,
        floor: int = 0,
    ) -> None:
        self.counts = torch.bincount(block_of)  # (blocks)
        device, none = coordinates.device, (len(self.counts), len(axes.deviations))

        def squares(places: slice, rows: Tensor) -> tuple[Tensor]:
            weighted = rows.double().square() * weights[places, None].double()
            return (torch.zeros(none, device=device, dtype=torch.float64).index_add_(0, block_of[places], weighted),)

        (energy,) = coordinates.sum(squares)
        energy *= axes.deviations.double().square()
        self.energy = energy.unflatten(1, (-1, ladder.group)).sum(2)  # (blocks, groups)
        self.ladder, self.first, self.floor = ladder, ladder.least(first), floor
        self.options = cache(self._options)  # a search needs the same ones many times

    def _options(self, groups: int) -> tuple[Tensor, Tensor]:
        """Bits of a row and distortion at each rung, both (blocks, groups, rungs); the first is the cheapest."""
        bits = torch.tensor([bits * self.ladder.group // width for bits, width in self.ladder.rungs])
        distortion = self.energy[:, :groups, None] * torch.tensor(self.ladder.losses, dtype=torch.float64)
        costs = bits.expand(distortion.shape).clone()
        start = torch.zeros(distortion.shape[:2], dtype=torch.int64)
        start[:, 0] = self.first
        _forbid(costs, distortion, start)
        if self.floor:
            # A group has at least the bits that it has in a row of the fewest bits.
            limit = max(self.floor + self.ladder.group, int(costs[0, :, 0].sum()))
            least = [allocate(*of, limit) for of in zip(costs, distortion, strict=True)]
            _forbid(costs, distortion, torch.stack(least))
        return costs, distortion

    def share(self, groups: int, room: int) -> tuple[Tensor | None, float]:
        """Rates, (blocks, groups) as indices, for ``room`` bits of streams; and the distortion, axes left out too."""
        costs, distortion = self.options(groups)
        every = (costs * self.counts[:, None, None]).flatten(0, 1)
        if int(every[:, 0].sum()) > room:
            return None, math.inf
        chosen = allocate(every, distortion.flatten(0, 1), room).view(len(self.counts), groups)
        coded = float(distortion.gather(2, chosen[..., None]).sum())
        return chosen, coded + float(self.energy[:, groups:].sum())

    def whole_bytes(self, groups: int, room: int) -> list[list[Run]] | None:
        """The runs of each block, rows of whole bytes, for ``room`` bits of streams; none if that is too little."""
        costs, distortion = self.options(groups)
        start, _ = self.share(groups, room)
        if start is None:
            return None
        lengths, losses, rates = [], [], []
        for block, chosen in enumerate(start):
            bits, least = (int(costs[block].gather(1, each[:, None]).sum()) for each in (chosen, 0 * chosen))
            near = [n for n in range(bits // 8 - 2, bits // 8 + 4) if 8 * n >= least] or [-(-least // 8)]
            near += near[-1:] * (6 - len(near))
            found = [allocate(costs[block], distortion[block], 8 * n) for n in near]
            rates.append(found)
            lengths.append([8 * n * int(self.counts[block]) for n in near])
            losses.append([float(distortion[block].gather(1, f[:, None]).sum()) for f in found])
        if sum(each[0] for each in lengths) > room:
            return None
        best = allocate(torch.tensor(lengths), torch.tensor(losses, dtype=torch.float64), room)
        return [self._runs(options[int(which)]) for options, which in zip(rates, best, strict=True)]

    def _runs(self, rungs: Tensor) -> list[Run]:
        """Groups of one rate become a run. Rates fall from the first axis on, as the variances nearly do."""
        runs = []
        for rung, groups in groupby(rungs.sort(descending=True).values.tolist()):
            runs.append(Run(len(list(groups)) * self.ladder.group, *self.ladder.rungs[rung]))
        return runs


def _forbid(costs: Tensor, distortion: Tensor, start: Tensor) -> None:
    """Forbid the options before ``start``, (blocks, groups), in place; they get the cost of the first valid one."""
    before = torch.arange(costs.shape[2]) < start[..., None]
    distortion.masked_fill_(before, torch.inf)
    costs.copy_(torch.where(before, costs.gather(2, start[..., None]), costs))
