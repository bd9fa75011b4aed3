"""DiscBlock: blocks of tokens by clusters of their scores, each of low rank.

"Block-wise Word Embedding Compression Revisited: Better Weighting and Structuring", Jong-Ryul Lee, Yong-Ju Lee,
Yong-Hyuk Moon, Findings of EMNLP 2021, pp. 4379-4388, and its public code.

GroupReduce with other blocks and other weights:

1. Blocks are the clusters of a one-dimensional k-means on the tokens' scores; the rank of a block is proportional to
   its centroid. ``alpha`` floors the centroids at alpha times the largest.
2. After that the unused budget goes into higher ranks, the block with the most tokens first ("expand").
3. Moving tokens between blocks, as in GroupReduce, is possible but off.

The scores are the token weights of the fit. The paper's three kinds: DiscBlock-F counts tokens, DiscBlock-T takes
`vocabpress.calibrate.counts.tfidf`, DiscBlock-D learns gates (`vocabpress.calibrate.gates`).

Our choices: k-means starts from evenly spaced distinct scores and so depends on no seed; alpha floors all centroids,
not the smallest alone; and those of `groupreduce`. Where scores have fewer distinct values than the blocks asked for,
there are as many blocks as values: with equal weights this is `svd`.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from vocabpress.budget import Budget, largest
from vocabpress.fitting.blocks import full_ranks
from vocabpress.methods.base import Plan
from vocabpress.methods.groupreduce import GroupReduce
from vocabpress.settings import AtLeast0

ITERATIONS = 1000  # of k-means, at most


@dataclass(frozen=True)
class DiscBlock(GroupReduce):
    """DiscBlock: clusters of the vocabulary by token weight.

    Attributes:
        blocks: Clusters.
        factors: Number format of the factors: ``"float16"``, ``"int8"`` or ``"int4"``.
        rounds: Rounds of moving tokens between blocks, at most; 0 leaves it out.
        moving_ratio: Share of the candidates that move in a round.
        least_candidates: Fewest for another round.
        alpha: The least importance of a block, relative to the most important one.
        expand: Whether unused budget goes into higher ranks.
    """

    paper: ClassVar[str] = "Lee et al., Findings of EMNLP 2021"

    rounds: AtLeast0 = 0
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.0
    expand: bool = True

    def assign_blocks(self, weights: Tensor) -> tuple[Tensor, list[float]]:
        block_of, centroids = clusters(weights, self.blocks)
        return block_of, centroids.clamp(min=self.alpha * float(centroids.max())).tolist()

    def plans(
        self, num_embeddings: int, embedding_dim: int, budget: Budget, weights: Tensor | None = None
    ) -> list[Plan]:
        """As in every method; then "expand"."""
        plans = super().plans(num_embeddings, embedding_dim, budget, weights)
        limit = budget.max_bits(num_embeddings, embedding_dim)
        return [self._expanded(num_embeddings, embedding_dim, plan, limit) if self.expand else plan for plan in plans]

    def _expanded(self, num_embeddings: int, embedding_dim: int, plan: Plan, limit: int) -> Plan:
        """The plan with each block's rank as high as the limit allows, the largest block first."""
        ranks, sizes = list(plan["ranks"]), plan["sizes"]
        for block in sorted(range(len(sizes)), key=lambda block: -sizes[block]):

            def bits(rank: int, block: int = block) -> int:
                changed = {**plan, "ranks": (*ranks[:block], rank, *ranks[block + 1 :])}
                return self.stored_bits(num_embeddings, embedding_dim, changed)

            full = full_ranks(sizes, embedding_dim)[block]
            ranks[block] = largest(bits, limit, range(ranks[block], full + 1)) or ranks[block]
        return {**plan, "ranks": tuple(ranks)}


def clusters(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """One-dimensional k-means of scores, (V), by Lloyd's iterations; ``count`` clusters or one for each distinct score.

    Returns the cluster of each score, (V), and the centroids, rising, float64; no cluster is empty.
    """
    values, inverse, repeats = scores.double().unique(return_inverse=True, return_counts=True)
    count = min(count, len(values))
    middle = (torch.arange(count, device=values.device) + 0.5) * len(values) / count
    centroids = values[middle.long()]
    labels = torch.zeros_like(inverse)
    for _ in range(ITERATIONS):
        labels = torch.bucketize(values, (centroids[1:] + centroids[:-1]) / 2)
        mass = centroids.new_zeros(count).index_add_(0, labels, repeats.double())
        means = centroids.new_zeros(count).index_add_(0, labels, repeats * values) / mass
        means = torch.where(mass > 0, means, centroids)
        if torch.equal(means, centroids):
            break
        centroids = means
    used, labels = labels.unique(return_inverse=True)
    return labels[inverse], centroids[used]
