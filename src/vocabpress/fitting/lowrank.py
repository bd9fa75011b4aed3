"""Best low-rank approximations and ridge least squares, by the small Gram matrix: V enters only as a sum over rows."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from vocabpress.fitting.table import Readable, Table

NOTHING = 1e-6  # over the largest deviation: rounding error of a zero; rows of weight 0 can be long in that direction


class LowRank(NamedTuple):
    """``left @ right + mean``; the columns of ``left`` have mean square 1, ``right`` carries the deviations."""

    left: Table  # (V, rank), made of the table when it is read
    right: Tensor  # (rank, d)
    mean: Tensor  # (d)


def _total(weights: Tensor) -> Tensor:
    """The sum of the weights; where it is zero, a tiny number, so that quotients of zero stay zero."""
    return weights.sum(dtype=torch.float64).clamp(min=torch.finfo(torch.float64).tiny)


def weighted_mean(table: Table | Tensor, weights: Tensor) -> Tensor:
    """Mean row, shape (d), of a (V, d) table under weights of shape (V)."""
    table = Table.of(table)
    (summed,) = table.sum(lambda places, rows: (weights[places].double() @ rows.double(),))
    return (summed / _total(weights)).to(table.dtype)


def principal_axes(table: Table | Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvectors (d, d), as rows, and eigenvalues (d), falling, of ``sum_i w_i x_i x_i^T / sum_i w_i``; float64.

    The eigenvalues are squares of singular values, which costs half of the digits.
    """
    table = Table.of(table)

    def products(places: slice, rows: Tensor) -> tuple[Tensor]:
        rows = rows.double()
        return ((rows * weights[places, None].double()).T @ rows,)

    (gram,) = table.sum(products)
    values, vectors = torch.linalg.eigh(gram / _total(weights))
    values, vectors = table.shards.agree(values), table.shards.agree(vectors)
    return vectors.flip(1).T.contiguous(), values.flip(0).clamp(min=0)


def weighted_svd(table: Table | Tensor, rank: int, weights: Tensor) -> LowRank:
    """The approximation of rank 0 to min(V, d) about the mean row with the least ``sum_i w_i ||x_i - x^_i||^2``.

    With all weights equal this is the truncated SVD of the centred table, optimal by Eckart and Young.
    """
    table = Table.of(table)
    mean = weighted_mean(table, weights)
    centred = table.minus(mean)
    axes, values = principal_axes(centred, weights)
    axes, deviations = axes[:rank].to(table.dtype), values[:rank].sqrt().to(table.dtype)
    # A column of next to nothing has no deviation: any divisor is right, and 1 leaves it tiny.
    scale = torch.where(deviations > NOTHING * deviations[:1], deviations, torch.ones_like(deviations))
    left = centred.map(lambda _, rows: rows @ axes.T / scale, rank)
    return LowRank(left, axes * scale[:, None], mean)


def ridge(
    features: Readable, targets: Table | Tensor, weights: Tensor, penalty: float = 1e-6, offset: bool = False
) -> Tensor:
    """``W`` with the least ``sum_i w_i ||y_i - f_i W||^2 + penalty * trace * ||W||^2``; shape (features, d).

    The penalty is relative to the mean of the features' squares, so its meaning does not depend on their scale. With
    ``offset`` a feature of ones comes first, and row 0 of the result is the offset. Features (V, f) are read in chunks.
    """
    targets = Table.of(targets)

    def products(places: slice, rows: Tensor) -> tuple[Tensor, Tensor]:
        seen = features[places]
        seen = pad(seen, (1, 0), value=1.0) if offset else seen
        weighted = seen * weights[places, None]
        return (weighted.T @ seen).double(), (weighted.T @ rows).double()

    gram, sides = targets.sum(products)
    # The second term matters where all features are zero: the answer is then zero, not a failure.
    gram.diagonal().add_(penalty * gram.diagonal().mean() + 1e-150)
    return targets.shards.agree(torch.linalg.solve(gram, sides)).to(targets.dtype)
