"""Rates by axis and by block of tokens: reverse water-filling with one slope for a whole table.

Each axis of each block has a variance, so each has a distortion at each rate (Cover and Thomas, section 10.3); one
slope over all of them says how many bits each gets (`allocation.py`). Rates are what a trellis can have (`trellis.py`),
the same for all rows of a block, and a row is a whole number of bytes.
"""

import math

import torch
from torch import Tensor

from vocabpress.embeddings import Run
from vocabpress.fitting.allocation import allocate
from vocabpress.fitting.lowrank import principal_axes, weighted_mean

GROUP = 4  # neighbouring axes that share a rate; steps of four columns fit
RATES = ((0, 1), (1, 4), (1, 2), (1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (6, 1), (7, 1), (8, 1))  # bits, columns
GAP = 1.15  # a trellis' distortion over the bound, in the plan: what `benchmarks/` measures at one bit


def cut(weights: Tensor, blocks: int) -> Tensor:
    """The block of each token, (V): equal steps of the logarithm of its weight, numbered without gaps."""
    logs = weights.clamp(min=float(weights[weights > 0].min())).log2()
    span = logs.max() - logs.min()
    if blocks == 1 or float(span) < 1e-3:
        return torch.zeros(len(weights), dtype=torch.int64, device=weights.device)
    steps = ((logs.max() - logs) / span * blocks).long().clamp(max=blocks - 1)
    return steps.unique(return_inverse=True)[1]


class Axes:
    """A table on its principal axes, and how much weighted energy each block has in each group of axes.

    Args:
        table: (V, d).
        weights: (V).
        block_of: (V).
        floor: The fewest bits of a row.
    """

    def __init__(self, table: Tensor, weights: Tensor, block_of: Tensor, floor: int = 0) -> None:
        centred = table - weighted_mean(table, weights)
        axes, values = principal_axes(centred, weights)
        self.coordinates = centred @ axes.to(table.dtype).T  # (V, d)
        self.deviations = values.sqrt().clamp(min=1e-12 * float(values[0].sqrt()) + 1e-30).to(table.dtype)  # (d)
        self.counts = torch.bincount(block_of)  # (blocks)
        energy = torch.zeros(len(self.counts), table.shape[1], device=table.device, dtype=torch.float64)
        energy.index_add_(0, block_of, self.coordinates.double().square() * weights.double()[:, None])
        padded = torch.nn.functional.pad(energy, (0, -table.shape[1] % GROUP))
        self.energy = padded.unflatten(1, (-1, GROUP)).sum(2)  # (blocks, groups)
        self.dim, self.floor = table.shape[1], floor

    def width(self, groups: int) -> int:
        """Columns of the first groups."""
        return min(self.dim, groups * GROUP)

    def options(self, groups: int, memory: int) -> tuple[Tensor, Tensor]:
        """Bits of a row and distortion at each rate, both (blocks, groups, rates); the first option is the cheapest."""
        columns = torch.full((groups, 1), GROUP)
        columns[-1] = self.width(groups) - (groups - 1) * GROUP
        rates = torch.tensor([[bits / width for bits, width in RATES]], dtype=torch.float64)
        whole = torch.tensor([[width for _, width in RATES]])
        loss = torch.where(rates > 0, GAP * 4.0**-rates, 1.0).where(columns % whole == 0, torch.inf)
        distortion = self.energy[:, :groups, None] * loss
        costs = (columns * rates).round().long().expand(distortion.shape).clone()
        # The first axes fill the trellis' memory, whatever the slope.
        least = next(number for number, (bits, width) in enumerate(RATES) if bits * GROUP >= memory * width)
        start = torch.zeros(distortion.shape[:2], dtype=torch.int64)
        start[:, 0] = least
        _forbid(costs, distortion, start)
        if self.floor:
            # What a row of the fewest bits takes, it takes in every longer row, too.
            limit = max(self.floor + GROUP, int(costs[0, :, 0].sum()))
            _forbid(
                costs, distortion, torch.stack([allocate(*of, limit) for of in zip(costs, distortion, strict=True)])
            )
        return costs, distortion

    def share(self, groups: int, room: int, memory: int) -> tuple[Tensor | None, float]:
        """Rates, (blocks, groups) as indices, for ``room`` bits of streams; and the distortion, axes left out too."""
        costs, distortion = self.options(groups, memory)
        every = (costs * self.counts[:, None, None]).flatten(0, 1)
        if int(every[:, 0].sum()) > room:
            return None, math.inf
        chosen = allocate(every, distortion.flatten(0, 1), room).view(len(self.counts), groups)
        kept = float(distortion.gather(2, chosen[..., None]).sum())
        return chosen, kept + float(self.energy[:, groups:].sum())

    def whole_bytes(self, groups: int, room: int, memory: int) -> list[list[Run]]:
        """The runs of each block, rows of whole bytes, for ``room`` bits of streams."""
        costs, distortion = self.options(groups, memory)
        start, _ = self.share(groups, room, memory)
        if start is None:
            raise ValueError("a plan that fitted does not fit in whole bytes; allow a few bytes more")
        lengths, losses, rates = [], [], []
        for block, chosen in enumerate(start):
            bits, least = (int(costs[block].gather(1, of[:, None]).sum()) for of in (chosen, torch.zeros_like(chosen)))
            near = [n for n in range(bits // 8 - 2, bits // 8 + 4) if 8 * n >= least] or [-(-least // 8)]
            near += near[-1:] * (6 - len(near))
            found = [allocate(costs[block], distortion[block], 8 * n) for n in near]
            rates.append(found)
            lengths.append([8 * n * int(self.counts[block]) for n in near])
            losses.append([float(distortion[block].gather(1, f[:, None]).sum()) for f in found])
        best = allocate(torch.tensor(lengths), torch.tensor(losses, dtype=torch.float64), room)
        return [self._runs(options[int(which)]) for options, which in zip(rates, best, strict=True)]

    def _runs(self, rates: Tensor) -> list[Run]:
        """Neighbouring groups of one rate become a run."""
        runs: list[Run] = []
        for group, rate in enumerate(rates.tolist()):
            bits, width = RATES[rate]
            columns = min(GROUP, self.dim - group * GROUP)
            if runs and (runs[-1].bits, runs[-1].width) == (bits, width):
                runs[-1] = Run(runs[-1].columns + columns, bits, width)
            else:
                runs.append(Run(columns, bits, width))
        return runs


def _forbid(costs: Tensor, distortion: Tensor, start: Tensor) -> None:
    """Forbid the options before ``start``, (blocks, groups), in place; they cost what the first one left does."""
    before = torch.arange(costs.shape[2]) < start[..., None]
    distortion.masked_fill_(before, torch.inf)
    costs.copy_(torch.where(before, costs.gather(2, start[..., None]), costs))
