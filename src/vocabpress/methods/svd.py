"""Truncated singular value decomposition, plain or weighted by token.

    x_i ~ left_i @ right + mean

The classical baseline of every paper in this library (Eckart and Young, 1936; as a table compressor e.g. Chen et al.,
GroupReduce, NeurIPS 2018, which also weights the rows). With token weights w the weighted error
sum_i w_i ||x_i - x^_i||^2 is minimal among all factorisations of that rank.

Stored: ``Projected(left, right, mean)``, each factor `Dense` in float16 or `Scalar` with 8 or 4 bits (a scale for each
column of left and each row of right).

Our choices: the table is centred, because the mean row costs one more row and never hurts; the rounded left factor is
given the right factor that suits it best, by least squares, before that one is rounded too.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vocabpress.embeddings import CompressedEmbedding
from vocabpress.fitting.quantise import Factors, check_factors, empty_low_rank, store_low_rank
from vocabpress.fitting.table import Table
from vocabpress.methods.base import Family, Method, Plan


@dataclass(frozen=True)
class SVD(Method):
    """Truncated SVD of the centred table.

    Attributes:
        factors: Number format of both factors: ``"float16"``, ``"int8"`` or ``"int4"``.

    Example:
        >>> table = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [2.0, 0.0], [-2.0, 0.0]])  # rank 1, mean 0
        >>> SVD().fit(table, budget=Budget.ratio(1.5)).dense().round(decimals=3)
    """

    paper: ClassVar[str] = "Eckart and Young, 1936"

    factors: Factors = "float16"

    def __post_init__(self) -> None:
        """Refuse unknown factors."""
        check_factors(self.factors)

    def families(self, num_embeddings: int, embedding_dim: int, weights: Tensor) -> list[Family]:
        return [Family({}, "rank", range(1, min(num_embeddings, embedding_dim) + 1))]

    def empty(self, num_embeddings: int, embedding_dim: int, plan: Plan) -> CompressedEmbedding:
        return empty_low_rank(num_embeddings, embedding_dim, plan["rank"], self.factors)

    def fit_plan(
        self, table: Table, plan: Plan, weights: Tensor, generator: torch.Generator, progress: bool
    ) -> CompressedEmbedding:
        return store_low_rank(table, plan["rank"], weights, self.factors)
