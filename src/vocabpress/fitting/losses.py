"""How far a reconstructed row is from the original: the losses of the papers, each a value per row.

Throughout, ``x`` is the original row and ``y`` its reconstruction, both (batch, d); n = ||x||, m = ||y||,
c = cos(x, y) and rho = n - m. They are tied by ||x - y||^2 = rho^2 + 2 n m (1 - c).
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

EPSILON = 1e-8  # keeps the square roots below away from their infinite slope at zero

RowLoss = Literal["calibrated", "am_gm", "triangle", "tight_triangle", "mse", "cosine"]


def _norms_and_cosine(y: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    n = x.square().sum(-1).add(EPSILON**2).sqrt()
    m = y.square().sum(-1).add(EPSILON**2).sqrt()
    return n, m, (x * y).sum(-1) / (n * m)


def calibrated(y: Tensor, x: Tensor, cosine_weight: float = 2.0) -> Tensor:
    """rho^2 + 2 lambda n m (1 - c): an upper bound of the squared error for lambda >= 1, equal to it at lambda = 1."""
    n, m, c = _norms_and_cosine(y, x)
    return (n - m).square() + 2 * cosine_weight * n * m * (1 - c)


def am_gm(y: Tensor, x: Tensor) -> Tensor:
    """rho^2 + (n^2 + m^2)(1 - c) bounds the squared error: 2 n m <= n^2 + m^2. Shrinking y doesn't pay."""
    n, m, c = _norms_and_cosine(y, x)
    return (n - m).square() + (n.square() + m.square()) * (1 - c)


def triangle(y: Tensor, x: Tensor) -> Tensor:
    """|rho| + n sqrt(2 (1 - c)) bounds the error itself, by way of the vector n y / m."""
    n, m, c = _norms_and_cosine(y, x)
    return (n - m).abs() + n * (2 * (1 - c)).clamp(min=EPSILON).sqrt()


def tight_triangle(y: Tensor, x: Tensor) -> Tensor:
    """|rho| + min(n, m) sqrt(2 (1 - c)): as `triangle`, by way of whichever vector is shorter."""
    n, m, c = _norms_and_cosine(y, x)
    return (n - m).abs() + torch.minimum(n, m) * (2 * (1 - c)).clamp(min=EPSILON).sqrt()


def mse(y: Tensor, x: Tensor) -> Tensor:
    """||x - y||^2."""
    return (x - y).square().sum(-1)


def cosine(y: Tensor, x: Tensor) -> Tensor:
    """n^2 (1 - c) + rho^2 / 100: direction alone, with a term just strong enough to keep the length."""
    n, m, c = _norms_and_cosine(y, x)
    return n.square() * (1 - c) + 0.01 * (n - m).square()


ROW_LOSSES: dict[str, Callable[..., Tensor]] = {
    "calibrated": calibrated,
    "am_gm": am_gm,
    "triangle": triangle,
    "tight_triangle": tight_triangle,
    "mse": mse,
    "cosine": cosine,
}


def direction(y: Tensor, x: Tensor, alpha: float, cosine_weight: float, l1_weight: float) -> Tensor:
    """The loss of "Direction is what you need": cosine distance and an annealed power of the entries' errors.

    Args:
        y: Reconstruction, (batch, d).
        x: Original, (batch, d).
        alpha: Exponent of the second term, annealed from 1 to 0.1 while training.
        cosine_weight: Of 1 - c.
        l1_weight: Of the mean over entries of ``(|y - x| + 1e-10) ** alpha``.

    Returns:
        A value per row, (batch).
    """
    distance = 1 - torch.nn.functional.cosine_similarity(y, x, dim=-1)
    return cosine_weight * distance + l1_weight * ((y - x).abs() + 1e-10).pow(alpha).mean(-1)
