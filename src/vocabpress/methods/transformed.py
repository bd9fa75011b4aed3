"""What trellis-coded quantisation and fast-scan codes share: axes, blocks of tokens, and rates by one slope.

Not a method of its own. Transform coding: rows are turned to their principal axes, each axis gets the bits that its
variance deserves, and is coded by itself or with its neighbours (Goyal, "Theoretical foundations of transform coding",
IEEE Signal Processing Magazine 2001; reverse water-filling: Cover and Thomas, section 10.3). That blocks of tokens are
part of the same allocation is ours.

    x_i ~ mean + z_i B,   z_i the decoded code of token i, B the axes

1. Rotate to the first r principal axes of the rows weighted by their token weights.
2. Cut the vocabulary into blocks of similar token weight. Each (block, axis) has a variance, so each has a distortion
   at each rate; one slope over all of them gives the bits of each (`fitting/rates.py`), the same for all rows of a
   block, so that a row is found without an index.
3. Code the rows of each block, their error weighted by the axes' importance.
4. The axes and the mean are refitted to the decoded rows by weighted least squares, then rounded.

Codes of least squared error are shorter than the rows: their product with the row, the logit of the token where it is
right, is too small by the share of the error. ``unbiased``, for tables that an output head is tied to, codes each row a
second time, longer by what the first codes lost, and refits to the longer rows. It costs no byte. That codes should be
unbiased is known of inner products in search (RaBitQ, SIGMOD 2024); this way of doing it is ours
(`benchmarks/tied_weights.py`).

Stored: ``Projected(Rows(codes of a block, …), Scalar)``.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from vocabpress.budget import Budget
from vocabpress.embeddings import CompressedEmbedding, Dense, Projected, Rows, Run, Scalar
from vocabpress.fitting.lowrank import ridge, weighted_mean
from vocabpress.fitting.quantise import quantise
from vocabpress.fitting.rates import Axes, BlockRates, Ladder, weight_classes
from vocabpress.fitting.table import Decoded, Table
from vocabpress.methods.base import Method, Plan
from vocabpress.progress import Bar
from vocabpress.settings import BlockCount, check_settings

FLOAT = 16
BASIS_BITS = (FLOAT, 8, 6, 5, 4)
RIDGE = 1e-6
# How much worse the predicted error of the most blocks may be. A row far longer than the others of its block is out of
# reach of their words, which variances do not show: a few such rows, at equal error, doubled a model's perplexity.
IN_DOUBT = 0.03


@dataclass(frozen=True)
class TransformMethod(Method):
    """A method that codes rows on their principal axes, bits shared out over axes and blocks of tokens."""

    blocks: BlockCount = 8
    min_bits: Annotated[float, Field(ge=0, le=8)] = 0.0
    unbiased: bool | None = None

    ladder: ClassVar[Ladder]

    __post_init__ = check_settings

    def for_head(self, tied: bool) -> Method:
        return replace(self, unbiased=tied) if self.unbiased is None else self

    @abstractmethod
    def first_bits(self) -> int:
        """The fewest bits that the first group of axes can have."""

    @abstractmethod
    def block(self, size: int, runs: Sequence[Run]) -> CompressedEmbedding:
        """The form of the codes of a block, without numbers."""

    @abstractmethod
    def code(
        self, rows: Table, runs: Sequence[Run], importance: Tensor, generator: torch.Generator, bar: Bar
    ) -> CompressedEmbedding:
        """The codes of a block.

        Args:
            rows: (n, columns of the runs), each column divided by its deviation over the whole table.
            runs: The rates.
            importance: Weights of the columns' squared errors, (columns).
            generator: Source of all random numbers.
            bar: Advanced by `work` in total.
        """

    @abstractmethod
    def pace(self, rows: Table, runs: Sequence[Run], generator: torch.Generator) -> float:
        """Seconds for a unit of `work` on this machine, measured on some rows, shaped as those of `code`."""

    def expected_seconds(self, sample: Table, num_embeddings: int, budget: Budget) -> float | None:
        (rows, width), generator = sample.shape, torch.Generator().manual_seed(0)
        weights, larger = torch.ones(rows), num_embeddings / rows
        (plan,) = self.plans(num_embeddings, width, budget)
        basis = BASIS_BITS[-1] * width**2  # the least; a larger one would be traded for bits of the sampled rows
        plan |= {"sizes": [rows], "limit": basis + int(max(plan["limit"] - basis, 0) / larger)}
        plan = self.choose(sample, [plan], weights, generator, False)
        columns = sum(run.columns for run in plan["runs"][0])
        coordinates = self.axes(sample, weights).coordinates(sample, columns).cached()
        blocks = zip(plan["sizes"], plan["runs"], strict=True)
        work = sum(self.work(round(size * larger), runs) for size, runs in blocks) * self.passes
        return work * self.pace(coordinates, plan["runs"][0], generator)

    def work(self, size: int, runs: Sequence[Run]) -> float:
        """The work of coding a block of so many rows, in units of the method's own."""
        return float(size)

    def axes(self, table: Table, weights: Tensor) -> Axes:
        """The axes on which the rows are coded."""
        return Axes(table, weights, self.ladder.group)

    def refit(self, inner: CompressedEmbedding, table: Table, weights: Tensor, bits: int) -> CompressedEmbedding:
        """The decoded rows times axes of ``bits`` bits that are refitted to the table, (V, d)."""
        fitted = ridge(Decoded(inner), table, weights, RIDGE, offset=True)
        basis = Dense.of(fitted[1:]) if bits == FLOAT else quantise(fitted[1:], bits, "row")
        return Projected.of(inner, basis, fitted[0])

    def plans(
        self, num_embeddings: int, embedding_dim: int, budget: Budget, weights: Tensor | None = None
    ) -> list[Plan]:
        """One plan with the budget, which `choose` shares out when the table is known.

        Raises:
            ValueError: If not even the smallest rows fit.
        """
        smallest: Plan = {"cut": 1, "sizes": [num_embeddings], "runs": [[self._least_run(1)]]}
        smallest |= {"basis_bits": BASIS_BITS[-1], "limit": budget.max_bits(num_embeddings, embedding_dim)}
        least = self.stored_bits(num_embeddings, embedding_dim, smallest)
        least += num_embeddings * max(0, math.ceil(self.min_bits * embedding_dim) - row_bits(smallest["runs"][0]))
        if least > smallest["limit"]:
            raise self.too_little(num_embeddings, embedding_dim, budget, least)
        return [smallest]

    def _least_run(self, groups: int) -> Run:
        """The first groups at the lowest rate that the first one can have."""
        return Run(groups * self.ladder.group, *self.ladder.rungs[self.ladder.least(self.first_bits())])

    def choose(
        self, table: Table, plans: list[Plan], weights: Tensor, generator: torch.Generator, progress: bool
    ) -> Plan:
        """The number of blocks and axes, the bits of the basis, and the rates of each block, by predicted error."""
        (plan,), promises, cuts = plans, {}, {}
        axes, floor = self.axes(table, weights), math.ceil(self.min_bits * table.shape[1])
        coordinates = axes.coordinates(table).cached()
        for count in sorted({1, (self.blocks + 1) // 2, self.blocks}):
            block_of = self.assign_blocks(table, weights, count)
            blocks = BlockRates(axes, coordinates, weights, block_of, self.ladder, self.first_bits(), floor)
            cuts[count], groups = blocks, blocks.energy.shape[1]
            for used in sorted({max(1, math.ceil(groups * part / 8)) for part in (1, 2, 3, 4, 6, 8)}):
                for bits in BASIS_BITS:
                    _, distortion = blocks.share(used, plan["limit"] - self._beside_rows(table, blocks, used, bits))
                    # What a rounded basis loses: its entries are near to normal, clipped at 3.5 deviations. Float16
                    # has 11 bits of each entry. A metric is folded in before: errors of directions of a large
                    # eigenvalue are then as large as those of the others.
                    lost = plan.get("uneven", 1.0) * 4.1 * 4.0 ** -min(bits, 12)
                    promised = distortion + lost * float(blocks.energy[:, :used].sum())
                    promises[count, used, bits] = promised * (1 - IN_DOUBT * count / self.blocks)
        smallest = () if floor else ((1, 1, BASIS_BITS[-1]),)  # the plan that `plans` has found to fit
        for count, used, bits in (*sorted(promises, key=promises.__getitem__), *smallest):
            found = self._exact(table, cuts[count], used, bits, plan["limit"])
            if found is not None:
                return found | {"cut": count}
        raise ValueError(f"no plan fits {plan['limit'] // 8:,} bytes; allow more, or a smaller min_bits")

    def assign_blocks(self, table: Table, weights: Tensor, blocks: int) -> Tensor:
        """The block of each token, (V), by its weight times the energy of its row, which affect its bits alike."""
        energy = table.minus(weighted_mean(table, weights)).column(lambda _, rows: rows.square().sum(1))
        worth = weights * energy.clamp(min=1e-6 * float(energy.mean()) + 1e-30)
        least = float(worth.kthvalue(1 + len(worth) // 200).values)  # a few rows near zero make no block of their own
        return weight_classes(worth.clamp(min=least), blocks)

    def _beside_rows(self, table: Table, blocks: BlockRates, used: int, bits: int) -> int:
        """Bits of basis, mean and map, and about those of the scales and books of the blocks."""
        sizes, run = blocks.counts.tolist(), self._least_run(used)
        plan = {"sizes": sizes, "runs": [[run]] * len(sizes), "basis_bits": bits}
        return self.stored_bits(*table.shape, plan) - len(table) * row_bits([run])

    def _exact(self, table: Table, blocks: BlockRates, used: int, bits: int, limit: int) -> Plan | None:
        """Rates of rows of whole bytes, so that the whole form fits; None if that is impossible."""
        room = limit - self._beside_rows(table, blocks, used, bits)
        while True:
            runs = blocks.whole_bytes(used, room)
            if runs is None:
                return None
            found = {"sizes": blocks.counts.tolist(), "runs": runs, "basis_bits": bits}
            over = self.stored_bits(*table.shape, found) - limit
            if over <= 0:
                return found
            room -= over

    def empty(self, num_embeddings: int, embedding_dim: int, plan: Plan) -> CompressedEmbedding:
        blocks = [self.block(size, runs) for size, runs in zip(plan["sizes"], plan["runs"], strict=True)]
        rows = blocks[0] if len(blocks) == 1 else Rows(blocks, mapped=True)
        bits, shape = plan["basis_bits"], (rows.embedding_dim, embedding_dim)
        return Projected(rows, Dense(*shape) if bits == FLOAT else Scalar(*shape, bits, "row"))

    def fit_plan(
        self, table: Table, plan: Plan, weights: Tensor, generator: torch.Generator, progress: bool
    ) -> CompressedEmbedding:
        block_of, axes = self.assign_blocks(table, weights, plan["cut"]), self.axes(table, weights)
        width = sum(run.columns for run in plan["runs"][0])
        importance, lengths = axes.deviations[:width].square(), torch.ones_like(weights)
        blocks: list[CompressedEmbedding] = []
        total = sum(map(self.work, plan["sizes"], plan["runs"])) * self.passes
        with Bar(total=total, desc=f"{type(self).__name__}: codes", disable=not progress) as bar:
            for number, runs in enumerate(plan["runs"]):
                places = (block_of == number).nonzero()[:, 0]
                rows = axes.coordinates(table.some(places), width).cached()
                form = self.code(rows, runs, importance, generator, bar)
                if self.unbiased:
                    lengths[places] = longer = lost_length(rows, form, importance)
                    form = self.code(scaled(rows, longer), runs, importance, generator, bar)
                blocks.append(form)
        inner = blocks[0] if len(blocks) == 1 else Rows.of(blocks, block_of)
        aims = scaled(table, lengths, axes.mean) if self.unbiased else table
        return self.refit(inner, aims, weights, plan["basis_bits"])

    @property
    def passes(self) -> int:
        """How often each row is coded."""
        return 2 if self.unbiased else 1


def lost_length(rows: Table, form: CompressedEmbedding, importance: Tensor) -> Tensor:
    """The product of each row with itself over that with its decoded row, (n), from 1/2 to 2."""
    decoded = Decoded(form)

    def ratio(places: slice, part: Tensor) -> Tensor:
        weighed = part * importance
        own, seen = (weighed * part).sum(1), (weighed * decoded[places]).sum(1)
        return torch.where(seen > 0, own / seen, 1.0)

    return rows.column(ratio).clamp(0.5, 2)


def scaled(rows: Table, factors: Tensor, centre: Tensor | float = 0.0) -> Table:
    """Each row's distance from a centre times a factor, (n)."""
    return rows.map(lambda places, part: centre + (part - centre) * factors[places, None])


def coded(runs: Sequence[Run]) -> list[Run]:
    """The runs that have bits; they come first."""
    return [run for run in runs if run.bits]


def row_bits(runs: Sequence[Run]) -> int:
    """Bits of a row's codes, in whole bytes."""
    return 8 * math.ceil(sum(run.columns // run.width * run.bits for run in runs) / 8)
