"""LightToken: low rank, then hash codes for what is left.

"LightToken: A Task and Model-agnostic Lightweight Token Embedding Framework for Pre-trained Language Models", Wang, Li,
Jiang et al., KDD 2023.

    x_i ~ mean + L_i P + sum_s B_{i,s} W_s,   B_{i,s} in {-1, +1}^c

1. A rank-k SVD of the table, k small.
2. S binary autoencoders, one after another, each on what the ones before left over. A steep (tempered) sigmoid stands
   for the step function while training; before it saturates, training stops, the hard code is frozen, and the next
   autoencoder takes over.
3. The loss is an upper bound of the squared error in which the cosine has more weight, and it sees the whole row.

These steps are in the paper's abstract and its authors' summary. Neither code nor preprint is public, so the rest is
our choice: the exact loss ("calibrated"; with a weight of 1 it is the squared error. Other bounds that fit the
description are no better: `benchmarks/lighttoken.py`), linear encoders and decoders, the starting point and schedule of
`fitting/binary.py`. Also ours, and beyond the paper:

* k, S and the code length are searched inside the byte budget, by short fits on a sample with held-out rows.
* After the stages all decoders, P and the mean are refitted together by ridge least squares; linear decoders make the
  sum one additive code, so this is never worse.
* `polish` rounds of annealed bit flips (coordinate descent) and refits follow; 0 leaves them out.
* L, P and the decoders are stored in 8 bits by default.

Stored: ``Sum(Projected(L, P, mean), Projected(Scalar 1 bit, W_1), …)``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from vocabpress.embeddings import CompressedEmbedding, Projected, Scalar, Sum
from vocabpress.fitting.binary import Signs, flip_bits, train_codes
from vocabpress.fitting.lowrank import ridge, weighted_svd
from vocabpress.fitting.quantise import Factors, empty_factor, store_factor
from vocabpress.fitting.table import Beside, Decoded, Places, Readable, Table, draw
from vocabpress.methods.base import Family, Method, Plan
from vocabpress.progress import Bar
from vocabpress.settings import AtLeast0, AtLeast1, check_settings

STAGES = (1, 2, 4)
SAMPLE_ROWS, SAMPLE_EPOCHS = 6144, 3  # of the short fits that rank the plans
HOT, COLD = 0.2, 2  # temperature of the first polishing round; rounds at zero temperature at the end
RIDGE = 1e-4
EPSILON = 1e-8


@dataclass(frozen=True)
class LightToken(Method):
    """LightToken, with the bits split by search.

    Attributes:
        rank: k of the SVD; None searches.
        stages: S, the number of residual binary autoencoders; None searches.
        loss: The loss of a row: ``"calibrated"``, or ``"mse"``, the squared error.
        cosine_weight: lambda of the calibrated loss, at least 1.
        epochs: Epochs of each autoencoder, at most; 0 leaves the training out.
        polish: Rounds of bit flips and refits after the stages.
        factors: Number format of L, P and the decoders: ``"float16"``, ``"int8"`` or ``"int4"``.
    """

    paper: ClassVar[str] = "Wang et al., KDD 2023"

    rank: AtLeast0 | None = None
    stages: AtLeast1 | None = None
    loss: Literal["calibrated", "mse"] = "calibrated"
    cosine_weight: Annotated[float, Field(ge=1)] = 1.0
    epochs: AtLeast0 = 8
    polish: AtLeast0 = 10
    factors: Factors = "int8"

    __post_init__ = check_settings

    def families(self, num_embeddings: int, embedding_dim: int, weights: Tensor) -> list[Family]:
        full = min(num_embeddings, embedding_dim)
        powers = [0, *(2**n for n in range(full.bit_length()) if 2**n < full), full]
        ranks = powers if self.rank is None else [min(self.rank, full)]
        stages = STAGES if self.stages is None else [self.stages]
        bits = {count: range(8 * count, max(4 * embedding_dim, 8 * count) + 1, 8) for count in stages}
        plans = [{"rank": rank, "stages": count} for count in stages for rank in ranks]
        return [Family(plan, "code_bits", bits[plan["stages"]]) for plan in plans]

    def empty(self, num_embeddings: int, embedding_dim: int, plan: Plan) -> CompressedEmbedding:
        parts: list[CompressedEmbedding] = []
        if plan["rank"]:
            left = empty_factor(num_embeddings, plan["rank"], self.factors, "column")
            parts.append(Projected(left, empty_factor(plan["rank"], embedding_dim, self.factors, "row")))
        for bits in stage_bits(plan):
            decoder = empty_factor(bits, embedding_dim, self.factors, "row")
            parts.append(Projected(Scalar(num_embeddings, bits, 1, "none"), decoder, bias=not parts))
        return Sum(parts)

    def choose(
        self, table: Table, plans: list[Plan], weights: Tensor, generator: torch.Generator, progress: bool
    ) -> Plan:
        """The plan whose short fit on a sample of rows errs least on other rows.

        Ranks are compared with one stage (or the fewest there are), then the numbers of stages at the best rank.
        """
        if len(plans) == 1:
            return plans[0]
        order = draw(len(table), SAMPLE_ROWS, generator)
        cut = max(1, 3 * len(order) // 4)
        rows, shares = table.gather(order), weights[order]
        first_others = cut if len(order) > 1 else 0
        seen, held_out = (rows[:cut], shares[:cut]), (rows[first_others:], shares[first_others:])
        errors: dict[tuple[int, ...], float] = {}
        short = LightToken(loss=self.loss, cosine_weight=self.cosine_weight, epochs=SAMPLE_EPOCHS, factors=self.factors)

        def best_of(some: list[Plan], bar: Bar) -> Plan:
            for plan in some:
                key = tuple(plan.values())
                if key not in errors:
                    errors[key] = short._held_out_error(plan, seen, held_out, generator)
                    bar.set_note(error=f"{errors[key]:.4f}", **plan)
                bar.update()
            return min(some, key=lambda plan: errors[tuple(plan.values())])

        fewest = min(plan["stages"] for plan in plans)
        first = [plan for plan in plans if plan["stages"] == fewest]
        with Bar(total=len(first), desc="lighttoken: search", disable=not progress) as bar:
            rank = best_of(first, bar)["rank"]
            second = [plan for plan in plans if plan["rank"] == rank]
            bar.total = len(first) + len(second)
            return best_of(second, bar)

    def _held_out_error(
        self, plan: Plan, seen: tuple[Tensor, Tensor], held_out: tuple[Tensor, Tensor], generator: torch.Generator
    ) -> float:
        """Weighted squared error on held-out rows, encoded by bit flips under decoders fitted on the rows seen."""
        fit = self._fit(Table.of(seen[0]), plan, seen[1], generator, rounds=1, progress=False)
        rows, weights = held_out[0] - fit.offset, held_out[1]
        left = rows @ torch.linalg.pinv(fit.low) if plan["rank"] else rows[:, :0]
        targets = rows - left @ fit.low
        codes = torch.where(targets @ fit.decoder.T > 0, 1.0, -1.0)
        for _ in range(3):
            flip_bits(targets, codes, fit.decoder, 0.0, generator)
        return float(weights @ (targets - codes @ fit.decoder).square().sum(-1) / weights.sum())

    def fit_plan(
        self, table: Table, plan: Plan, weights: Tensor, generator: torch.Generator, progress: bool
    ) -> CompressedEmbedding:
        fit = self._fit(table, plan, weights, generator, self.polish, progress)
        low = store_factor(fit.low, self.factors, "row") if plan["rank"] else None
        decoders = [store_factor(decoder, self.factors, "row") for decoder in fit.decoder.split(stage_bits(plan))]
        # A last sweep against the decoders as they are stored.
        if self.polish:
            stored = torch.cat([decoder.dense().detach() for decoder in decoders])
            flip_bits(fit.targets(table, low.dense().detach() if low else fit.low), fit.codes, stored, 0.0, generator)
        table.shards.share(fit.codes.packed, table.shares)
        parts: list[CompressedEmbedding] = []
        if low is not None and fit.left is not None:
            parts.append(Projected.of(fit.left, low, fit.offset))
        ends = list(accumulate(bits // 8 for bits in stage_bits(plan)))
        for end, bits, decoder in zip(ends, stage_bits(plan), decoders, strict=True):
            codes = Scalar(len(table), bits, 1, "none").to(table.device)
            codes.codes.copy_(fit.codes.packed[:, end - bits // 8 : end])
            parts.append(Projected.of(codes, decoder, None if parts else fit.offset))
        return Sum(parts)

    def _fit(
        self, table: Table, plan: Plan, weights: Tensor, generator: torch.Generator, rounds: int, progress: bool
    ) -> "_Fitted":
        start = weighted_svd(table, plan["rank"], weights)
        left = store_factor(start.left, self.factors, "column") if plan["rank"] else None
        base = _Base(start.mean, [] if left is None else [(Decoded(left), start.right)])
        stages = []
        for number, bits in enumerate(stage_bits(plan), start=1):
            title = f"lighttoken: stage {number}/{plan['stages']}, {bits} bits"
            codes = train_codes(table, base, bits, weights, self.row_loss, self.epochs, generator, title, progress)
            fitted = ridge(codes, table.minus(base), weights, RIDGE, offset=True)
            base = _Base(base.offset + fitted[0], [*base.parts, (codes, fitted[1:])])
            stages.append(codes.packed)
        codes = Signs(torch.cat(stages, 1), sum(stage_bits(plan)))
        fit = _Fitted(left, codes, table, weights)
        for number in Bar(range(rounds + COLD) if rounds else [], desc="lighttoken: polish", disable=not progress):
            targets = fit.targets(table, fit.low).cached()
            for _ in range(2):
                flip_bits(targets, fit.codes, fit.decoder, HOT * max(0.0, 1 - number / rounds), generator)
            fit.refit(table, weights)
        return fit

    def row_loss(self, reconstructed: Tensor, original: Tensor) -> Tensor:
        """The loss of each row, (batch), of a reconstruction of rows, both (batch, d).

        The calibrated one is (n - m)^2 + 2 lambda n m (1 - c), with the norms n and m of original and reconstruction
        and their cosine c: an upper bound of the squared error for lambda >= 1, equal to it at 1.
        """
        if self.loss == "mse":
            return (original - reconstructed).square().sum(-1)
        n, m = norm(original), norm(reconstructed)
        return (n - m).square() + 2 * self.cosine_weight * n * m * (1 - (original * reconstructed).sum(-1) / (n * m))


def norm(rows: Tensor) -> Tensor:
    """The norm of each row, bounded away from the square root's infinite slope at zero."""
    return rows.square().sum(-1).add(EPSILON**2).sqrt()


