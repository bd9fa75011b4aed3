"""Trellis-coded quantisation on the principal axes, with bits shared out by one slope over axes and blocks of tokens.

    x_i ~ mean + z_i B,   z_i the decoded stream of bits of token i, B the axes

Trellis-coded quantisation: Marcellin and Fischer, 1990; the bit-shift trellis with computed words: Tseng et al., QTIP,
NeurIPS 2024. Reverse water-filling: Cover and Thomas, section 10.3. The combination for token tables is ours:

1. Rotate to the principal axes of the rows weighted by their token weights, keep r of them.
2. Cut the vocabulary into blocks of near token weight. Each (block, axis) has a variance, so each has a distortion at
   each rate; one slope over all of them says how many bits each gets (`fitting/allocation.py`). Rates are 0, 1/4, 1/2,
   1, 2, … bits an entry, the same for all rows of a block, so that a row is found without an index.
3. Each row is one path through a trellis (`fitting/trellis.py`), its error weighted by the axes' importance.
4. The axes and the mean are refitted to the decoded rows by weighted least squares, then rounded.

Neither frequencies nor training are needed; with token weights, frequent tokens get more bits.

Stored: ``Projected(Rows(Trellis, …), Scalar)``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vocabpress.budget import Budget
from vocabpress.embeddings import CompressedEmbedding, Projected, Rows, Run, Scalar, Trellis
from vocabpress.fitting.allocation import allocate
from vocabpress.fitting.binary import affine
from vocabpress.fitting.lowrank import principal_axes, weighted_mean
from vocabpress.fitting.quantise import quantise
from vocabpress.fitting.trellis import encode
from vocabpress.methods.base import Family, Method, Plan

GROUP = 4  # neighbouring axes that share a rate; steps of four columns fit
RATES = ((0, 1), (1, 4), (1, 2), (1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (6, 1), (7, 1), (8, 1))  # bits, columns
GAP = 1.15  # a trellis' distortion over the bound, in the plan: what `benchmarks/` measures at one bit
BASIS_BITS = (8, 6, 5, 4)
RIDGE = 1e-6


@dataclass(frozen=True)
class TCQ(Method):
    """Trellis-coded quantisation, rates by axis and by block of tokens.

    Attributes:
        memory: Bits of the trellis' state: each one more doubles the time of a fit and takes something off the error.
        blocks: Of tokens, by token weight; one where all weights are equal.
        min_bits: For each entry of a row, at least, however little its token weighs: what keeps rare tokens readable.
    """

    paper: ClassVar[str] = "Marcellin and Fischer, 1990; Tseng et al., NeurIPS 2024"

    memory: int = 10
    blocks: int = 8
    min_bits: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        if not 8 <= self.memory <= 16:
            raise ValueError(f"memory is 8 to 16 bits, got {self.memory}; 12 takes four times as long as 10")
        if not 1 <= self.blocks <= 256:
            raise ValueError(f"blocks is 1 to 256, got {self.blocks}")
        if not 0 <= self.min_bits <= 8:
            raise ValueError(f"min_bits is 0 to 8 for each entry, got {self.min_bits:g}")

    def families(self, num_embeddings: int, embedding_dim: int, weights: Tensor) -> list[Family]:
        """None: what a row costs depends on the table's variances; see `choose`."""
        return []

    def plans(
        self, num_embeddings: int, embedding_dim: int, budget: Budget, weights: Tensor | None = None
    ) -> list[Plan]:
        """The budget, to be shared out by `choose` when the table is known.

        Raises:
            ValueError: If not even the smallest rows fit.
        """
        weights = torch.ones(num_embeddings) if weights is None else weights
        limit = budget.max_bits(num_embeddings, embedding_dim)
        sizes = torch.bincount(cut(weights, self.blocks)).tolist()
        one_axis = Run(GROUP, -(-self.memory // GROUP), 1)
        smallest: Plan = {"sizes": sizes, "runs": [[one_axis]] * len(sizes), "basis_bits": BASIS_BITS[-1]}
        least = self.stored_bits(num_embeddings, embedding_dim, smallest)
        least += num_embeddings * max(0, self._floor(embedding_dim) - 8 * -(-self.memory // 8))
        if embedding_dim < GROUP or least > limit:
            raise self.too_little(num_embeddings, embedding_dim, budget, least)
        return [smallest | {"limit": limit}]

    def _floor(self, embedding_dim: int) -> int:
        """The fewest bits of a row."""
        return math.ceil(self.min_bits * embedding_dim)

    def choose(
        self, table: Tensor, plans: list[Plan], weights: Tensor, generator: torch.Generator, progress: bool
    ) -> Plan:
        """How many axes, how exact a basis, and the rates of every block, by the distortion that they promise."""
        axes = Axes(table, weights, cut(weights, self.blocks), self._floor(table.shape[1]))
        (plan,), best, least = plans, None, math.inf
        groups = axes.energy.shape[1]
        for kept in sorted({max(1, math.ceil(groups * part / 8)) for part in (1, 2, 3, 4, 6, 8)}):
            for bits in BASIS_BITS:
                room = plan["limit"] - self._beside_rows(table, axes, kept, bits)
                rates, distortion = axes.share(kept, room, self.memory)
                # What a rounded basis loses: its entries are near to normal, clipped at 3.5 deviations.
                promised = distortion + 4.1 * 4.0**-bits * float(axes.energy[:, :kept].sum())
                if rates is not None and promised < least:
                    best, least = (kept, bits), promised
        if best is None:
            raise ValueError(
                f"no plan fits {plan['limit'] // 8:,} bytes; allow more, or fewer blocks, or a smaller min_bits"
            )
        return self._exact(table, axes, *best, plan)

    def _beside_rows(self, table: Tensor, axes: "Axes", kept: int, bits: int) -> int:
        """Bits of basis, mean, map and scales: all but the rows' streams, counted."""
        sizes = axes.counts.tolist()
        runs = [[Run(axes.width(kept), 8, 1)]] * len(sizes)
        plan = {"sizes": sizes, "runs": runs, "basis_bits": bits}
        scales = 16 * len(sizes) * len(RATES)  # no block needs more runs than there are rates, as a rule
        return self.stored_bits(table.shape[0], table.shape[1], plan) - 8 * axes.width(kept) * len(table) + scales

    def _exact(self, table: Tensor, axes: "Axes", kept: int, bits: int, plan: Plan) -> Plan:
        """Rows of whole bytes: each block's rates for every length of its rows, then the lengths for all blocks."""
        room = plan["limit"] - self._beside_rows(table, axes, kept, bits)
        while True:
            runs = axes.whole_bytes(kept, room, self.memory)
            found = {"sizes": axes.counts.tolist(), "runs": runs, "basis_bits": bits}
            over = self.stored_bits(table.shape[0], table.shape[1], found) - plan["limit"]
            if over <= 0:
                return found
            room -= over

    def empty(self, num_embeddings: int, embedding_dim: int, plan: Plan) -> CompressedEmbedding:
        blocks = [Trellis(size, runs, self.memory) for size, runs in zip(plan["sizes"], plan["runs"], strict=True)]
        rows = blocks[0] if len(blocks) == 1 else Rows(blocks, mapped=plan.get("mapped", True))
        return Projected(rows, Scalar(rows.embedding_dim, embedding_dim, plan["basis_bits"], "row"))

    def fit_plan(
        self, table: Tensor, plan: Plan, weights: Tensor, generator: torch.Generator, progress: bool
    ) -> CompressedEmbedding:
        block_of = cut(weights, self.blocks)
        axes = Axes(table, weights, block_of)
        width = sum(run.columns for run in plan["runs"][0])
        coordinates = (axes.coordinates / axes.deviations)[:, :width]
        blocks: list[Trellis] = []
        for number, runs in enumerate(plan["runs"]):
            rows = coordinates[block_of == number]
            title = f"tcq: block {number + 1} of {len(plan['runs'])}" if progress else ""
            scales = run_scales(rows, runs).half().to(rows.dtype)
            streams = encode(rows, runs, scales, axes.deviations[:width].square(), self.memory, title)
            blocks.append(Trellis.of(streams, scales, runs, self.memory))
        inner = blocks[0] if len(blocks) == 1 else Rows.of(blocks, block_of)
        fitted = affine(inner.dense().detach(), table, weights, RIDGE)
        return Projected.of(inner, quantise(fitted[1:], plan["basis_bits"], "row"), fitted[0])


def run_scales(rows: Tensor, runs: Sequence[Run]) -> Tensor:
    """The scale of each run, (runs): a decoded value has the variance of what is coded less the distortion."""
    sizes = [part.square().mean().sqrt() for part in rows.split([run.columns for run in runs], dim=1)]
    shares = [math.sqrt(1 - 4.0 ** -(run.bits / run.width)) for run in runs]
    return torch.stack(sizes) * torch.tensor(shares, device=rows.device)


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
