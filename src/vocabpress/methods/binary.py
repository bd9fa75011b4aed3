"""Binary codes from an autoencoder with tied weights.

"Near-lossless binarization of word embeddings", Tissier, Gravier and Habrard, AAAI 2019 (arXiv 1803.09065), and its
public code.

    b_i = step(W x_i) in {0, 1}^m,   x_i ~ tanh(b_i W + c),   W is (m, d)

* The same W encodes and decodes. The step has no gradient: W learns as a decoder alone, and the regulariser
  1/2 lambda ||W^T W - I||^2 makes sure that W can still encode.
* Batches of 75 rows.

Stored: ``Projected(Scalar 1 bit, W / 2, c + sum of W / 2, tanh)``; the form's levels are -1 and +1, and
b = (level + 1) / 2.

Our choices. *Scale*: a tight frame W reconstructs rows whose length depends on m alone, and a row of the paper's word
vectors has about that length. Token tables are smaller; instead of scaling the table, which tanh would not undo, the
regulariser asks for W^T W = s^2 I with the s that suits the first codes best. *Range*: an entry beyond -1 or 1 is out
of tanh's reach and is clipped there; a table that would lose a hundredth of its squares by that is refused.
*Mean*: the codes are those of centred rows and c starts at the mean row, else most bits of a table with a mean are
equal for all rows. W starts as a random tight frame; Adam at a rate that falls by a cosine takes the place of plain
gradient steps; losses are relative to the table's mean square. Token weights multiply the rows' losses.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vocabpress.embeddings import CompressedEmbedding, Dense, Projected, Scalar
from vocabpress.fitting.loop import RowBatch, Schedule, cosine_decay, minimise
from vocabpress.fitting.lowrank import weighted_mean
from vocabpress.fitting.table import Table
from vocabpress.methods.base import Family, Method, Plan, largest_entry
from vocabpress.packing import pack
from vocabpress.settings import AtLeast1, NotNegative, Positive, check_settings

OUT_OF_REACH = 0.01  # share of the squares that may lie beyond -1 and 1


@dataclass(frozen=True)
class Binary(Method):
    """Near-lossless binarisation.

    Attributes:
        code_bits: m; None takes the most that fits, in whole bytes.
        regulariser: lambda, how strictly W stays a tight frame.
        epochs: Passes over the table.
        batch_size: Rows a step.
        learning_rate: Learning rate of Adam at the start, relative to the root mean square of W.
    """

    paper: ClassVar[str] = "Tissier et al., AAAI 2019"

    code_bits: AtLeast1 | None = None
    regulariser: NotNegative = 1.0
    epochs: AtLeast1 = 5
    batch_size: AtLeast1 = 75
    learning_rate: Positive = 0.01

    __post_init__ = check_settings

    def families(self, num_embeddings: int, embedding_dim: int, weights: Tensor) -> list[Family]:
        bits = range(8, 8 * embedding_dim + 1, 8) if self.code_bits is None else [self.code_bits]
        return [Family({}, "code_bits", bits)]

    def empty(self, num_embeddings: int, embedding_dim: int, plan: Plan) -> CompressedEmbedding:
        codes = Scalar(num_embeddings, plan["code_bits"], 1, "none")
        return Projected(codes, Dense(plan["code_bits"], embedding_dim), activation="tanh")

    def fit_plan(
        self, table: Table, plan: Plan, weights: Tensor, generator: torch.Generator, progress: bool
    ) -> CompressedEmbedding:
        beyond, squares = table.sum(
            lambda _, rows: ((rows.abs() - 1).clamp(min=0).square().sum().double(), rows.square().sum().double())
        )
        if float(beyond) > OUT_OF_REACH * float(squares):
            raise ValueError(
                f"the table reaches {largest_entry(table):.3g}, too large for tanh and its range of -1 to 1; "
                "scale the table down first, or try another method"
            )
        fit = _Tied(table, plan["code_bits"], weights, generator)
        fit.train(self, generator, progress)
        frame, offset = fit.frame.detach(), fit.offset.detach()
        codes = Scalar(len(table), plan["code_bits"], 1, "none").to(table.device)
        table.fill([codes.codes], lambda _, rows: [pack(fit.step(rows).byte(), 1)])
        return Projected.of(codes, Dense.of(frame / 2), offset + frame.sum(0) / 2, "tanh")


class _Tied:
    """W (``frame``) and c (``offset``), at first a random tight frame and what makes its codes centred on the mean."""

    def __init__(self, table: Table, bits: int, weights: Tensor, generator: torch.Generator) -> None:
        self.table, self.weights = table, weights
        width, self.mean = table.shape[1], weighted_mean(table, weights)
        noise = torch.randn(max(bits, width), min(bits, width), generator=generator, device=table.device)
        frame = torch.linalg.qr(noise).Q
        self.frame = frame if bits >= width else frame.T
        # The length for which the first codes, as -1 and +1, reconstruct the rows best.
        along, squares = table.sum(self._first_codes)
        self.length = float((along / squares).clamp(min=1e-6))
        self.frame = (self.frame * self.length).requires_grad_()
        self.offset = (self.mean.clamp(-0.99, 0.99).atanh() - self.frame.detach().sum(0) / 2).requires_grad_()

    def _first_codes(self, places: slice, rows: Tensor) -> tuple[Tensor, Tensor]:
        decoded, weights = (self.step(rows) - 0.5) @ self.frame, self.weights[places]
        along = weights @ (decoded * (rows - self.mean)).sum(-1)
        return along.double(), (weights @ decoded.square().sum(-1)).double()

    @torch.no_grad()
    def step(self, rows: Tensor) -> Tensor:
        """Codes 0 and 1, (n, bits)."""
        return ((rows - self.mean) @ self.frame.T > 0).to(rows.dtype)

    def train(self, method: Binary, generator: torch.Generator, progress: bool) -> None:
        """Train W and c, in place."""
        square = self.table.minus(self.mean).mean_square().float().clamp(min=1e-12)
        one = torch.eye(min(self.frame.shape), device=self.table.device)

        def loss(batch: RowBatch) -> Tensor:
            rows = self.table[batch.ids]
            left = torch.tanh(self.step(rows) @ self.frame + self.offset) - rows
            tall = self.frame if len(self.frame) >= rows.shape[1] else self.frame.T
            apart = tall.T @ tall / self.length**2 - one
            fit = self.weights[batch.ids] * left.square().mean(-1) / square
            return fit + method.regulariser / 2 * apart.square().sum() / len(one)

        rate = method.learning_rate * float(self.frame.detach().square().mean().sqrt())
        schedule = Schedule(method.epochs, method.batch_size, rate, cosine_decay)
        minimise([self.frame, self.offset], loss, schedule, self.table, generator, "binary", progress)
