"""Any method in blocks of tokens, each with the bytes that its rows deserve.

One slope for all blocks of tokens, as for axes (Shoham and Gersho, "Efficient bit allocation for an arbitrary set of
quantizers", 1988). GroupReduce and DiscBlock do this for low rank, with ranks in proportion to the weights; here the
distortion of each block is measured at several sizes, and any method may do the work: its codes then spend by
frequency, which token weights inside one fit hardly bring about.

1. Blocks are equal steps of the logarithm of the token weight; the most frequent ones are one block until they have as
   many rows as a decoder of their own is worth.
2. In each block the method is fitted to a sample of rows at several budgets. Between these points the logarithm of the
   distortion is taken to be linear in the bytes.
3. The bytes are shared out by one slope (`fitting/allocation.py`), and each block is fitted.

Without token weights, or where all are equal, there is one block, and the result is that of the method alone.

Stored: ``Rows`` of what the method stores.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vocabpress.budget import Budget
from vocabpress.embeddings import CompressedEmbedding, Rows
from vocabpress.fitting.allocation import allocate
from vocabpress.fitting.rates import weight_classes
from vocabpress.fitting.table import Table, draw
from vocabpress.methods.base import Method, Plan, rounded
from vocabpress.progress import Bar
from vocabpress.settings import BlockCount, check_settings

SAMPLE_ROWS = 2048
SHARES = (0.25, 0.5, 1.0, 2.0, 4.0)  # the budgets at which a block is measured, over an equal share a row
STEPS = 16  # sizes between two of them
LEAST_ROWS = 4  # rows of a block over the width: with fewer its decoders cost more than its codes


@dataclass(frozen=True)
class Blockwise(Method):
    """A method for each block of tokens; from the command line ``blockwise:NAME``.

    Attributes:
        inner: What fits the blocks.
        blocks: Blocks of tokens by token weight, at most.

    Example:
        >>> Blockwise(LightToken()).fit(table, budget=Budget.ratio(50), token_weights=weights)
    """

    paper: ClassVar[str] = "Shoham and Gersho, 1988; as in Chen et al., NeurIPS 2018"

    inner: Method
    blocks: BlockCount = 8

    __post_init__ = check_settings

    def assign_blocks(self, weights: Tensor, embedding_dim: int) -> Tensor:
        """The block of each token, (V), those of the largest weights first; all but the last have enough rows."""
        block_of = weight_classes(weights, self.blocks)
        merged, rows = torch.zeros(int(block_of.max()) + 1, dtype=torch.int64, device=weights.device), 0
        for block, count in enumerate(torch.bincount(block_of).tolist()):
            merged[block], rows = int(merged[block - 1]) if block else 0, rows + count
            if block and rows - count >= LEAST_ROWS * embedding_dim:
                merged[block], rows = merged[block] + 1, count
        if rows < LEAST_ROWS * embedding_dim:
            merged.clamp_(max=max(0, int(merged[-1]) - 1))
        return merged[block_of]

    def plans(
        self, num_embeddings: int, embedding_dim: int, budget: Budget, weights: Tensor | None = None
    ) -> list[Plan]:
        """One plan, each block with an equal share a row, which `choose` changes.

        Raises:
            ValueError: If that is too little for a block.
        """
        weights = torch.ones(num_embeddings) if weights is None else weights
        sizes = torch.bincount(self.assign_blocks(weights, embedding_dim)).tolist()
        if len(sizes) == 1:
            plans = self.inner.plans(num_embeddings, embedding_dim, budget, weights)
            return [{"blocks": [plan], "sizes": sizes} for plan in plans]
        map_bits = 8 * -(-num_embeddings * max(1, (len(sizes) - 1).bit_length()) // 8)
        limit = budget.max_bits(num_embeddings, embedding_dim) - map_bits
        shares = [Budget.bytes(max(1, limit * size // num_embeddings // 8)) for size in sizes]
        try:
            plans = [self.inner.plans(size, embedding_dim, share)[0] for size, share in zip(sizes, shares, strict=True)]
        except ValueError as error:
            raise ValueError(f"{budget} is too little for {len(sizes)} blocks, the smallest: {error}") from None
        return [{"blocks": plans, "sizes": sizes, "limit": limit}]

    def choose(
        self, table: Table, plans: list[Plan], weights: Tensor, generator: torch.Generator, progress: bool
    ) -> Plan:
        """The plan of each block at the bytes that one slope gives it."""
        (first, *_), width = plans, table.shape[1]
        if len(first["sizes"]) == 1:
            inner = [plan["blocks"][0] for plan in plans]
            return first | {"blocks": [self.inner.choose(table, inner, weights, generator, progress)]}
        block_of = self.assign_blocks(weights, width)
        blocks = [_block(table, weights, block_of == b) for b in range(len(first["sizes"]))]
        costs, distortions = [], []
        with Bar(total=len(blocks) * len(SHARES), desc="blockwise: sizes", disable=not progress) as bar:
            for number, (rows, weighs) in enumerate(blocks):
                points = self._points(rows, weighs, first["limit"] / len(table), generator, bar)
                costs.append(points[0])
                distortions.append(points[1] * float(weights[block_of == number].mean()))
        chosen = allocate(torch.stack(costs), torch.stack(distortions), first["limit"])
        left, made = first["limit"], []
        for number, (rows, weighs) in enumerate(blocks):
            # The unused part of a block's share goes to the ones after it; the last is the largest.
            after = sum(int(costs[later][chosen[later]]) for later in range(number + 1, len(blocks)))
            found = self.inner.plans(len(rows), width, Budget.bytes((left - after) // 8), weighs)
            made.append(self.inner.choose(rows, found, weighs, generator, progress))
            left -= self.inner.stored_bits(len(rows), width, made[-1])
        return first | {"blocks": made}

    def _points(
        self, rows: Table, weights: Tensor, row_bits: float, generator: torch.Generator, bar: Bar
    ) -> tuple[Tensor, Tensor]:
        """Bits and distortions of a block at many sizes, each (sizes), from fits to a sample at those of `SHARES`."""
        sample = draw(len(rows), SAMPLE_ROWS, generator)
        some, weighs, scale = Table.of(rows.gather(sample)), weights[sample], len(rows) / len(sample)
        bits, logs = [], []
        for share in SHARES:
            bar.update()
            budget = Budget.bytes(max(1, int(share * row_bits * len(rows)) // 8))
            try:
                plans = self.inner.plans(*rows.shape, budget, weights)
                plan = self.inner.choose(some, plans, weighs, generator, False)
            except ValueError:
                continue  # too small for this method
            fitted = rounded(self.inner.fit_plan(some, plan, weighs, generator, False), some).dense().detach()
            distortion = scale * float(weighs @ (fitted - some.dense()).square().sum(1))
            bits.append(float(self.inner.stored_bits(*rows.shape, plan)))
            logs.append(max(distortion, 1e-30))
        return _between(torch.tensor(bits, dtype=torch.float64), torch.tensor(logs, dtype=torch.float64).log())

    def empty(self, num_embeddings: int, embedding_dim: int, plan: Plan) -> CompressedEmbedding:
        blocks = zip(plan["sizes"], plan["blocks"], strict=True)
        forms = [self.inner.empty(size, embedding_dim, part) for size, part in blocks]
        return forms[0] if len(forms) == 1 else Rows(forms, mapped=True)

    def fit_plan(
        self, table: Table, plan: Plan, weights: Tensor, generator: torch.Generator, progress: bool
    ) -> CompressedEmbedding:
        if len(plan["sizes"]) == 1:
            return self.inner.fit_plan(table, plan["blocks"][0], weights, generator, progress)
        block_of = self.assign_blocks(weights, table.shape[1])
        forms = []
        for number, part in enumerate(plan["blocks"]):
            rows, weighs = _block(table, weights, block_of == number)
            forms.append(self.inner.fit_plan(rows, part, weighs, generator, progress))
        return Rows.of(forms, block_of)


def _block(table: Table, weights: Tensor, inside: Tensor) -> tuple[Table, Tensor]:
    """The rows of a block, and their weights, mean 1."""
    weighs, mean = weights[inside], weights[inside].mean()
    return table.some(inside.nonzero()[:, 0]), weighs / mean if float(mean) > 0 else torch.ones_like(weighs)


def _between(bits: Tensor, logs: Tensor) -> tuple[Tensor, Tensor]:
    """Sizes between the measured ones, the logarithm of the distortion linear; both (STEPS * len(SHARES)).

    The log-distortion is first made to fall: a size that errs more than a smaller one is taken to err like that one.
    """
    falling = logs.cummin(0).values
    targets = torch.linspace(float(bits[0]), float(bits[-1]), STEPS * len(SHARES), dtype=torch.float64)
    right = torch.searchsorted(bits, targets).clamp(1, max(1, len(bits) - 1))
    if len(bits) == 1:
        return targets.long(), falling.exp().expand(len(targets)).clone()
    part = (targets - bits[right - 1]) / (bits[right] - bits[right - 1]).clamp(min=1)
    return targets.long(), (falling[right - 1] + part * (falling[right] - falling[right - 1])).exp()
