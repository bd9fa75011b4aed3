"""A matrix whose rows and columns were rotated before it was coded, by rotations that a seed gives.

Entries of a matrix that was rotated on both sides are close to normally distributed and alike, whatever the matrix
was. This is the incoherence processing of QuIP# (Tseng et al., ICML 2024, section 3), whose randomised Hadamard
transform the rotations follow.
"""

import math
from functools import lru_cache
from typing import ClassVar, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import embedding

from vocabpress.embeddings.base import CompressedEmbedding
from vocabpress.embeddings.configured import Configured
from vocabpress.embeddings.fields import FORM, integer

OF_ROWS, OF_COLUMNS = 0, 1  # the streams of signs of the two sides
MAX_SEED = 2**31 - 1
MOST_MIXED = 1024  # Hadamard blocks of a side; more of them are not mixed
MOST_BITS = 6  # a Hadamard transform is done by matrices of at most 2**6 rows
MASK = 0xFFFFFFFF
EXPORTING = getattr(torch.compiler, "is_exporting", bool)  # older versions of torch don't tell


class Rotated(Configured):
    """The matrix ``U^T inner V``, with orthogonal U and V that are made from the seed; nothing of them is stored.

    So ``inner`` holds ``rotate(rotate(W, seed, OF_COLUMNS).T, seed, OF_ROWS).T`` for a matrix W. Every entry depends on
    all entries of ``inner``: a lookup decodes the whole matrix.

    Args:
        inner: (num_embeddings, embedding_dim).
        seed: Of the signs, from 0 to 2**31 - 1.

    Raises:
        ValueError: If the seed is out of range, or a side of ``inner`` is empty.
    """

    read_whole = ("inner",)
    fields: ClassVar = {"inner": FORM, "seed": integer(0, MAX_SEED)}

    def __init__(self, inner: CompressedEmbedding, seed: int) -> None:
        super().__init__()
        if not 0 <= seed <= MAX_SEED:
            raise ValueError(f"the seed of a rotation is 0 to {MAX_SEED:,}, got {seed}")
        self.num_embeddings, self.embedding_dim = inner.num_embeddings, inner.embedding_dim
        if not self.num_embeddings or not self.embedding_dim:
            raise ValueError(
                f"only a matrix with entries can be rotated, got {inner.num_embeddings} x {inner.embedding_dim}"
            )
        self.seed, self.inner = seed, inner

    @property
    def dtype(self) -> torch.dtype:
        return self.inner.dtype

    def lookup(self, ids: Tensor) -> Tensor:
        return embedding(ids, self.dense())

    def dense(self) -> Tensor:
        return turned_back(self.inner.dense(), self.seed)

    def inputs(self, hidden: Tensor) -> Tensor:
        """Vectors whose inner products with rows of ``inner`` are, but for `outputs`, those with rows of this form."""
        return rotate(hidden, self.seed, OF_COLUMNS)

    def outputs(self, logits: Tensor) -> Tensor:
        """Logits of ``inner`` as those of this form."""
        return rotate_back(logits, self.seed, OF_ROWS)

    def logits(self, hidden: Tensor) -> Tensor:
        if EXPORTING():  # runtimes decode what is constant once, and would rotate every vector
            return hidden @ self.dense().to(hidden.dtype).T
        return self.outputs(self.inner.logits(self.inputs(hidden)))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, seed={self.seed}"


def turned(matrix: Tensor, seed: int) -> Tensor:
    """``U matrix V^T``: what `Rotated` holds for a matrix, (V, d), in its dtype."""
    exact = matrix.to(_exact(matrix))
    return rotate(rotate(exact, seed, OF_COLUMNS).mT, seed, OF_ROWS).mT.to(matrix.dtype)


def turned_back(matrix: Tensor, seed: int) -> Tensor:
    """``U^T matrix V``, the inverse of `turned`."""
    exact = matrix.to(_exact(matrix))
    return rotate_back(rotate_back(exact.mT, seed, OF_ROWS).mT, seed, OF_COLUMNS).to(matrix.dtype)


