"""Binary codes for rows: a binary autoencoder that finds them, and coordinate descent that improves them.

Codes are float tensors of -1 and +1 here, shape (V, bits); a row is decoded as ``offset + code @ decoder``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vocabpress.fitting.loop import Minimiser, Schedule
from vocabpress.fitting.lowrank import principal_axes, ridge

RowLoss = Callable[[Tensor, Tensor], Tensor]
"""(reconstruction, original), both (batch, d) -> a value per row."""

NOTHING = 1e-12  # root mean square of what is left to code, below which there is nothing to learn
HELD_OUT = 0.03  # share of the rows that training does not see, to tell when it has become flat
SATURATED = 4.0  # |logit / temperature| beyond which a tempered sigmoid passes hardly any gradient
BITS_PER_BLOCK, ROWS_PER_CHUNK = 32, 4096  # of the coordinate descent: sized for the processor's cache


@dataclass(frozen=True)
class StageOptions:
    """How one binary autoencoder is trained.

    Attributes:
        epochs: At most.
        batch_size: Rows a step.
        learning_rate: Of Adam at the start, falling by a cosine to a twentieth.
        temperature: Of the sigmoid at the start and at the end, annealed geometrically.
        saturation: Share of saturated codes at which training stops.
        patience: Epochs without a better held-out loss after which it stops, too.
    """

    epochs: int
    batch_size: int = 512
    learning_rate: float = 0.03
    temperature: tuple[float, float] = (0.5, 0.05)
    saturation: float = 0.9
    patience: int = 3


class BinaryAutoencoder(nn.Module):
    """Linear encoder, tempered sigmoid, linear decoder, for rows of unit mean square.

    The soft code tanh(z / T) is a sigmoid stretched to (-1, 1). The encoder starts on the principal axes of the rows
    in a random rotation, so that all bits are alike and none is nearly constant; the decoder starts as the least-
    squares answer to those codes.

    Args:
        rows: (V, d), what is to be encoded.
        bits: Of the code; may exceed d.
        weights: (V).
        temperature: At which the decoder is first fitted.
        generator: Of the rotation.
    """

    def __init__(
        self, rows: Tensor, bits: int, weights: Tensor, temperature: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        width = rows.shape[1]
        axes, _ = principal_axes(rows, weights)
        used = min(bits, width)
        # A rotation of the first axes, or, where there are more bits than axes, a tight frame on all of them.
        frame = torch.linalg.qr(torch.randn(bits, used, generator=generator, device=rows.device)).Q
        directions = axes[:used].to(rows.dtype).T @ frame.T
        spread = (rows @ directions).std(0) if len(rows) > 1 else torch.ones(bits, device=rows.device)
        directions = directions / spread.clamp(min=1e-8)
        # Stored times sqrt(width): entries of both maps are then of one order, and one learning rate suits both.
        self.encoder = nn.Parameter(directions * math.sqrt(width))
        self.threshold = nn.Parameter(torch.zeros(bits, device=rows.device))
        codes = torch.tanh(self.scores(rows).detach() / temperature)
        fitted = ridge(torch.cat([torch.ones_like(codes[:, :1]), codes], 1), rows, weights, penalty=1e-3)
        self.offset, self.decoder = nn.Parameter(fitted[0].clone()), nn.Parameter(fitted[1:].clone())

    def scores(self, rows: Tensor) -> Tensor:
        """Logits of the bits, (batch, bits)."""
        return rows @ self.encoder / math.sqrt(rows.shape[1]) + self.threshold

    def forward(self, rows: Tensor, temperature: float) -> Tensor:
        """Reconstruction from soft codes, (batch, d)."""
        return torch.tanh(self.scores(rows) / temperature) @ self.decoder + self.offset

    @torch.no_grad()
    def codes(self, rows: Tensor) -> Tensor:
        """Hard codes, -1 or +1, (batch, bits)."""
        return torch.where(self.scores(rows) > 0, 1.0, -1.0)


def train_codes(
    table: Tensor,
    base: Tensor,
    bits: int,
    weights: Tensor,
    loss: RowLoss,
    options: StageOptions,
    generator: torch.Generator,
    title: str = "",
    progress: bool = False,
) -> Tensor:
    """Train a binary autoencoder on ``table - base``, and return its hard codes, shape (V, bits).

    Training stops when the codes saturate, when the held-out loss of the *hard* codes is flat, or after the last
    epoch. The loss sees whole rows, base included: the cosine of a residual is not the cosine that matters.

    Args:
        table: (V, d).
        base: (V, d), what earlier stages reconstruct.
        bits: Of the code.
        weights: (V).
        loss: Of a batch of whole rows.
        options: How to train.
        generator: All randomness.
        title: Of the progress bar.
        progress: Whether to draw it.
    """
    if float((table - base).square().mean().sqrt()) <= NOTHING:
        return table.new_ones(len(table), bits)
    stage = _Stage(table, base, weights, loss, options, bits, generator)
    schedule = Schedule(options.epochs, options.batch_size, options.learning_rate, _cosine_decay)
    parameters = list(stage.network.parameters())
    Minimiser(parameters, stage.batch_loss, schedule, generator, title, progress).run(len(stage.seen), stage.finished)
    return stage.network.codes(stage.rows)


def _cosine_decay(done: float) -> float:
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done))


class _Stage:
    """The loss of one binary autoencoder, and when it has learnt enough."""

    def __init__(
        self,
        table: Tensor,
        base: Tensor,
        weights: Tensor,
        loss: RowLoss,
        options: StageOptions,
        bits: int,
        generator: torch.Generator,
    ) -> None:
        self.table, self.base, self.weights, self.loss, self.options = table, base, weights, loss, options
        residual = table - base
        self.scale = residual.square().mean().sqrt().clamp(min=NOTHING)
        self.rows = residual / self.scale
        self.network = BinaryAutoencoder(self.rows, bits, weights, options.temperature[0], generator)
        order = torch.randperm(len(table), generator=generator, device=table.device)
        self.held_out, self.seen = order.tensor_split([max(1, int(HELD_OUT * len(table)))])
        if not len(self.seen):  # a table of one row
            self.seen = self.held_out
        self.best, self.flat_for = math.inf, 0

    def temperature(self, done: float) -> float:
        """Annealed geometrically; ``done`` runs from 0 to 1."""
        start, end = self.options.temperature
        return start * (end / start) ** done

    def batch_loss(self, ids: Tensor, done: float) -> Tensor:
        """Weighted mean loss of whole rows, from soft codes."""
        ids = self.seen[ids]
        reconstructed = self.base[ids] + self.scale * self.network(self.rows[ids], self.temperature(done))
        return (self.weights[ids] * self.loss(reconstructed, self.table[ids])).mean() / self.scale.square()

    @torch.no_grad()
    def finished(self, epoch: int) -> bool:
        """Whether most codes are saturated, or the held-out loss has been flat for too long."""
        limit = SATURATED * self.temperature((epoch + 1) / self.options.epochs)
        saturated = (self.network.scores(self.rows[self.held_out]).abs() > limit).float().mean()
        value = self._held_out_loss()
        self.flat_for = 0 if value < self.best * (1 - 1e-3) else self.flat_for + 1
        self.best = min(self.best, value)
        return float(saturated) > self.options.saturation or self.flat_for >= self.options.patience

    def _held_out_loss(self) -> float:
        """Loss of the held-out rows from *hard* codes, under a decoder refitted on some of the others."""
        codes, ids = self.network.codes, self.held_out
        some = self.seen[: max(6000, 8 * len(self.network.threshold))]
        decode = affine(codes(self.rows[some]), self.rows[some], self.weights[some], penalty=1e-2)
        hard = self.base[ids] + self.scale * (codes(self.rows[ids]) @ decode[1:] + decode[0])
        return float((self.weights[ids] * self.loss(hard, self.table[ids])).mean())


def affine(features: Tensor, targets: Tensor, weights: Tensor, penalty: float) -> Tensor:
    """Ridge least squares with an offset: row 0 of the result is the offset, the others the map."""
    return ridge(torch.cat([torch.ones_like(features[:, :1]), features], 1), targets, weights, penalty)


def flip_bits(targets: Tensor, codes: Tensor, decoder: Tensor, temperature: float, generator: torch.Generator) -> None:
    """One sweep of coordinate descent over all bits, in place: a bit flips where that brings its row nearer.

    With residual r and decoder rows w_j, flipping bit j changes ||r||^2 by 4 (b_j <r, w_j> + ||w_j||^2). Above zero
    temperature, normal noise is added to the threshold, which lets a row leave a poor local optimum; anneal it to zero
    over several sweeps. Correlations <r, w_j> are kept up to date by rank-one updates inside a block of bits, and by
    one matrix product after each block.

    Args:
        targets: (V, d), what ``codes @ decoder`` should come near to.
        codes: (V, bits), -1 and +1; changed in place.
        decoder: (bits, d).
        temperature: Standard deviation of the noise in units of the mean of ||w_j||^2.
        generator: Of the noise.
    """
    gram = decoder @ decoder.T
    norms = gram.diagonal()
    noise = temperature * float(norms.mean())
    for start in range(0, len(targets), ROWS_PER_CHUNK):
        chunk = slice(start, start + ROWS_PER_CHUNK)
        bits = codes[chunk].T.contiguous()  # bits first: a bit of all rows is one contiguous line
        correlations = decoder @ targets[chunk].T
        correlations.addmm_(gram, bits, alpha=-1)
        for first in range(0, len(decoder), BITS_PER_BLOCK):
            block = slice(first, min(first + BITS_PER_BLOCK, len(decoder)))
            limits = -norms[block, None].expand(-1, bits.shape[1])
            if noise > 0:
                limits = limits + noise * torch.randn(limits.shape, generator=generator, device=limits.device)
            change = _flip_block(bits[block], correlations[block].clone(), gram[block, block], limits)
            correlations.addmm_(gram[:, block], change, alpha=-1)
        codes[chunk] = bits.T


def _flip_block(bits: Tensor, correlations: Tensor, gram: Tensor, limits: Tensor) -> Tensor:
    """Decide the bits of a block one after another, in place; returns what was added to each, (block, rows)."""
    change = torch.empty_like(bits)
    for j in range(len(bits)):
        torch.mul(correlations[j] * bits[j] < limits[j], bits[j], out=change[j])
        change[j].mul_(-2)
        correlations[j + 1 :].addr_(gram[j + 1 :, j], change[j], alpha=-1)
    bits += change
    return change
