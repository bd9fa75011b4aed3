"""Autoencoder with the direction loss.

"Direction is what you need: Improving Word Embedding Compression in Large Language Models", Balazy, Banaei, Lebret,
Tabor, Aberer, RepL4NLP 2021 (arXiv 2106.08181), and its public code.

    z_i = encode(x_i) in R^r,   x_i ~ decode(z_i);   the z_i become the table, the encoder is dropped.

* Linear: one linear layer with bias on each side. Non-linear: an ELU after each of the two.
* Loss: 0.9975/5 * (1 - cos(x^, x)) + 0.0025 * mean |x^ - x|^alpha, alpha falling linearly from 1 to 0.1 over the first
  two thirds of the epochs (20 of 30), then constant.
* Adam at 1e-3, halved every 4 epochs; 30 epochs; batches of 32 rows; the result is the best epoch.

Stored: ``Projected(Dense latents, decoder)``, in the non-linear variant with the activation "elu".

Differences from the published code: the best epoch is picked by the mean cosine of the whole table, not by perplexity
on a test set, and epoch 0, the initialisation, takes part; both layers start from the SVD of the centred table (an
option there, off by default), their biases set so that the start *is* that SVD; token weights, where given, multiply
the rows' losses; latents and decoder may be stored in 8 or 4 bits.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from vocabpress.embeddings import CompressedEmbedding, Projected
from vocabpress.fitting.loop import RowBatch, Schedule, best_epoch
from vocabpress.fitting.lowrank import weighted_svd
from vocabpress.fitting.quantise import Factors, empty_factor, store_factor
from vocabpress.fitting.table import Table
from vocabpress.methods.base import Family, Method, Plan
from vocabpress.settings import AtLeast1, NotNegative, Positive, check_settings


@dataclass(frozen=True)
class Autoencoder(Method):
    """The autoencoder of "Direction is what you need".

    Attributes:
        nonlinear: Whether an ELU follows each of the two layers.
        factors: Number format of latents and decoder: ``"float16"``, ``"int8"`` or ``"int4"``.
        cosine_weight: Weight of the cosine distance.
        l1_weight: Weight of the annealed power of the entries' errors.
        epochs: Passes over the table.
        batch_size: Rows a step.
        learning_rate: Learning rate of Adam, halved every 4 of 30 epochs.
    """

    paper: ClassVar[str] = "Balazy et al., RepL4NLP 2021"

    nonlinear: bool = False
    factors: Factors = "float16"
    cosine_weight: NotNegative = 0.9975 / 5
    l1_weight: NotNegative = 0.0025
    epochs: AtLeast1 = 30
    batch_size: AtLeast1 = 32
    learning_rate: Positive = 1e-3

    __post_init__ = check_settings

    def families(self, num_embeddings: int, embedding_dim: int, weights: Tensor) -> list[Family]:
        return [Family({}, "rank", range(1, min(num_embeddings, embedding_dim) + 1))]

    def empty(self, num_embeddings: int, embedding_dim: int, plan: Plan) -> CompressedEmbedding:
        latents = empty_factor(num_embeddings, plan["rank"], self.factors, "column")
        decoder = empty_factor(plan["rank"], embedding_dim, self.factors, "row")
        return Projected(latents, decoder, activation="elu" if self.nonlinear else None)

    def fit_plan(
        self, table: Table, plan: Plan, weights: Tensor, generator: torch.Generator, progress: bool
    ) -> CompressedEmbedding:
        start = _Layers(table, plan["rank"], weights, self.nonlinear)
        network = self._train(start, table, weights, generator, progress)
        encoded = table.map(lambda _, rows: network.encode(rows), plan["rank"])
        latents = store_factor(encoded, self.factors, "column")
        basis = store_factor(network.decoder.weight.T, self.factors, "row")
        return Projected.of(latents, basis, network.decoder.bias, "elu" if self.nonlinear else None)

    def _train(
        self, network: "_Layers", table: Table, weights: Tensor, generator: torch.Generator, progress: bool
    ) -> "_Layers":
        def loss(batch: RowBatch) -> Tensor:
            alpha, rows = 1 - 0.9 * min(int(batch.done * 30) / 20, 1.0), table[batch.ids]
            return weights[batch.ids] * direction_loss(network(rows), rows, alpha, self.cosine_weight, self.l1_weight)

        def judge() -> float:
            return -mean_cosine(network, table, weights)

        # Both published schedules go by thirtieths of the training: the rate halves after every 4.
        schedule = Schedule(self.epochs, self.batch_size, self.learning_rate, lambda done: 0.5 ** (int(done * 30) // 4))
        return best_epoch(network, judge, loss, schedule, table, generator, "autoencoder", progress, least=judge())


class _Layers(nn.Module):
    """Encoder and decoder, at first the rank-``rank`` SVD of the centred table (up to the ELU)."""

    def __init__(self, table: Table, rank: int, weights: Tensor, nonlinear: bool) -> None:
        super().__init__()
        low = weighted_svd(table, rank, weights)
        axes = nn.functional.normalize(low.right, dim=1)
        self.activation = nn.ELU() if nonlinear else nn.Identity()
        self.encoder = self._linear(axes, -(axes @ low.mean))
        self.decoder = self._linear(axes.T, low.mean)

    @staticmethod
    def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
        layer = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device)
        layer.weight.data.copy_(weight)
        layer.bias.data.copy_(bias)
        return layer

    def encode(self, rows: Tensor) -> Tensor:
        return self.activation(self.encoder(rows))

    def forward(self, rows: Tensor) -> Tensor:
        return self.activation(self.decoder(self.encode(rows)))


def direction_loss(y: Tensor, x: Tensor, alpha: float, cosine_weight: float, l1_weight: float) -> Tensor:
    """The loss of "Direction is what you need" for each row, (batch), of a reconstruction y of x, both (batch, d).

    ``cosine_weight * (1 - c)`` plus ``l1_weight`` times the mean over entries of ``(|y - x| + 1e-10) ** alpha``, where
    training anneals alpha from 1 to 0.1.
    """
    distance = 1 - nn.functional.cosine_similarity(y, x, dim=-1)
    return cosine_weight * distance + l1_weight * ((y - x).abs() + 1e-10).pow(alpha).mean(-1)


@torch.no_grad()
def mean_cosine(network: nn.Module, table: Table, weights: Tensor) -> float:
    """Weighted mean over rows of the cosine between a row and what the network makes of it."""

    def weighted(places: slice, rows: Tensor) -> tuple[Tensor]:
        cosines = nn.functional.cosine_similarity(network(rows), rows, dim=-1)
        return ((weights[places] * cosines).sum().double(),)

    return float(table.sum(weighted)[0]) / float(weights.sum())
