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
    """

    bits: Sequence[float]
    costs: Sequence[int]
    losses: Sequence[float]


def map_piece(shape: tuple[int, int], cost: float, method: LDLQ) -> Piece:
    """A linear map, (outputs, inputs), with ``cost`` from `LDLQ.sensitivity`."""
    bits = method.rates
    with torch.device("meta"):
        forms: list[CompressedEmbedding] = [method.empty(*shape, each) for each in bits]
    return Piece(bits, [form.total_bits() for form in forms], [cost * method.loss(each) for each in bits])


def share_out(pieces: Mapping[str, Piece], limit: int) -> dict[str, float]:
    """The bits of an entry of each piece, with the least loss that ``limit`` stored bits allow.

    Raises:
        ValueError: If the least rates of all take more; the message has the bytes.
    """
    least = sum(piece.costs[0] for piece in pieces.values())
    if least > limit:
        raise ValueError(
            f"{max(0, limit) // 8:,} bytes are left for what can be coded, and it takes {-(-least // 8):,} at the least; "
            f"allow {-(-(least - limit) // 8):,} bytes more"
        )
    most = max(len(piece.bits) for piece in pieces.values())

    def row(values: Sequence[float]) -> list[float]:  # a rate that a piece lacks is one that it has already
        return [*values, *[values[-1]] * (most - len(values))]

    costs = torch.tensor([row(piece.costs) for piece in pieces.values()], dtype=torch.int64)
    losses = torch.tensor([row(piece.losses) for piece in pieces.values()], dtype=torch.float64)
    chosen = allocate(costs, losses, limit).tolist()
    pairs = zip(pieces.items(), chosen, strict=True)
    return {name: piece.bits[min(option, len(piece.bits) - 1)] for (name, piece), option in pairs}
