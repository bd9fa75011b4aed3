"""Nearest sums of Kronecker products, and how they are stored.

Block (I, J) of ``A (x) B`` is ``A[I, J] B``. With the blocks of a matrix as the rows of another, R, (m1 n1, m2 n2),
the nearest sum of r products is the nearest R of rank r: Van Loan and Pitsianis, 1993; Tahaei et al., NAACL 2022,
section 3.1. Weights of the matrix's rows scale rows of R where they are equal inside each block (always, where a block
is one row high), and the optimum is still an SVD. Where they differ inside a block, or rows past the end of the matrix
pad the last one, no method surely finds the optimum: least squares for A and for B alternate, from that SVD on, and the
error never rises.

In all functions ``rows`` x ``width`` is the shape of the right factors, m2 x n2; n2 divides d. ``terms`` products are
added up, at most min(m1 n1, m2 n2).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from vocabpress.embeddings import CompressedEmbedding, Kronecker, Sum
from vocabpress.fitting.lowrank import principal_axes
from vocabpress.fitting.quantise import Factors, empty_factor, store_factor
from vocabpress.fitting.table import Beside, Decoded, Places, Readable, Table

LEAST_WEIGHT = 1e-6  # over the mean: a row of weight 0 is still fitted where that costs the others nothing
SWEEPS, FLAT = 25, 1e-5  # of the alternating least squares: the most, and the relative gain that ends them


class KroneckerBlocks(NamedTuple):
    """A matrix cut into blocks, (m1, n1, m2, n2), with a weight for each row of each block."""

    matrix: Table  # (m1, m2 * d): the rows of blocks side by side are one row here
    rows: int  # m2
    width: int  # n2
    weights: Tensor  # (m1, m2), not negative; 0 for rows past the end

    @classmethod
    def of(cls, matrix: Table | Tensor, rows: int, width: int, weights: Tensor | None = None) -> "KroneckerBlocks":
        """Blocks of ``rows`` x ``width`` of a (V, d) matrix, padded by zero rows; without weights (V) all are equal."""
        matrix = Table.of(matrix)
        weights = torch.ones(len(matrix), device=matrix.device) if weights is None else weights / weights.mean()
        inside = pad(weights.clamp(min=LEAST_WEIGHT), (0, -len(matrix) % rows)).unflatten(0, (-1, rows))
        return cls(matrix.grouped(rows), rows, width, inside.to(matrix.dtype))

    @property
    def level(self) -> bool:
        """Whether all rows of a block have equal weights, in each block."""
        return torch.equal(self.weights, self.weights[:, :1].expand_as(self.weights))

    def entries(self, rows: Tensor) -> Tensor:
        """Rows of the matrix as blocks, (some of m1, n1, m2, n2)."""
        return rows.unflatten(1, (self.rows, -1, self.width)).transpose(1, 2)

    def weighted(self, places: slice, rows: Tensor) -> Tensor:
        """The same times their weights."""
        return self.entries(rows) * self.weights[places][:, None, :, None]

    def solve_left(self, right: Tensor) -> Tensor:
        """The best left factors for these right ones, (terms, m1, n1)."""
        inside, level = torch.einsum("tpq,spq->pts", right, right), self.level

        def solved(places: slice, rows: Tensor) -> list[Tensor]:
            if level:  # a weight shared by a whole block changes no solution: one system serves all blocks
                gram, entries = inside.sum(0, keepdim=True), self.entries(rows)
            else:
                gram, entries = torch.einsum("ip,pts->its", self.weights[places], inside), self.weighted(places, rows)
            return [_solve(gram, torch.einsum("ijpq,tpq->tij", entries, right)).transpose(0, 1)]

        left = right.new_empty(len(self.matrix), len(right), self.matrix.shape[1] // (self.rows * self.width))
        self.matrix.fill([left], solved)
        return left.transpose(0, 1)

    def solve_right(self, left: Readable) -> Tensor:
        """The best right factors for these left ones, (terms, m2, n2); left factors as (m1, terms * n1)."""
        width = self.matrix.shape[1] // (self.rows * self.width)

        def sums(places: slice, rows: Tensor) -> tuple[Tensor, Tensor]:
            some = left[places].unflatten(1, (-1, width))
            gram = torch.einsum("ip,its->pts", self.weights[places], torch.einsum("itj,isj->its", some, some))
            return gram.double(), torch.einsum("ijpq,itj->tpq", self.weighted(places, rows), some).double()

        gram, aims = self.matrix.sum(sums)
        return self.matrix.shards.agree(_solve(gram, aims).to(self.matrix.dtype))

    def explained(self, left: Tensor, right: Tensor) -> float:
        """The weighted square that the products account for, left factors (terms, m1, n1)."""

        def inner(places: slice, rows: Tensor) -> tuple[Tensor]:
            seen = torch.einsum("ijpq,tpq->tij", self.weighted(places, rows), right)
            return ((left[:, places] * seen).sum().double(),)

        return float(self.matrix.sum(inner)[0])

    def rearranged(self) -> Table:
        """Blocks as rows, (m1 n1, m2 n2), each times the root of its mean weight."""
        pieces = self.matrix.shape[1] // (self.rows * self.width)

        def scaled(places: Places, rows: Tensor) -> Tensor:
            return (self.entries(rows) * self.weights[places].mean(1).sqrt()[:, None, None, None]).flatten(1)

        return self.matrix.map(scaled).pieces(pieces)


def _solve(gram: Tensor, aims: Tensor) -> Tensor:
    """Solve for each row of the factors, (terms, rows, width), with its Gram matrix, (rows or 1, terms, terms)."""
    gram, wanted = gram.double(), aims.double()
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    # Terms may become dependent, or be zero: a ridge too small to change a digit of float32.
    diagonal += 1e-9 * diagonal.mean(-1, keepdim=True) + 1e-150
    if len(gram) == 1:
        return torch.linalg.solve(gram[0], wanted.flatten(1)).view_as(wanted).to(aims.dtype)
    return torch.linalg.solve(gram, wanted.transpose(0, 1)).transpose(0, 1).to(aims.dtype)


def _leading_axes(rows: Table, count: int) -> Tensor:
    """The first right singular vectors of ``rows``, (count, width), by the smaller of the two Gram matrices."""
    number, width = rows.shape
    alike = torch.ones(1, device=rows.device)
    if width <= number:
        return principal_axes(rows, alike.expand(number))[0][:count].to(rows.dtype)
    wide = rows.dense()  # few rows, each as wide as right factors that are larger than the left ones
    left = principal_axes(wide.T, alike.expand(width))[0][:count].to(rows.dtype)
    return nn.functional.normalize((left @ wide).double(), dim=1).to(rows.dtype)  # squares may leave float32


def nearest_products(blocks: KroneckerBlocks, terms: int) -> tuple[Tensor, Tensor]:
    """The sum of products with the least weighted squared error (see above where it is the least).

    Returns left factors (terms, m1, n1) of mean square 1, and right factors (terms, m2, n2) that carry the scale.
    """
    right = _leading_axes(blocks.rearranged(), terms).unflatten(1, (blocks.rows, blocks.width))
    left, explained = blocks.solve_left(right), -math.inf  # weighted square that the products account for
    for _ in range(SWEEPS if not blocks.level else 0):
        right = blocks.solve_right(left.transpose(0, 1).flatten(1))
        left = blocks.solve_left(right)
        before, explained = explained, blocks.explained(left, right)
        if explained <= before * (1 + FLAT):
            break
    scales = torch.stack([factor.norm(dtype=torch.float64) for factor in left]) / (left[0].numel() ** 0.5)
    scales = torch.where(scales > 0, scales, torch.ones_like(scales)).to(left.dtype)  # a factor of zeros stays one
    left /= scales[:, None, None]
    return left, right * scales[:, None, None]


def empty_kronecker(
    num_embeddings: int, embedding_dim: int, rows: int, width: int, terms: int, factors: Factors
) -> CompressedEmbedding:
    """The empty form of a sum of Kronecker products, all factors in one number format, on the current device."""
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
    matrix: Table | Tensor, rows: int, width: int, terms: int, factors: Factors, weights: Tensor | None = None
) -> CompressedEmbedding:
    """The form of :func:`empty_kronecker` nearest to a matrix, (V, d), its rows weighted by ``weights``, (V).

    The right factors are refitted to the rounded left ones before they are rounded, too.
    """
    blocks = KroneckerBlocks.of(matrix, rows, width, weights)
    lefts = [store_factor(left, factors, "column") for left in nearest_products(blocks, terms)[0]]
    rights = blocks.solve_right(Beside([Decoded(left) for left in lefts]))
    parts = [
        Kronecker(left, store_factor(right, factors, "row"), len(matrix))
        for left, right in zip(lefts, rights, strict=True)
    ]
    return parts[0] if terms == 1 else Sum(parts)


def most_terms(num_embeddings: int, embedding_dim: int, rows: int, width: int) -> int:
    """Products beyond which a sum can represent any matrix of this shape, so that more gain nothing."""
    return min(-(-num_embeddings // rows) * (embedding_dim // width), rows * width)


def divisors(number: int) -> list[int]:
    """All divisors, rising."""
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})


def check_divides(part: int, whole: int, what: str) -> None:
    """Raise ValueError with the nearest valid choices if ``part`` does not divide ``whole``, described by ``what``."""
    valid = divisors(whole)
    if part not in valid:
        near = [max((n for n in valid if n < part), default=None), min((n for n in valid if n > part), default=None)]
        choices = " or ".join(str(n) for n in near if n is not None)
        raise ValueError(f"{part} does not divide {whole}, {what}; the nearest that does is {choices}")
