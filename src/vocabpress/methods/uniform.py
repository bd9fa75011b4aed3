"""Uniform quantisation: entries rounded to n bits, with a scale for each row, group or column.

Every toolchain does this to a table first (round to nearest; e.g. Jacob et al., CVPR 2018, and llama.cpp's block
formats, which have a scale for each 32 entries).

    x_ij ~ scale * level(code_ij),   2**n levels spread evenly from -1 to 1

Stored: ``Scalar``.

The levels have no zero point: token tables are centred near zero, and at low rates a second number for each group costs
more than it gains. `search` looks for the scale with the least squared error among clipping points; without it a scale
reaches the largest entry. Our choice: bits and grouping are searched inside the budget, the groupings measured on some
of the rows.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from vocabpress.embeddings import CompressedEmbedding, Scalar
from vocabpress.fitting.quantise import quantise
from vocabpress.fitting.table import Table, draw
from vocabpress.methods.base import Family, Method, Plan
from vocabpress.progress import Bar
from vocabpress.settings import AtLeast1, CodeBits, check_settings

GROUPS = (128, 64, 32, 16, 8)
SAMPLE_ROWS = 4096  # on which the groupings are compared


@dataclass(frozen=True)
class Uniform(Method):
    """Round to nearest.

    Attributes:
        bits: Bits of an entry, 1 to 8; None takes as many as fit.
        scales: A scale for each ``"row"``, ``"group"`` of a row or ``"column"``; ``"auto"`` takes the best of these.
        group_size: Entries of a group; None takes the best of 128, 64, 32, 16 and 8. The last may be shorter.
        search: Whether to search for the scale of least error; without it, it reaches the largest entry.
    """

    paper: ClassVar[str] = "round to nearest"

    bits: CodeBits | None = None
    scales: Literal["auto", "row", "group", "column"] = "auto"
    group_size: AtLeast1 | None = None
    search: bool = True

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        check_settings(self)
        if self.group_size is not None and self.scales not in ("auto", "group"):
            raise ValueError(f"group_size goes with scales='group'; got {self.group_size} and {self.scales!r}")

    def families(self, num_embeddings: int, embedding_dim: int, weights: Tensor) -> list[Family]:
        """A family for each grouping; a group of 0 entries stands for a whole column."""
        groups = [size for size in GROUPS if size < embedding_dim] or [embedding_dim]
        if self.group_size is not None:
            groups = [min(self.group_size, embedding_dim)]
        by_scales = {"row": [embedding_dim], "group": groups, "column": [0]}
        by_scales["auto"] = groups if self.group_size is not None else [embedding_dim, *groups, 0]
        sizes = range(1, 9) if self.bits is None else [self.bits]
        return [Family({"group_size": size}, "bits", sizes) for size in dict.fromkeys(by_scales[self.scales])]

    def empty(self, num_embeddings: int, embedding_dim: int, plan: Plan) -> CompressedEmbedding:
        axis, size = _grouping(plan, embedding_dim)
        return Scalar(num_embeddings, embedding_dim, plan["bits"], axis, size)

    def choose(
        self, table: Table, plans: list[Plan], weights: Tensor, generator: torch.Generator, progress: bool
    ) -> Plan:
        """The plan that errs least on a sample of the rows."""
        ids = draw(len(table), SAMPLE_ROWS, generator)
        rows, shares, errors = table.gather(ids), weights[ids], []
        for plan in Bar(plans, desc="uniform: search", disable=not progress):
            fitted = self.fit_plan(Table.of(rows), plan, shares, generator, False).dense().detach()
            errors.append(float(shares @ (fitted - rows).square().sum(-1)))
        return plans[errors.index(min(errors))]

    def fit_plan(
        self, table: Table, plan: Plan, weights: Tensor, generator: torch.Generator, progress: bool
    ) -> CompressedEmbedding:
        axis, size = _grouping(plan, table.shape[1])
        return quantise(table, plan["bits"], axis, size, search=self.search, weights=weights)


def _grouping(plan: Plan, embedding_dim: int) -> tuple[Literal["row", "group", "column"], int | None]:
    size = plan["group_size"]
    if size in (0, embedding_dim):
        return ("row" if size else "column"), None
    return "group", size
