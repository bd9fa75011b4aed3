"""Nearest sums of Kronecker products, and how they are stored.

Block (I, J) of ``A (x) B`` is ``A[I, J] B``. With the blocks of a matrix as the rows of another, R, (m1 n1, m2 n2),
the nearest sum of r products is the nearest R of rank r: Van Loan and Pitsianis, 1993; Tahaei et al., NAACL 2022,
section 3.1. Weights of the matrix's rows scale rows of R where they are equal inside each block (always, where a block
is one row high), and the optimum is still an SVD. Where they differ inside a block, or rows past the end of the matrix
fill the last one up, nothing is known that surely finds the optimum: least squares for A and for B take turns, from
that SVD on, and the error never rises.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vocabpress.embeddings import CompressedEmbedding, Kronecker, Sum
from vocabpress.fitting.lowrank import principal_axes
from vocabpress.fitting.quantise import Factors, empty_factor, store_factor

LEAST_WEIGHT = 1e-6  # of the mean: a row that does not count is still fitted, where nothing else is at stake
SWEEPS, FLAT = 25, 1e-5  # of the alternating least squares: at most, and the relative gain at which they end


class Blocks(NamedTuple):
    """A matrix cut into blocks, and what each row of each block weighs."""

    entries: Tensor  # (m1, n1, m2, n2)
    weights: Tensor  # (m1, m2), not negative; 0 for rows past the end
    weighted: Tensor  # the entries times their weights

    @classmethod
    def of(cls, matrix: Tensor, rows: int, width: int, weights: Tensor | None = None) -> "Blocks":
        """Blocks of ``rows`` x ``width``.

        Args:
            matrix: (V, d); zero rows are added where ``rows`` does not divide V.
            rows: Of a block, m2.
            width: Of a block, n2; divides d.
            weights: (V), not negative; None counts all rows alike.
        """
        past = -len(matrix) % rows
        entries = nn.functional.pad(matrix, (0, 0, 0, past)).unflatten(1, (-1, width)).unflatten(0, (-1, rows))
        entries = entries.transpose(1, 2).contiguous()
        weights = torch.ones_like(matrix[:, 0]) if weights is None else weights / weights.mean()
        inside = nn.functional.pad(weights.clamp(min=LEAST_WEIGHT), (0, past)).unflatten(0, (-1, rows))
        return cls(entries, inside, entries * inside[:, None, :, None])

    @property
    def level(self) -> bool:
        """Whether all rows of a block weigh the same, in each block."""
        return torch.equal(self.weights, self.weights[:, :1].expand_as(self.weights))

    def solve_left(self, right: Tensor) -> Tensor:
        """The left factors that suit these right ones best, (terms, m1, n1)."""
        inside = torch.einsum("tpq,spq->pts", right, right)
        if self.level:  # a weight that all of a block shares moves no answer: one system serves all blocks
            return _solve(inside.sum(0, keepdim=True), torch.einsum("ijpq,tpq->tij", self.entries, right))
        return _solve(torch.einsum("ip,pts->its", self.weights, inside), self.seen_by(right))

    def solve_right(self, left: Tensor) -> Tensor:
        """The right factors that suit these left ones best, (terms, m2, n2)."""
        gram = torch.einsum("ip,its->pts", self.weights, torch.einsum("tij,sij->its", left, left))
        return _solve(gram, torch.einsum("ijpq,tij->tpq", self.weighted, left))

    def seen_by(self, right: Tensor) -> Tensor:
        """Weighted inner products of the blocks with the right factors, (terms, m1, n1)."""
        return torch.einsum("ijpq,tpq->tij", self.weighted, right)


def _solve(gram: Tensor, aims: Tensor) -> Tensor:
    """Solve for each row of the factors, (terms, rows, width), with its Gram matrix, (rows or 1, terms, terms)."""
    gram, wanted = gram.double(), aims.double()
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    # Terms may come to depend on each other, or be zero: a ridge that no digit of float32 sees.
    diagonal += 1e-9 * diagonal.mean(-1, keepdim=True) + 1e-150
    if len(gram) == 1:
        return torch.linalg.solve(gram[0], wanted.flatten(1)).view_as(wanted).to(aims.dtype)
    return torch.linalg.solve(gram, wanted.transpose(0, 1)).transpose(0, 1).to(aims.dtype)


def _leading_axes(rows: Tensor, count: int) -> Tensor:
    """The first right singular vectors of ``rows``, (count, width), by the smaller of the two Gram matrices."""
    if rows.shape[1] <= rows.shape[0]:
        return principal_axes(rows, torch.ones_like(rows[:, 0]))[0][:count].to(rows.dtype)
    left = principal_axes(rows.T, torch.ones_like(rows[0]))[0][:count].to(rows.dtype)
    return nn.functional.normalize((left @ rows).double(), dim=1).to(rows.dtype)  # squares may leave float32


def nearest(blocks: Blocks, terms: int) -> tuple[Tensor, Tensor]:
    """The sum of ``terms`` Kronecker products with the least weighted squared error (see above where it is the least).

    Returns:
        Left factors (terms, m1, n1) of mean square 1, and right factors (terms, m2, n2) that carry the scale.
    """
    entries, weights, _ = blocks
    rearranged = (entries * weights.mean(1).sqrt()[:, None, None, None]).flatten(2).flatten(0, 1)
    right = _leading_axes(rearranged, terms).unflatten(1, entries.shape[2:])
    left = blocks.solve_left(right)
    if not blocks.level:
        left, right = _take_turns(blocks, left, right)
    scales = left.double().square().mean((1, 2), keepdim=True).sqrt().to(left.dtype)
    scales = torch.where(scales > 0, scales, torch.ones_like(scales))  # a factor of zeros stays one
    return left / scales, right * scales


def _take_turns(blocks: Blocks, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    held = -math.inf  # weighted square that the products account for
    for _ in range(SWEEPS):
        right = blocks.solve_right(left)
        left = blocks.solve_left(right)
        before, held = held, float((left * blocks.seen_by(right)).sum())
        if held <= before * (1 + FLAT):
            break
    return left, right


def empty_kronecker(
    num_embeddings: int, embedding_dim: int, rows: int, width: int, terms: int, factors: Factors
) -> CompressedEmbedding:
    """The empty form of a sum of Kronecker products, on the current device.

    Args:
        num_embeddings: V.
        embedding_dim: d.
        rows: Of the right factors, m2.
        width: Of the right factors, n2; divides d.
        terms: Products that are added up.
        factors: Number format of all factors.
    """
    high = -(-num_embeddings // rows)
    parts = [
        Kronecker(
            empty_factor(high, embedding_dim // width, factors, "column"),
            empty_factor(rows, width, factors, "row"),
            num_embeddings,
        )
        for _ in range(terms)
    ]
    return parts[0] if terms == 1 else Sum(parts)


def fit_kronecker(
    matrix: Tensor, rows: int, width: int, terms: int, factors: Factors, weights: Tensor | None = None
) -> CompressedEmbedding:
    """The form of :func:`empty_kronecker` nearest to a matrix.

    The rounded left factors are given the right ones that suit them best before those are rounded too.

    Args:
        matrix: (V, d).
        rows: Of the right factors, m2.
        width: Of the right factors, n2; divides d.
        terms: Products that are added up, at most min(m1 n1, m2 n2).
        factors: Number format of all factors.
        weights: (V), how much each row's error counts; None counts all alike.
    """
    blocks = Blocks.of(matrix, rows, width, weights)
    lefts = [store_factor(left, factors, "column") for left in nearest(blocks, terms)[0]]
    rights = blocks.solve_right(torch.stack([left.dense().detach() for left in lefts]))
    parts = [
        Kronecker(left, store_factor(right, factors, "row"), len(matrix))
        for left, right in zip(lefts, rights, strict=True)
    ]
    return parts[0] if terms == 1 else Sum(parts)


def most_terms(num_embeddings: int, embedding_dim: int, rows: int, width: int) -> int:
    """Products beyond which a sum holds any matrix of this shape, so that more gain nothing."""
    return min(-(-num_embeddings // rows) * (embedding_dim // width), rows * width)


def divisors(number: int) -> list[int]:
    """All divisors, rising."""
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})


def check_divides(part: int, whole: int, what: str) -> None:
    """Refuse what does not divide.

    Args:
        part: What is to divide.
        whole: What is to be divided.
        what: For the message: "width of the table".

    Raises:
        ValueError: With the nearest valid choices.
    """
    valid = divisors(whole)
    if part not in valid:
        near = [max((n for n in valid if n < part), default=None), min((n for n in valid if n > part), default=None)]
        choices = " or ".join(str(n) for n in near if n is not None)
        raise ValueError(f"{part} does not divide {whole}, {what}; the nearest that does is {choices}")
