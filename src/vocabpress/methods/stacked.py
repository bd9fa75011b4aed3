"""One method on what another left over, inside one budget: `svd+residual`, `groupreduce+uniform`.

    x_i ~ first(x)_i + second(x - first(x))_i

The papers combine their methods with quantisation (LightToken's desideratum 3; DiscBlock's "cooperates with
quantisation"), and LightToken itself is a low rank with codes for its residual. Here any method may follow any other.

Our choice: the first gets a share of the budget, and the second the rest, with what the first could not use; the share
is given, or picked from SHARES by whole fits of both on a sample of rows.

Stored: ``Sum(what the first stores, what the second stores)``.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from vocabpress.budget import Budget
from vocabpress.embeddings import CompressedEmbedding, Sum
from vocabpress.fitting.table import Decoded, Table, draw
from vocabpress.methods.base import Method, Plan, rounded
from vocabpress.progress import Bar
from vocabpress.settings import check_settings

SHARES = (1 / 32, 1 / 8, 1 / 4, 1 / 2, 3 / 4)
SAMPLE_ROWS = 8192  # for the choice of the share


@dataclass(frozen=True)
class Stacked(Method):
    """Two methods, the second on the residual of the first. Three are one of these as the second.

    Attributes:
        first: Fits the table.
        second: Fits what the first left over.
        share: Share of the budget that the first may use; None searches.

    Example:
        >>> table = torch.randn(100, 8)
        >>> Stacked(SVD(), SVD("int8")).fit(table, budget=Budget.ratio(4)).config()["form"]
        'sum'
    """

    paper: ClassVar[str] = "residual coding; as in Wang et al., KDD 2023"

    first: Method
    second: Method
    share: Annotated[float, Field(gt=0, lt=1)] | None = None

    __post_init__ = check_settings

    def plans(
        self, num_embeddings: int, embedding_dim: int, budget: Budget, weights: Tensor | None = None
    ) -> list[Plan]:
        """For each share and each plan of the first the plans of the second that fit beside it.

        Raises:
            ValueError: If at no share both fit.
        """
        shape, limit = (num_embeddings, embedding_dim), budget.max_bits(num_embeddings, embedding_dim)
        found: list[Plan] = []
        refusal = ValueError()
        for share in SHARES if self.share is None else (self.share,):
            try:
                for first in self.first.plans(*shape, Budget.bytes(int(limit * share) // 8), weights):
                    rest = Budget.bytes((limit - self.first.stored_bits(*shape, first)) // 8)
                    pairs = [{"first": first, "second": plan} for plan in self.second.plans(*shape, rest, weights)]
                    found += [pair for pair in pairs if pair not in found]
            except ValueError as error:
                refusal = error
        if not found:
            raise ValueError(f"{budget} is too little for two methods, share by share; the last one tried: {refusal}")
        return found

    def empty(self, num_embeddings: int, embedding_dim: int, plan: Plan) -> CompressedEmbedding:
        shape = (num_embeddings, embedding_dim)
        return Sum([self.first.empty(*shape, plan["first"]), self.second.empty(*shape, plan["second"])])

    def choose(
        self, table: Table, plans: list[Plan], weights: Tensor, generator: torch.Generator, progress: bool
    ) -> Plan:
        """The pair with the least error after a whole fit on a sample; the second's own choice among its plans."""
        sample = draw(len(table), SAMPLE_ROWS, generator).sort().values
        rows, weights = Table.of(table.gather(sample)), weights[sample]
        firsts: list[Plan] = []
        for plan in plans:
            if plan["first"] not in firsts:
                firsts.append(plan["first"])
        best, least = plans[0], float("inf")
        for first in Bar(firsts, desc="share of the first", disable=not progress or len(firsts) == 1):
            partial = rounded(self.first.fit_plan(rows, first, weights, generator, False), rows)
            rest = rows.minus(Decoded(partial)).cached()
            seconds = [plan["second"] for plan in plans if plan["first"] == first]
            second = seconds[0]
            if len(seconds) > 1:
                second = self.second.choose(rest, seconds, weights, generator, False)
            fitted = self.second.fit_plan(rest, second, weights, generator, False).round_to_stored()
            error = float(weights @ rest.minus(Decoded(fitted)).column(lambda _, left: left.square().sum(1)))
            if error < least:
                best, least = {"first": first, "second": second}, error
        return best

    def fit_plan(
        self, table: Table, plan: Plan, weights: Tensor, generator: torch.Generator, progress: bool
    ) -> CompressedEmbedding:
        first = rounded(self.first.fit_plan(table, plan["first"], weights, generator, progress), table)
        rest = table.minus(Decoded(first)).cached()
        return Sum([first, self.second.fit_plan(rest, plan["second"], weights, generator, progress)])
