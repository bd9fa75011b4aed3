"""One slope over the linear maps and the token table: how many bits each gets of the bytes of a model."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vocabpress.embeddings import CompressedEmbedding
from vocabpress.fitting.allocation import allocate
from vocabpress.fitting.fold import power
from vocabpress.methods.ldlq import LDLQ
from vocabpress.methods.tcq import WORDS


@dataclass(frozen=True)
class Piece:
    """Something that is coded, with a choice of rates.

    Attributes:
        bits: Bits of an entry at each rate, ascending.
        costs: Stored bits of the whole at each rate.
        losses: What each rate costs the output of the model, in one unit for all pieces.
        factor: What the losses are multiplied by before they are compared.
    """

    bits: Sequence[float]
    costs: Sequence[int]
    losses: Sequence[float]
    factor: float = 1.0


# In theory rates follow the cost of an error; but where few bits are given, errors are too large for a second order,
# and the root of the cost is better (LOG.md, linear maps).
ROOT = 0.5
TINY = 1e-30
# What an error of the table counts, beside one of the maps. To second order it would be 1, but errors of equal tokens
# in a sequence add up. On all-MiniLM-L6-v2 at 25x the split of the bytes that this gives is the best of three.
TABLE_SHARE = 3.7
CLASS = 16  # tokens of the most frequent class


def map_piece(shape: tuple[int, int], cost: float, method: LDLQ) -> Piece:
    """A linear map, (outputs, inputs), with ``cost`` from `LDLQ.sensitivity`."""
    bits = method.rates
    with torch.device("meta"):
        forms: list[CompressedEmbedding] = [method.empty(*shape, each) for each in bits]
    losses = [cost * method.loss(each) for each in bits]
    each = cost / (shape[0] * shape[1])
    return Piece(bits, [form.total_bits() for form in forms], losses, max(each, TINY) ** (ROOT - 1))


def table_piece(
    table: Tensor, counts: Tensor, metric: Tensor, bits: Sequence[float], maps: Mapping[str, Piece]
) -> Piece:
    """The token table: what rates cost the output for a token, if each axis and class of tokens has a rate of its own.

    Args:
        table: (V, d).
        counts: How often each token is read, (V), in any unit.
        metric: What an error of a row costs, (d, d).
        bits: The rates.
        maps: The pieces beside it.
    """
    classes, variances = _classes(table, counts, metric)
    unit = float(metric.diagonal().mean())  # which `power` divides by
    factor = TABLE_SHARE * statistics.median(piece.factor for piece in maps.values())
    losses = [unit * _least_loss(classes, variances, each) for each in bits]
    return Piece(bits, [int(each * table.numel()) for each in bits], losses, factor)


def least_bytes(pieces: Mapping[str, Piece]) -> int:
    """Bytes of all pieces at their least rates."""
    return -(-sum(piece.costs[0] for piece in pieces.values()) // 8)


def check_room(pieces: Mapping[str, Piece], limit: int, room: int) -> None:
    """Check that a file can be so small.

    Args:
        pieces: What is coded in it.
        limit: Bytes of the file.
        room: Bytes of it that are left for the pieces.

    Raises:
        ValueError: If the least rates of all take more; the message has the bytes.
    """
    least = least_bytes(pieces)
    if least > room:
        raise ValueError(
            f"the weight file takes {limit - room + least:,} bytes at the least, {limit - room:,} of them for what is "
            f"not coded, such as norms and a head of its own; got {limit:,}"
        )


def share_out(pieces: Mapping[str, Piece], limit: int) -> dict[str, float]:
    """The bits of an entry of each piece, with the least loss that ``limit`` stored bits allow; see `check_room`."""
    most = max(len(piece.bits) for piece in pieces.values())

    def row(values: Sequence[float]) -> list[float]:  # a rate that a piece lacks is one that it has already
        return [*values, *[values[-1]] * (most - len(values))]

    costs = torch.tensor([row(piece.costs) for piece in pieces.values()], dtype=torch.int64)
    losses = torch.tensor([row(piece.losses) for piece in pieces.values()], dtype=torch.float64)
    losses *= torch.tensor([piece.factor for piece in pieces.values()], dtype=torch.float64)[:, None]
    chosen = allocate(costs, losses, limit).tolist()
    pairs = zip(pieces.items(), chosen, strict=True)
    return {name: piece.bits[min(option, len(piece.bits) - 1)] for (name, piece), option in pairs}


def _classes(table: Tensor, counts: Tensor, metric: Tensor) -> tuple[Tensor, Tensor]:
    """Sizes of classes of tokens by frequency, and the variances of their rows in the metric, (classes, d).

    A class is four times as large as the one before. Variances are along the principal axes of the rows that are read,
    times the share of reads that is the class's.
    """
    order, shares = counts.argsort(descending=True, stable=True), counts / counts.sum()
    sizes = []
    while sum(sizes) < len(order):
        sizes.append(min(len(order) - sum(sizes), CLASS * 4 ** len(sizes)))
    rows = table.float() - shares @ table.float()
    root = power(metric.double(), 0.5).float()
    second = (rows * shares[:, None]).T @ rows
    turned = root @ torch.linalg.eigh((root @ second @ root).double()).eigenvectors.float()
    parts = order.split(sizes)
    variances = [((rows[part] @ turned).square() * shares[part, None]).sum(0) for part in parts]
    return torch.tensor(sizes), torch.stack(variances)


def _least_loss(sizes: Tensor, variances: Tensor, bits: float) -> float:
    """The sum of the errors of all axes and classes at the rates of one slope, ``bits`` an entry on average."""
    rates = torch.tensor([bits / width for bits, width in WORDS])
    losses = torch.tensor([loss for _, loss in WORDS.values()]) * 4**-rates
    distortions = variances.flatten()[:, None] * losses
    units = sizes.repeat_interleave(variances.shape[1])
    costs = (units[:, None] * rates * 4).round().long()  # rates are quarters of bits
    limit = int(4 * bits * int(sizes.sum()) * variances.shape[1])
    return float(distortions.gather(1, allocate(costs, distortions, limit)[:, None]).sum())
