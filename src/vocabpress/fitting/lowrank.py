"""Best low-rank approximations and ridge least squares, by the small Gram matrix: V enters only as a sum over rows."""

from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

ROWS_PER_CHUNK = 16384  # that are held in float64 at a time
NOTHING = 1e-6  # of the largest deviation: what rounding leaves of a zero; rows of no weight have any length there


class LowRank(NamedTuple):
    """``left @ right + mean``; the columns of ``left`` have mean square 1, ``right`` carries the deviations."""

    left: Tensor  # (V, rank)
    right: Tensor  # (rank, d)
    mean: Tensor  # (d)


def _total(weights: Tensor) -> Tensor:
    """Their sum; where some rows of a table have no weight at all, what is divided by it is zero, and stays so."""
    return weights.double().sum().clamp(min=torch.finfo(torch.float64).tiny)


def weighted_mean(table: Tensor, weights: Tensor) -> Tensor:
    """Mean row, shape (d), of a (V, d) table under weights of shape (V)."""
    parts = zip(table.split(ROWS_PER_CHUNK), weights.split(ROWS_PER_CHUNK), strict=True)
    summed = torch.stack([shares.double() @ rows.double() for rows, shares in parts]).sum(0)
    return (summed / _total(weights)).to(table.dtype)


def principal_axes(table: Tensor, weights: Tensor, mean: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Eigenvectors (d, d), as rows, and eigenvalues (d), falling, of ``sum_i w_i x_i x_i^T / sum_i w_i``.

    In float64: the eigenvalues are squares of singular values, which costs half of the digits.

    Args:
        table: (V, d).
        weights: (V).
        mean: Subtracted from each row, (d); none without.
    """
    gram = torch.zeros(table.shape[1], table.shape[1], device=table.device, dtype=torch.float64)
    for part, shares in zip(table.split(ROWS_PER_CHUNK), weights.split(ROWS_PER_CHUNK), strict=True):
        rows = (part if mean is None else part - mean).double()
        gram += (rows * shares.double()[:, None]).T @ rows
    values, vectors = torch.linalg.eigh(gram / _total(weights))
    return vectors.flip(1).T.contiguous(), values.flip(0).clamp(min=0)


def weighted_svd(table: Tensor, rank: int, weights: Tensor) -> LowRank:
    """The rank-``rank`` approximation about the mean row with the least ``sum_i w_i ||x_i - x^_i||^2``.

    With all weights equal this is the truncated SVD of the centred table, optimal by Eckart and Young.

    Args:
        table: (V, d).
        rank: 0 to min(V, d).
        weights: (V), not negative.
    """
    mean = weighted_mean(table, weights)
    centred = table - mean
    axes, values = principal_axes(centred, weights)
    axes, deviations = axes[:rank].to(table.dtype), values[:rank].sqrt().to(table.dtype)
    # A column of next to nothing has no deviation: any divisor will do, and 1 keeps it so.
    scale = torch.where(deviations > NOTHING * deviations[:1], deviations, torch.ones_like(deviations))
    return LowRank(centred @ axes.T / scale, axes * scale[:, None], mean)


def ridge(features: Tensor, targets: Tensor, weights: Tensor, penalty: float = 1e-6) -> Tensor:
    """``W`` with the least ``sum_i w_i ||y_i - f_i W||^2 + penalty * trace * ||W||^2``; shape (features, d).

    The penalty is relative to the mean of the features' squares, so its meaning does not depend on their scale.

    Args:
        features: (V, f).
        targets: (V, d).
        weights: (V).
        penalty: Relative strength of the ridge.
    """
    return NormalEquations(features.shape[1], targets).add(features, targets, weights).solve(penalty)


class NormalEquations:
    """Least squares summed up over chunks of rows, for :func:`ridge` where not all features are held at once.

    Args:
        features: How many.
        targets: (any, d), for its width, type and device.
    """

    def __init__(self, features: int, targets: Tensor) -> None:
        options: Any = {"device": targets.device, "dtype": torch.float64}
        self.gram = torch.zeros(features, features, **options)
        self.sides, self.dtype = torch.zeros(features, targets.shape[1], **options), targets.dtype

    def add(self, features: Tensor, targets: Tensor, weights: Tensor) -> Self:
        """Some rows: (n, f), (n, d) and (n)."""
        weighted = features * weights[:, None]
        self.gram += weighted.T @ features
        self.sides += weighted.T @ targets
        return self

    def solve(self, penalty: float) -> Tensor:
        """The map, (f, d); see :func:`ridge`."""
        gram = self.gram.clone()
        # The second term matters where all features are zero: the answer is then zero, not a failure.
        gram.diagonal().add_(penalty * gram.diagonal().mean() + 1e-150)
        return torch.linalg.solve(gram, self.sides).to(self.dtype)
