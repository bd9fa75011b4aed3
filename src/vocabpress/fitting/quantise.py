"""Rounding a float matrix to n-bit integers with the scale that loses least, and factors in such forms."""

from typing import Literal

import torch
from torch import Tensor

from vocabpress.embeddings import CompressedEmbedding, Dense, Projected, Scalar
from vocabpress.embeddings.scalar import ScaleAxis
from vocabpress.fitting.lowrank import ridge, weighted_svd

Factors = Literal["float16", "int8", "int4"]
FACTOR_BITS: dict[str, int | None] = {"float16": None, "int8": 8, "int4": 4}

CLIPS = 24  # scales tried below the one that reaches the largest entry


def scalar_codes(values: Tensor, scales: Tensor, bits: int) -> Tensor:
    """Nearest codes, uint8, for entries ``values`` under broadcastable ``scales``; see `Scalar` for the levels."""
    top = 2**bits - 1
    safe = torch.where(scales > 0, scales, torch.ones_like(scales))
    return ((values / safe + 1) * (top / 2)).round().clamp(0, top).to(torch.uint8)


def _best_scales(
    values: Tensor, bits: int, dim: int, dtype: torch.dtype, search: bool, weights: Tensor | None
) -> Tensor:
    """One scale for each slice along ``dim``: full reach, or the least weighted squared error over clipping points."""
    reach = values.abs().amax(dim, keepdim=True)
    # Full reach first; at few bits the best scale clips, at one bit it is the mean magnitude, about 0.3 of the reach.
    fractions = torch.linspace(1.0, 0.2, CLIPS + 1).tolist() if bits < 8 else [1.0, 0.95, 0.9]
    best, best_error = reach, torch.full_like(reach, torch.inf)
    for fraction in fractions if search else []:
        scales = (reach * fraction).to(dtype).to(values.dtype)
        levels = scalar_codes(values, scales, bits).to(values.dtype) * (2 / (2**bits - 1)) - 1
        errors = (levels * scales - values).square()
        error = (errors if weights is None else errors * weights).sum(dim, keepdim=True)
        better = error < best_error
        best, best_error = torch.where(better, scales, best), torch.where(better, error, best_error)
    return best.to(dtype).to(values.dtype)


def quantise(
    values: Tensor,
    bits: int,
    scale_axis: ScaleAxis,
    group_size: int | None = None,
    dtype: torch.dtype = torch.float16,
    search: bool = True,
    weights: Tensor | None = None,
) -> Scalar:
    """The `Scalar` nearest to ``values`` that a search over clipping points finds.

    Args:
        values: (rows, width).
        bits: 1 to 8.
        scale_axis: ``"row"``, ``"column"`` or ``"group"``.
        group_size: For ``"group"``; the last group may be shorter.
        dtype: Of the scales on disk.
        search: Whether scales may clip; without it each reaches the largest entry.
        weights: (rows), how much a row's error counts; only scales of columns are more than one row's.
    """
    if scale_axis == "column":
        scales = _best_scales(values, bits, 0, dtype, search, None if weights is None else weights[:, None])
        return Scalar.of(scalar_codes(values, scales, bits), scales, bits, scale_axis, dtype=dtype)
    size = group_size or values.shape[1]
    whole = values.shape[1] // size * size
    codes, scales = [], []
    for part, width in ((values[:, :whole], size), (values[:, whole:], values.shape[1] - whole)):
        if part.shape[1]:
            groups = part.unflatten(1, (-1, width))
            scales.append(_best_scales(groups, bits, 2, dtype, search, None))
            codes.append(scalar_codes(groups, scales[-1], bits).flatten(1))
    every_scale = torch.cat([part[..., 0] for part in scales], 1)
    return Scalar.of(torch.cat(codes, 1), every_scale, bits, scale_axis, group_size=group_size, dtype=dtype)


def empty_factor(rows: int, width: int, factors: Factors, scale_axis: ScaleAxis) -> CompressedEmbedding:
    """The empty form of a factor, on the current device: `Dense` float16, or `Scalar` with 8 or 4 bits."""
    bits = FACTOR_BITS[factors]
    return Dense(rows, width) if bits is None else Scalar(rows, width, bits, scale_axis)


def store_factor(values: Tensor, factors: Factors, scale_axis: ScaleAxis) -> CompressedEmbedding:
    """The form of :func:`empty_factor` that holds ``values``, shape (rows, width), as well as it can."""
    bits = FACTOR_BITS[factors]
    return Dense.of(values) if bits is None else quantise(values, bits, scale_axis)


def empty_low_rank(rows: int, width: int, rank: int, factors: Factors) -> Projected:
    """The empty form ``left @ right + mean``: left has a scale a column, right a scale a row."""
    return Projected(empty_factor(rows, rank, factors, "column"), empty_factor(rank, width, factors, "row"))


def store_low_rank(table: Tensor, rank: int, weights: Tensor, factors: Factors) -> Projected:
    """The weighted SVD of a table, (rows, width), in the form of :func:`empty_low_rank`.

    The rounded left factor is given the right factor that suits it best, before that one is rounded too.
    """
    low = weighted_svd(table, rank, weights)
    left = store_factor(low.left, factors, "column")
    right = ridge(left.dense().detach(), table - low.mean, weights, penalty=1e-9)
    return Projected.of(left, store_factor(right, factors, "row"), low.mean)


def check_factors(factors: str) -> None:
    """Refuse an unknown number format.

    Raises:
        ValueError: If ``factors`` is not one of FACTOR_BITS.
    """
    if factors not in FACTOR_BITS:
        raise ValueError(f"unknown factors {factors!r}; choose from {list(FACTOR_BITS)}")
