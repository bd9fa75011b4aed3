"""One slope over the linear maps and the token table: how many bits each gets of the bytes of a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from vocabpress.embeddings import CompressedEmbedding
from vocabpress.fitting.allocation import allocate
from vocabpress.methods.ldlq import LDLQ


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


def map_piece(shape: tuple[int, int], cost: float, method: LDLQ) -> Piece:
    """A linear map, (outputs, inputs), with ``cost`` from `LDLQ.sensitivity`."""
    bits = method.rates
    with torch.device("meta"):
        forms: list[CompressedEmbedding] = [method.empty(*shape, each) for each in bits]
    losses = [cost * method.loss(each) for each in bits]
    each = cost / (shape[0] * shape[1])
    return Piece(bits, [form.total_bits() for form in forms], losses, max(each, TINY) ** (ROOT - 1))


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