@dataclass(frozen=True)
class _Base:
    """What is reconstructed so far: the offset, and features times maps."""

    offset: Tensor
    parts: Sequence[tuple[Readable, Tensor]]

    def __getitem__(self, places: Places) -> Tensor:
        rows = self.offset
        for features, mapping in self.parts:
            rows = rows + features[places] @ mapping
        return rows


class _Fitted:
    """The numbers of a fit, ``offset + left @ low + codes @ decoder``; only ``left`` is rounded yet."""

    def __init__(self, left: CompressedEmbedding | None, codes: Signs, table: Table, weights: Tensor) -> None:
        self.left, self.codes = left, codes
        self.refit(table, weights)

    def refit(self, table: Table, weights: Tensor) -> None:
        """Offset, low and decoder together, by ridge least squares."""
        features = self.codes if self.left is None else Beside([Decoded(self.left), self.codes])
        fitted = ridge(features, table, weights, RIDGE, offset=True)
        rank = 0 if self.left is None else self.left.embedding_dim
        offset, self.low, self.decoder = fitted.split([1, rank, self.codes.shape[1]])
        self.offset = offset[0]

    def targets(self, table: Table, low: Tensor) -> Table:
        """The residual for the codes, (V, d), with ``low`` as the right factor."""
        return table.minus(_Base(self.offset, [] if self.left is None else [(Decoded(self.left), low)]))


def stage_bits(plan: Plan) -> list[int]:
    """Code length of each stage: whole bytes, as equal as possible, the first stages longer."""
    size, rest = divmod(plan["code_bits"] // 8, plan["stages"])
    return [8 * (size + (number < rest)) for number in range(plan["stages"])]
