"""Compositional codes, learnt by an autoencoder with the Gumbel-softmax trick.

"Compressing word embeddings via deep compositional code learning", Shu and Nakayama, ICLR 2018 (arXiv 1711.01068), and
its public code.

    x_i ~ sum_m the word of book m that code (i, m) names;   M books of K words each, K small

1. Encoder: h = tanh(linear(x)) of width M K / 2; logits = log(softplus(linear(h)) + 1e-8), cut into M groups of K.
2. Each group's one-hot choice is relaxed: softmax((logits + Gumbel noise) / temperature). The decoder is linear and
   without bias: its rows are the words.
3. Loss 1/2 ||x - x^||^2, Adam; 640 rows choose the best epoch. Codes are the largest logits; the encoder is dropped.

Stored: ``Codebooks`` with one segment and M stages.

Our choices: the published training (200 epochs of batches of 64 at rate 1e-4, gradients clipped to a norm of 0.001,
weights within 0.01 at the start) takes millions of steps. Here the table is scaled to entries of mean square 1, weights
start within 1/sqrt(inputs), and the training is short with a larger rate that falls by a cosine; Adam does not depend
on the size of gradients, so that they need no clipping. Epochs are judged by their hard codes. The last step is a
weighted least-squares fit of all words to the codes, which is never worse. Token weights multiply the rows' losses.
"""

import math
import time
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from vocabpress.budget import Budget
from vocabpress.embeddings import Codebooks, CompressedEmbedding
from vocabpress.fitting.codes import decode, refit
from vocabpress.fitting.loop import RowBatch, Schedule, best_epoch, cosine_decay
from vocabpress.fitting.quantise import Factors, empty_factor, store_factor
from vocabpress.fitting.table import Table
from vocabpress.methods.base import Family, Method, Plan
from vocabpress.packing import pack
from vocabpress.settings import AtLeast1, CodeBits, Positive, check_settings

MOST_WORDS = 8192  # in all books: they are fitted together
JUDGED_ROWS, ROWS_PER_CALL = 640, 4096


@dataclass(frozen=True)
class Compositional(Method):
    """Compositional code learning.

    Attributes:
        bits: Bits of a code: books have K = 2**bits words; the paper has 16 and 32.
        books: M; None takes as many as fit.
        factors: Number format of the words: ``"float16"``, ``"int8"`` or ``"int4"``.
        temperature: Temperature of the Gumbel-softmax.
        epochs: Passes over the table.
        batch_size: Rows a step.
        learning_rate: Learning rate of Adam at the start.
    """

    paper: ClassVar[str] = "Shu and Nakayama, ICLR 2018"

    bits: CodeBits = 4
    books: AtLeast1 | None = None
    factors: Factors = "float16"
    temperature: Positive = 1.0
    epochs: AtLeast1 = 16
    batch_size: AtLeast1 = 128
    learning_rate: Positive = 1e-2

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        check_settings(self)
        if self.books is not None and self.books > MOST_WORDS >> self.bits:
            raise ValueError(f"books of {self.bits} bits are 1 to {MOST_WORDS >> self.bits}, got {self.books}")

    def families(self, num_embeddings: int, embedding_dim: int, weights: Tensor) -> list[Family]:
        books = range(1, (MOST_WORDS >> self.bits) + 1) if self.books is None else [self.books]
        return [Family({}, "books", books)]

    def empty(self, num_embeddings: int, embedding_dim: int, plan: Plan) -> CompressedEmbedding:
        words = empty_factor(plan["books"] << self.bits, embedding_dim, self.factors, "row")
        return Codebooks(num_embeddings, words, self.bits, stages=plan["books"])

    def fit_plan(
        self, table: Table, plan: Plan, weights: Tensor, generator: torch.Generator, progress: bool
    ) -> CompressedEmbedding:
        scale = table.mean_square().sqrt().to(table.dtype).clamp(min=torch.finfo(table.dtype).tiny)
        rows = table.map(lambda _, some: some / scale).cached()
        start = _Coder(rows, plan["books"], 1 << self.bits, generator)
        network = self._train(start, rows, weights, generator, progress)
        books = refit(rows, network.codes, network.books.detach(), weights) * scale
        words = store_factor(books.flatten(0, 1), self.factors, "row")
        form = Codebooks(len(table), words, self.bits, stages=plan["books"]).to(table.device)
        rows.fill([form.codes], lambda _, some: [pack(network.codes(some), self.bits)])
        return form

    def expected_seconds(self, sample: Table, num_embeddings: int, budget: Budget) -> float | None:
        rows, width = sample.shape
        generator, weights = torch.Generator().manual_seed(0), torch.ones(rows)
        (plan,) = self.plans(num_embeddings, width, budget)
        network, once = _Coder(sample, plan["books"], 1 << self.bits, generator), replace(self, epochs=1)
        start = time.perf_counter()
        once._train(network, sample, weights, generator, False)
        return (time.perf_counter() - start) * self.epochs * num_embeddings / rows

    def _train(
        self, network: "_Coder", rows: Table, weights: Tensor, generator: torch.Generator, progress: bool
    ) -> "_Coder":
        some = torch.randperm(len(rows), generator=generator, device=rows.device)[:JUDGED_ROWS]
        judged = rows.gather(some)

        def loss(batch: RowBatch) -> Tensor:
            original = rows[batch.ids]
            logits = network(original)
            noise = torch.empty(batch.size, *logits.shape[1:], device=logits.device)
            noise = -noise.exponential_(generator=generator)[batch.among].log()
            chosen = torch.softmax((logits + noise) / self.temperature, -1)
            left = chosen.flatten(1) @ network.books.flatten(0, 1) - original
            return weights[batch.ids] * left.square().sum(-1) / 2

        @torch.no_grad()
        def judge() -> float:
            left = decode(network.codes(judged), network.books) - judged
            return float(weights[some] @ left.square().sum(-1))

        schedule = Schedule(self.epochs, self.batch_size, self.learning_rate, cosine_decay)
        return best_epoch(network, judge, loss, schedule, rows, generator, "compositional", progress)


class _Coder(nn.Module):
    """Encoder and books for rows of unit mean square."""

    def __init__(self, rows: Table, books: int, count: int, generator: torch.Generator) -> None:
        super().__init__()
        width, hidden = rows.shape[1], max(1, books * count // 2)
        self.shape = (books, count)
        self.hidden = nn.Linear(width, hidden, device=rows.device)
        self.out = nn.Linear(hidden, books * count, device=rows.device)
        self.books = nn.Parameter(torch.empty(books, count, width, device=rows.device))
        for parameter, inputs in ((self.hidden.weight, width), (self.out.weight, hidden), (self.books, books)):
            parameter.data.uniform_(-1 / math.sqrt(inputs), 1 / math.sqrt(inputs), generator=generator)
        for layer in (self.hidden, self.out):
            nn.init.zeros_(layer.bias)

    def forward(self, rows: Tensor) -> Tensor:
        """Logits, (batch, books, K)."""
        logits = nn.functional.softplus(self.out(torch.tanh(self.hidden(rows))))
        return (logits + 1e-8).log().unflatten(-1, self.shape)

    @torch.no_grad()
    def codes(self, rows: Tensor) -> Tensor:
        """The words of largest logit, (n, books)."""
        return torch.cat([self(chunk).argmax(-1) for chunk in rows.split(ROWS_PER_CALL)])