def rotate(vectors: Tensor, seed: int, stream: int) -> Tensor:
    """``vectors @ Q.T`` for an orthogonal Q that the seed gives.

    Each entry gets a random sign. Neighbouring entries are transformed in blocks of the largest power of two that
    divides the length, by Hadamard matrices in Sylvester's order, and the blocks, if there are at most 1,024 of them,
    by a discrete cosine transform (DCT-II). docs/format.md defines all of it.

    Args:
        vectors: Shape (*n, length), length from 1.
        seed: From 0 to 2**31 - 1.
        stream: 0 or 1: `OF_ROWS` or `OF_COLUMNS`, which have different signs.

    Returns:
        Shape (*n, length), in the dtype of the vectors; computed in float32 at least.
    """
    values = vectors.to(_exact(vectors))
    values = values * signs(seed, stream, values)
    return _transform(values, [factor.mT for factor in _factors(values)]).to(vectors.dtype)


def rotate_back(vectors: Tensor, seed: int, stream: int) -> Tensor:
    """``vectors @ Q``, the inverse of `rotate`, with the same arguments."""
    values = vectors.to(_exact(vectors))
    values = _transform(values, _factors(values))
    return (values * signs(seed, stream, values)).to(vectors.dtype)


def _exact(values: Tensor) -> torch.dtype:
    return torch.promote_types(values.dtype, torch.float32)


def _transform(values: Tensor, factors: list[Tensor]) -> Tensor:
    """Vectors times the Kronecker product of small matrices, the first of which takes neighbouring entries."""
    length = math.prod([len(factor) for factor in factors])  # of a block that is not mixed with others
    shape = *values.shape[:-1], values.shape[-1] // length
    for factor in factors:
        values = values.reshape(*shape, length // len(factor), len(factor)) @ factor
        values = values.mT.reshape(*shape, length)  # the next entries become neighbours; at the end, all are in place
    return values.reshape(*shape[:-1], shape[-1] * length)


Number = TypeVar("Number", int, Tensor)


def hashed(number: Number) -> Number:
    """32 bits from 32 bits, each of which depends on all of those; no product is larger than 63 bits."""
    for _ in range(2):
        number = ((number >> 16) ^ number) * 0x45D9F3B & MASK
    return (number >> 16) ^ number


def signs(seed: int, stream: int, like: Tensor) -> Tensor:
    """1 or -1 for each entry of a vector, in the dtype and on the device of ``like``, whose last axis it is; cached."""
    make = _signs.__wrapped__ if torch.compiler.is_compiling() or like.is_meta else _signs
    return make(like.shape[-1], seed, stream, like.dtype, like.device)


@lru_cache(maxsize=1024)
def _signs(length: int, seed: int, stream: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # training could not use a cached inference tensor
        places = torch.arange(length, device=device) + hashed(2 * seed + stream)
        return (1 - 2 * (hashed(places & MASK) & 1)).to(dtype)


def _factors(like: Tensor) -> list[Tensor]:
    """Matrices whose Kronecker product transforms a vector back; cached."""
    make = _made.__wrapped__ if torch.compiler.is_compiling() or like.is_meta else _made
    return make(like.shape[-1], like.dtype, like.device)


@lru_cache(maxsize=256)
def _made(length: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    block, blocks = blocks_of(length)
    bits = block.bit_length() - 1
    steps = -(-bits // MOST_BITS)
    with torch.inference_mode(False):
        found = [_hadamard((bits + step) // steps, device) for step in range(steps)][::-1]
        if blocks > 1:
            small = bool(found) and len(found[-1]) * blocks <= 1 << MOST_BITS  # fewer products are faster
            last = cosines(blocks, device)
            found = [*found[:-1], torch.kron(last, found[-1])] if small else [*found, last]
        return [factor.to(dtype) for factor in found or [torch.ones(1, 1, device=device)]]


def blocks_of(length: int) -> tuple[int, int]:
    """The size of the Hadamard blocks of a vector, and how many are mixed: all, or 1 of too many."""
    block = length & -length
    return block, length // block if length // block <= MOST_MIXED else 1


def _hadamard(bits: int, device: torch.device) -> Tensor:
    """Sylvester's, orthonormal, (2**bits, 2**bits)."""
    matrix = torch.ones(1, 1, dtype=torch.float64, device=device)
    for _ in range(bits):
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1))) / math.sqrt(2)
    return matrix


def cosines(count: int, device: torch.device) -> Tensor:
    """The orthonormal DCT-II, float64 (count, count), a frequency a row."""
    places = torch.arange(count, device=device)
    # Whole periods are taken off while numbers are exact.
    angles = (places[:, None] * (2 * places + 1) % (4 * count)).to(torch.float64) * (math.pi / (2 * count))
    squares = torch.where(places == 0, 1, 2).to(torch.float64) / count
    return angles.cos() * squares.sqrt()[:, None]
