"""Binary codes for rows: a binary autoencoder that finds them, and coordinate descent that improves them.

Codes are numbers -1 and +1 here, shape (V, bits); a row is decoded as ``offset + code @ decoder``. The codes of a whole
table are stored as bits (`Signs`).
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from vocabpress.fitting.loop import RowBatch, Schedule, cosine_decay, minimise
from vocabpress.fitting.lowrank import principal_axes, ridge
from vocabpress.fitting.table import Places, Readable, Table
from vocabpress.packing import pack, packed_bytes, unpack

RowLoss = Callable[[Tensor, Tensor], Tensor]
"""(reconstruction, original), both (batch, d) -> a value per row."""

BATCH_SIZE, LEARNING_RATE = 512, 0.03  # of Adam at the start; it falls by a cosine to a twentieth
TEMPERATURES = 0.5, 0.05  # of the sigmoid at the start and at the end, annealed geometrically
SATURATION = 0.9  # share of saturated codes at which training stops
PATIENCE = 3  # epochs without a better held-out loss after which it stops, too
NOTHING = 1e-12  # root mean square of the residual, below which there is nothing to learn
REFIT_ROWS = 6000  # rows, at least, on which the decoder of held-out codes is fitted
HELD_OUT = 0.03  # share of the rows that training does not see; their loss ends it when it is flat
SATURATED = 4.0  # |logit / temperature| beyond which a tempered sigmoid passes hardly any gradient
BITS_PER_BLOCK, ROWS_PER_CHUNK = 32, 4096  # of the coordinate descent: sized for the processor's cache


class Signs:
    """Codes of -1 and +1, (V, bits), read as floats; packed as `Scalar` stores them, uint8, (V, ceil(bits / 8))."""

    def __init__(self, packed: Tensor, bits: int) -> None:
        self.packed, self.shape = packed, (len(packed), bits)

    def __getitem__(self, places: Places) -> Tensor:
        return unpack(self.packed[places], 1, self.shape[1]).float() * 2 - 1

    def __setitem__(self, places: Places, codes: Tensor) -> None:
        self.packed[places] = pack((codes > 0).byte(), 1)


class BinaryAutoencoder(nn.Module):
    """Linear encoder, tempered sigmoid, linear decoder, for rows (V, d) of unit mean square; bits may exceed d.

    The soft code tanh(z / T) is a sigmoid stretched to (-1, 1). The encoder starts on the principal axes of the rows
    in a random rotation, so that all bits are alike and none is nearly constant; the decoder starts as the least-
    squares answer to the soft codes at ``temperature``.
    """

    def __init__(self, rows: Table, bits: int, weights: Tensor, temperature: float, generator: torch.Generator) -> None:
        super().__init__()
        width = rows.shape[1]
        axes, _ = principal_axes(rows, weights)
        used = min(bits, width)
        # A rotation of the first axes, or, where there are more bits than axes, a tight frame on all of them.
        frame = torch.linalg.qr(torch.randn(bits, used, generator=generator, device=rows.device)).Q
        directions = axes[:used].to(rows.dtype).T @ frame.T
        directions = directions / _spread(rows.times(directions)).clamp(min=1e-8)
        # Stored times sqrt(width): entries of both maps are then of one order, and one learning rate suits both.
        self.encoder = nn.Parameter(directions * math.sqrt(width))
        self.threshold = nn.Parameter(torch.zeros(bits, device=rows.device))
        codes = rows.map(lambda _, some: torch.tanh(self.scores(some).detach() / temperature), bits)
        fitted = ridge(codes, rows, weights, penalty=1e-3, offset=True)
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


def _spread(table: Table) -> Tensor:
    """Standard deviation of each column, (width); 1 for a table of one row."""
    if len(table) == 1:
        return torch.ones(table.shape[1], device=table.device)
    sums, squares = table.sum(lambda _, rows: (rows.double().sum(0), rows.double().square().sum(0)))
    variances = (squares - sums.square() / len(table)) / (len(table) - 1)
    return variances.clamp(min=0).sqrt().to(table.dtype)


def temperature(done: float) -> float:
    """The temperature after the share ``done`` of the training, 0 to 1."""
    start, end = TEMPERATURES
    return start * (end / start) ** done


def train_codes(
    table: Table | Tensor,
    base: Readable,
    bits: int,
    weights: Tensor,
    loss: RowLoss,
    epochs: int,
    generator: torch.Generator,
    title: str = "",
    progress: bool = False,
) -> Signs:
    """Train a binary autoencoder on ``table - base``, both (V, d), and return its hard codes, (V, bits).

    Training stops when the codes saturate, when the held-out loss of the *hard* codes is flat, or after so many
    epochs. The loss sees whole rows, base included: the cosine of a residual is not the cosine that matters.
    """
    table = Table.of(table)
    rest = table.minus(base)
    packed = torch.zeros(len(table), packed_bytes(bits, 1), dtype=torch.uint8, device=table.device)
    scale = rest.mean_square().sqrt().to(table.dtype)
    if float(scale) <= NOTHING:
        return Signs(packed.fill_(255), bits)
    stage = _Stage(table, rest, scale, weights, loss, epochs, bits, generator)
    schedule = Schedule(epochs, BATCH_SIZE, LEARNING_RATE, partial(cosine_decay, least=0.05))
    trained, losses = list(stage.network.parameters()), stage.losses
    minimise(trained, losses, schedule, table, generator, title, progress, stage.finished, stage.seen)
    stage.rows.fill([packed], lambda _, rows: [pack((stage.network.codes(rows) > 0).byte(), 1)])
    return Signs(packed, bits)


class _Stage:
    """The loss of one binary autoencoder, and when it has learnt enough."""

    def __init__(
        self,
        table: Table,
        rest: Table,
        scale: Tensor,
        weights: Tensor,
        loss: RowLoss,
        epochs: int,
        bits: int,
        generator: torch.Generator,
    ) -> None:
        self.table, self.scale, self.weights, self.loss, self.epochs = table, scale, weights, loss, epochs
        self.rows = rest.map(lambda _, rows: rows / scale).cached()
        self.network = BinaryAutoencoder(self.rows, bits, weights, TEMPERATURES[0], generator)
        order = torch.randperm(len(table), generator=generator, device=table.device)
        held_out, self.seen = order.tensor_split([max(1, int(HELD_OUT * len(table)))])
        if not len(self.seen):  # a table of one row
            self.seen = held_out
        self.held_out = held_out.sort().values
        some = self.seen[: max(REFIT_ROWS, 8 * bits)]
        self.sample, self.shares = rest.gather(some) / scale, weights[some]
        self.best, self.flat_for = math.inf, 0

    def losses(self, batch: RowBatch) -> Tensor:
        """Weighted losses of whole rows, from soft codes."""
        original, rows = self.table[batch.ids], self.rows[batch.ids]
        reconstructed = original + self.scale * (self.network(rows, temperature(batch.done)) - rows)
        return self.weights[batch.ids] * self.loss(reconstructed, original) / self.scale.square()

    @torch.no_grad()
    def finished(self, epoch: int) -> bool:
        """Whether most codes are saturated, or the held-out loss has been flat for too long."""
        limit = SATURATED * temperature((epoch + 1) / self.epochs)
        saturated, value = self._held_out(limit)
        self.flat_for = 0 if value < self.best * (1 - 1e-3) else self.flat_for + 1
        self.best = min(self.best, value)
        return saturated > SATURATION or self.flat_for >= PATIENCE

    def _held_out(self, limit: float) -> tuple[float, float]:
        """The share of scores beyond the limit in the held-out rows, and their mean loss from *hard* codes.

        These are read under a decoder refitted on some of the other rows.
        """
        network, ids = self.network, self.held_out
        decode = ridge(network.codes(self.sample), self.sample, self.shares, penalty=1e-2, offset=True)
        whole = self.table.some(ids)

        def values(places: slice, rows: Tensor) -> tuple[Tensor, Tensor]:
            scores, original = network.scores(rows), whole[places]
            hard = torch.where(scores > 0, 1.0, -1.0) @ decode[1:] + decode[0]
            loss = self.loss(original + self.scale * (hard - rows), original)
            return (scores.abs() > limit).sum().double(), (self.weights[ids[places]] * loss).sum().double()

        beyond, summed = self.rows.some(ids).sum(values)
        return float(beyond) / (len(ids) * len(network.threshold)), float(summed) / len(ids)


def flip_bits(
    targets: Table | Tensor, codes: Tensor | Signs, decoder: Tensor, temperature: float, generator: torch.Generator
) -> None:
    """One sweep of coordinate descent over this process' codes, in place: a bit flips if its row gets nearer.

    With residual r and decoder rows w_j, flipping bit j changes ||r||^2 by 4 (b_j <r, w_j> + ||w_j||^2). Above zero
    temperature, normal noise is added to the threshold, which lets a row leave a poor local optimum; anneal it to zero
    over several sweeps. Correlations <r, w_j> are updated by rank-one updates inside a block of bits, and by one matrix
    product after each block.

    Args:
        targets: (V, d), what ``codes @ decoder`` should approximate.
        codes: (V, bits), -1 and +1.
        decoder: (bits, d).
        temperature: Standard deviation of the noise in units of the mean of ||w_j||^2.
        generator: Draws the noise.
    """
    gram = decoder @ decoder.T
    noise = temperature * float(gram.diagonal().mean())
    # Noise depends on the row, not on its process: a process need not draw that of all rows.
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device)) if noise > 0 else 0
    for places, rows in Table.of(targets).chunks():
        for start in range(places.start, places.stop, ROWS_PER_CHUNK):
            some = slice(start, min(start + ROWS_PER_CHUNK, places.stop))
            drawn = torch.Generator(rows.device).manual_seed(seed + start) if noise > 0 else None
            own = rows[some.start - places.start : some.stop - places.start]
            bits = codes[some].T.contiguous()  # bits first: a bit of all rows is one contiguous line
            _sweep(bits, own, decoder, gram, noise, drawn)
            codes[some] = bits.T


def _sweep(
    bits: Tensor, rows: Tensor, decoder: Tensor, gram: Tensor, noise: float, generator: torch.Generator | None
) -> None:
    """A sweep over the codes of some rows, (bits, n), in place."""
    correlations, norms = decoder @ rows.T, gram.diagonal()
    correlations.addmm_(gram, bits, alpha=-1)
    for first in range(0, len(decoder), BITS_PER_BLOCK):
        block = slice(first, min(first + BITS_PER_BLOCK, len(decoder)))
        limits = -norms[block, None].expand(-1, bits.shape[1])
        if generator is not None:
            limits = limits + noise * torch.randn(limits.shape, generator=generator, device=limits.device)
        change = _flip_block(bits[block], correlations[block].clone(), gram[block, block], limits)
        correlations.addmm_(gram[:, block], change, alpha=-1)


def _flip_block(bits: Tensor, correlations: Tensor, gram: Tensor, limits: Tensor) -> Tensor:
    """Decide the bits of a block one after another, in place; returns what was added to each, (block, rows)."""
    change = torch.empty_like(bits)
    for j in range(len(bits)):
        torch.mul(correlations[j] * bits[j] < limits[j], bits[j], out=change[j])
        change[j].mul_(-2)
        correlations[j + 1 :].addr_(gram[j + 1 :, j], change[j], alpha=-1)
    bits += change
    return change
