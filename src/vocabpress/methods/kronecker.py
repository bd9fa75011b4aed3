"""Kronecker products.

"KroneckerBERT: Significant Compression of Pre-trained Language Models Through Kronecker Decomposition and Knowledge
Distillation", Tahaei, Charlaix, Partovi Nia, Ghodsi, Rezagholizadeh, NAACL 2022 (arXiv 2109.06243), section 3.2.

    X ~ A (x) b,   row i = A_i (x) b,   A in R^{V x d/n}, b in R^n shared by all rows;

in general X ~ sum_t A_t (x) B_t with A_t (m1 x n1) and B_t (m2 x n2). The paper starts from the nearest such product
in the Frobenius norm, by the SVD of the rearranged matrix, and distils (`vocabpress recover`).

Stored: ``Kronecker(A, B)``, a ``Sum`` of them for several terms, each factor `Dense` in float16 or `Scalar` with 8 or 4
bits (a scale for each column of A and each row of B).

Our choices: token weights multiply the rows' errors (see `fitting/kronecker.py` for where the result is still the
optimum); B carries the scale; B is refitted to the rounded A; n is the divisor of d with the least error among those
that the budget allows, because a wider b is not a special case of a narrower one, and a smaller n could be worse.

With b of norm 1 and m2 = 1 a row is its projection onto d/n axes, copies of b side by side: a low rank of d/n with
axes that are almost fixed. The SVD of that rank costs d^2/n numbers more and never errs more.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vocabpress.embeddings import CompressedEmbedding
from vocabpress.fitting.kronecker import check_divides, divisors, empty_kronecker, fit_kronecker, most_terms
from vocabpress.fitting.quantise import Factors
from vocabpress.fitting.table import Decoded, Table
from vocabpress.methods.base import Family, Method, Plan
from vocabpress.progress import Bar
from vocabpress.settings import AtLeast0, AtLeast1, check_settings


@dataclass(frozen=True)
class NearestKronecker(Method):
    """The nearest sum of Kronecker products.

    Attributes:
        width: n, columns of the right factor; None takes the divisor of d that errs least inside the budget.
        rows: m2, rows of the right factor; 1 as in the paper.
        terms: Products that are added up; 0 takes as many as the budget allows.
        factors: Number format of both factors: ``"float16"``, ``"int8"`` or ``"int4"``.

    Example:
        >>> table = torch.kron(torch.randn(100, 3), torch.randn(1, 4))
        >>> NearestKronecker(width=4).fit(table, budget=Budget.ratio(4))  # exact up to float16
    """

    paper: ClassVar[str] = "Tahaei et al., NAACL 2022"

    width: AtLeast1 | None = None
    rows: AtLeast1 = 1
    terms: AtLeast0 = 1
    factors: Factors = "float16"

    __post_init__ = check_settings

    def families(self, num_embeddings: int, embedding_dim: int, weights: Tensor) -> list[Family]:
        if self.rows > num_embeddings:
            raise ValueError(f"the right factor has {self.rows} rows, the table {num_embeddings}; take fewer")
        if self.width is not None:
            check_divides(self.width, embedding_dim, "the width of the table")
        families = []
        for width in divisors(embedding_dim) if self.width is None else [self.width]:
            most = most_terms(num_embeddings, embedding_dim, self.rows, width)
            counts = [min(self.terms, most)] if self.terms else range(1, most + 1)
            families.append(Family({"width": width}, "terms", counts))
        return families

    def empty(self, num_embeddings: int, embedding_dim: int, plan: Plan) -> CompressedEmbedding:
        return empty_kronecker(num_embeddings, embedding_dim, self.rows, plan["width"], plan["terms"], self.factors)

    def choose(
        self, table: Table, plans: list[Plan], weights: Tensor, generator: torch.Generator, progress: bool
    ) -> Plan:
        """The plan that errs least; each is fitted."""

        def error(plan: Plan) -> float:
            fitted = self.fit_plan(table, plan, weights, generator, progress=False).round_to_stored()
            left = table.minus(Decoded(fitted))
            return float(left.sum(lambda places, rows: ((weights[places] @ rows.square()).double().sum(),))[0])

        return min(Bar(plans, desc="kronecker: search", disable=not progress), key=error)

    def fit_plan(
        self, table: Table, plan: Plan, weights: Tensor, generator: torch.Generator, progress: bool
    ) -> CompressedEmbedding:
        return fit_kronecker(table, self.rows, plan["width"], plan["terms"], self.factors, weights)
