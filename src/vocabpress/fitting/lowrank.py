"""Best low-rank approximations and ridge least squares, by the small Gram matrix: V enters only as a sum over rows."""

from typing import NamedTuple

import torch
from torch import Tensor


class LowRank(NamedTuple):
    """``left @ right + mean``; the columns of ``left`` have mean square 1, ``right`` carries the deviations."""

    left: Tensor  # (V, rank)
    right: Tensor  # (rank, d)
    mean: Tensor  # (d)


def weighted_mean(table: Tensor, weights: Tensor) -> Tensor:
    """Mean row, shape (d), of a (V, d) table under weights of shape (V)."""
    return (weights.double() @ table.double() / weights.double().sum()).to(table.dtype)


def principal_axes(table: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvectors (d, d), as rows, and eigenvalues (d), falling, of ``sum_i w_i x_i x_i^T / sum_i w_i``.

    In float64: the eigenvalues are squares of singular values, which costs half of the digits.
    """
    rows = table.double()
    gram = (rows * weights.double()[:, None]).T @ rows / weights.double().sum()
    values, vectors = torch.linalg.eigh(gram)
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
    # A column of zeros has no deviation: any divisor will do, and 1 keeps it zero.
    scale = torch.where(deviations > 0, deviations, torch.ones_like(deviations))
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
    weighted = features * weights[:, None]
    gram = (weighted.T @ features).double()
    # The second term matters where all features are zero: the answer is then zero, not a failure.
    gram.diagonal().add_(penalty * gram.diagonal().mean() + 1e-150)
    return torch.linalg.solve(gram, (weighted.T @ targets).double()).to(targets.dtype)
