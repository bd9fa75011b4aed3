"""GroupReduce: blocks of tokens by frequency, each of low rank.

"GroupReduce: Block-Wise Low-Rank Approximation for Neural Language Model Shrinking", Chen, Si, Li, Chelba, Hsieh,
NeurIPS 2018 (arXiv 1806.06950).

1. Tokens sorted by weight q_i are cut into c blocks of equal size.
2. A block's rank is proportional to its mean weight, k_p = k_min qbar_p / qbar_min, with the largest k_min that meets
   the budget; a block that reaches full rank is stored whole.
3. Each block gets the SVD with the least sum_i q_i ||x_i - x^_i||^2.
4. Refinement: a token is a candidate if another block's subspace represents its row better; the best tenth of the
   candidates moves and the SVDs are computed again, at most t_max times, until fewer than m_min candidates are left.

With equal weights the blocks are runs of neighbouring ids, their ranks differ by one at most, and step 4 is the
k-subspaces clustering of MESSI (Maalouf et al., ICLR 2021).

Stored: ``Rows(Projected(left, right, mean), …)``, the factors as in `svd`, with a map from token to block unless the
blocks are runs of ids.

Our choices: k_min is a real number, so that the budget is used up to one rank of one block; a block is stored whole as
soon as that takes no more bytes; blocks are centred, as in `svd`. The paper stops where a move would exceed the budget.
Where ranks differ that is at once, as a larger subspace represents every row better; here a row's bits have a price
instead, the lowest at which the moves fit (`fitting/reassign.py`). Moves are sorted by what they gain, and stop as well
when a round gains less than a ten-thousandth.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from vocabpress.embeddings import CompressedEmbedding, Projected, Rows
from vocabpress.fitting.blocks import ProportionalRanks, contiguous, empty_block, full_ranks, store_blocks
from vocabpress.fitting.quantise import Factors
from vocabpress.fitting.reassign import Storage, reassign
from vocabpress.fitting.table import Table
from vocabpress.methods.base import Family, Method, Plan
from vocabpress.settings import AtLeast0, AtLeast1, BlockCount, check_settings


@dataclass(frozen=True)
class GroupReduce(Method):
    """GroupReduce: equal cuts of the vocabulary sorted by token weight.

    Attributes:
        blocks: c.
        factors: Number format of the factors: ``"float16"``, ``"int8"`` or ``"int4"``.
        rounds: t_max of the refinement; 0 leaves it out.
        moving_ratio: Share of the candidates that move in a round.
        least_candidates: m_min.
    """

    paper: ClassVar[str] = "Chen et al., NeurIPS 2018"

    blocks: BlockCount = 5
    factors: Factors = "float16"
    rounds: AtLeast0 = 1000
    moving_ratio: Annotated[float, Field(gt=0, le=1)] = 0.1
    least_candidates: AtLeast1 = 5

    __post_init__ = check_settings

    def assign_blocks(self, weights: Tensor) -> tuple[Tensor, list[float]]:
        """The block of each token, (V), and the importance of each block, to which its rank is proportional."""
        block_of = torch.empty_like(weights, dtype=torch.int64)
        parts = weights.argsort(descending=True, stable=True).tensor_split(self.blocks)
        for block, ids in enumerate(parts):
            block_of[ids] = block
        return block_of, [float(weights[ids].mean()) for ids in parts]

    def families(self, num_embeddings: int, embedding_dim: int, weights: Tensor) -> list[Family]:
        if self.blocks > num_embeddings:
            raise ValueError(
                f"{self.blocks} blocks are more than the {num_embeddings} tokens of this table; "
                f"set blocks to {num_embeddings} or less"
            )
        block_of, importance = self.assign_blocks(weights)
        sizes = tuple(torch.bincount(block_of).tolist())
        # Refinement moves any token anywhere, so it needs the map.
        mapped = len(sizes) > 1 and (self.rounds > 0 or not contiguous(block_of))
        ranks = ProportionalRanks(importance, full_ranks(sizes, embedding_dim))
        return [Family({"sizes": sizes, "mapped": mapped}, "ranks", ranks)]

    def empty(self, num_embeddings: int, embedding_dim: int, plan: Plan) -> CompressedEmbedding:
        blocks = zip(plan["sizes"], plan["ranks"], strict=True)
        return Rows(
            [empty_block(size, embedding_dim, rank, self.factors) for size, rank in blocks if size], plan["mapped"]
        )

    def fit_plan(
        self, table: Table, plan: Plan, weights: Tensor, generator: torch.Generator, progress: bool
    ) -> CompressedEmbedding:
        block_of, _ = self.assign_blocks(weights)
        if self.rounds and len(plan["sizes"]) > 1:
            block_of = reassign(
                table, weights, block_of, plan["ranks"], self._storage(*table.shape, plan),
                rounds=self.rounds, moving_ratio=self.moving_ratio, least_candidates=self.least_candidates,
                title=f"{type(self).__name__.lower()}: moving tokens", progress=progress,
            )  # fmt: skip
        return store_blocks(table, block_of, plan["ranks"], weights, self.factors)

    def _storage(self, num_embeddings: int, embedding_dim: int, plan: Plan) -> Storage:
        """What blocks of other sizes and the plan's ranks store; the plan's own bits are the most allowed."""

        def bits(sizes: list[int]) -> int:
            ranks = [min(pair) for pair in zip(plan["ranks"], full_ranks(sizes, embedding_dim), strict=True)]
            return self.stored_bits(num_embeddings, embedding_dim, {**plan, "sizes": sizes, "ranks": ranks})

        with torch.device("meta"):
            pairs = [
                [empty_block(count, embedding_dim, rank, self.factors) for count in (size, 2 * size)]
                for size, rank in zip(plan["sizes"], plan["ranks"], strict=True)
            ]
        return Storage(
            bits=bits,
            limit=self.stored_bits(num_embeddings, embedding_dim, plan),
            row_bits=[(two.total_bits() - one.total_bits()) / one.num_embeddings for one, two in pairs],
            whole=[not isinstance(one, Projected) for one, _ in pairs],
        )
