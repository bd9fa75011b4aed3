"""Trellis-coded quantisation on the principal axes, with bits shared out by one slope over axes and blocks of tokens.

    x_i ~ mean + z_i B,   z_i the decoded stream of bits of token i, B the axes

Trellis-coded quantisation: Marcellin and Fischer, 1990; the bit-shift trellis with computed words: Tseng et al., QTIP,
NeurIPS 2024. Reverse water-filling: Cover and Thomas, section 10.3. The combination for token tables is ours:

1. Rotate to the principal axes of the rows weighted by their token weights, keep r of them.
2. Cut the vocabulary into blocks of near token weight. Each (block, axis) has a variance, so each has a distortion at
   each rate; one slope over all of them says how many bits each gets (`fitting/rates.py`). Rates are 0, 1/4, 1/2,
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
from vocabpress.fitting.binary import affine
from vocabpress.fitting.quantise import quantise
from vocabpress.fitting.rates import GROUP, RATES, Axes, cut
from vocabpress.fitting.trellis import encode
from vocabpress.methods.base import Family, Method, Plan

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
