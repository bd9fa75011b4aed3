"""Rounding a float matrix to n-bit integers with the best scales that a search finds, and factors in such forms."""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from vocabpress.embeddings import CompressedEmbedding, Dense, Projected, Scalar
from vocabpress.embeddings.scalar import ScaleAxis
from vocabpress.fitting.lowrank import ridge, weighted_svd
from vocabpress.fitting.table import Decoded, Table
from vocabpress.packing import pack

Factors = Literal["float16", "int8", "int4"]
FACTOR_BITS: dict[str, int | None] = {"float16": None, "int8": 8, "int4": 4}

CLIPS = 24  # scales tried below the one that reaches the largest entry


def scalar_codes(values: Tensor, scales: Tensor, bits: int) -> Tensor:
    """Nearest codes, uint8, for entries ``values`` under broadcastable ``scales``; see `Scalar` for the levels."""
    top = 2**bits - 1
    safe = torch.where(scales > 0, scales, torch.ones_like(scales))
    return ((values / safe + 1) * (top / 2)).round().clamp(0, top).to(torch.uint8)


def _candidates(reach: Tensor, bits: int, dtype: torch.dtype) -> list[Tensor]:
    """Scales to try, full reach first; at fewer bits the best one clips more, at one bit to about 0.3 of the reach."""
    fractions = torch.linspace(1.0, 0.2, CLIPS + 1).tolist() if bits < 8 else [1.0, 0.95, 0.9]
    return [(reach * fraction).to(dtype).to(reach.dtype) for fraction in fractions]


def _errors(values: Tensor, scales: Tensor, bits: int) -> Tensor:
    """Squared errors of the entries under broadcastable scales."""
    levels = scalar_codes(values, scales, bits).to(values.dtype) * (2 / (2**bits - 1)) - 1
    return (levels * scales - values).square()


def _least(scales: list[Tensor], errors: Iterable[Tensor], otherwise: Tensor) -> Tensor:
    """The scales of least error, each of the shape of ``otherwise``, which is used where no error is finite."""
    best, best_error = otherwise, torch.full_like(otherwise, torch.inf)
    for candidate, error in zip(scales, errors, strict=True):
        better = error < best_error
        best, best_error = torch.where(better, candidate, best), torch.where(better, error.to(best.dtype), best_error)
    return best


def _group_scales(groups: Tensor, bits: int, dtype: torch.dtype, search: bool) -> Tensor:
    """A scale for each group, (n, groups, 1) of (n, groups, size)."""
    reach = groups.abs().amax(2, keepdim=True)
    scales = _candidates(reach, bits, dtype) if search else []
    best = _least(scales, (_errors(groups, tried, bits).sum(2, keepdim=True) for tried in scales), reach)
    return best.to(dtype).to(groups.dtype)


def _column_scales(values: Table, bits: int, dtype: torch.dtype, search: bool, weights: Tensor | None) -> Tensor:
    """A scale for each column, (1, width): one pass over the rows for their reach, one for the errors."""
    (reach,) = values.fold(
        lambda _, rows: (rows.abs().amax(0, keepdim=True),), lambda a, b: (torch.maximum(a[0], b[0]),)
    )
    scales = _candidates(reach, bits, dtype) if search else []

    def errors(places: slice, rows: Tensor) -> tuple[Tensor]:
        shares = torch.ones_like(rows[:, 0]) if weights is None else weights[places]
        return (torch.stack([shares @ _errors(rows, tried, bits) for tried in scales]).double(),)

    best = _least(scales, values.sum(errors)[0][:, None] if scales else [], reach)
    return best.to(dtype).to(values.dtype)


def quantise(
    values: Table | Tensor,
    bits: int,
    scale_axis: ScaleAxis,
    group_size: int | None = None,
    dtype: torch.dtype = torch.float16,
    search: bool = True,
    weights: Tensor | None = None,
) -> Scalar:
    """The `Scalar` nearest to ``values``, (rows, width), that a search over clipping points finds.

    Args:
        values: (rows, width).
        bits: 1 to 8.
        scale_axis: ``"row"``, ``"column"`` or ``"group"``.
        group_size: For ``"group"``; the last group may be shorter.
        dtype: Dtype of the scales on disk.
        search: Whether scales may clip; without it each reaches the largest entry.
        weights: Weights of the rows' errors, (rows); only scales of columns depend on them.
    """
    values = Table.of(values)
    form = Scalar(len(values), values.shape[1], bits, scale_axis, group_size, dtype).to(values.device)
    assert form.scales is not None
    if scale_axis == "column":
        values = values.cached()
        scales = _column_scales(values, bits, dtype, search, weights)
        form.scales.data.copy_(scales)
        values.fill([form.codes], lambda _, rows: [pack(scalar_codes(rows, scales, bits), bits)])
        return form
    size = group_size or values.shape[1]
    whole = values.shape[1] // size * size

    def rounded(_: slice, rows: Tensor) -> list[Tensor]:
        codes, scales = [], []
        for part, width in ((rows[:, :whole], size), (rows[:, whole:], values.shape[1] - whole)):
            if part.shape[1]:
                groups = part.unflatten(1, (-1, width))
                scales.append(_group_scales(groups, bits, dtype, search))
                codes.append(scalar_codes(groups, scales[-1], bits).flatten(1))
        return [pack(torch.cat(codes, 1), bits), torch.cat(scales, 1)[..., 0]]

    values.fill([form.codes, form.scales.data], rounded)
    return form


def empty_factor(rows: int, width: int, factors: Factors, scale_axis: ScaleAxis) -> CompressedEmbedding:
    """The empty form of a factor, on the current device: `Dense` float16, or `Scalar` with 8 or 4 bits."""
    bits = FACTOR_BITS[factors]
    return Dense(rows, width) if bits is None else Scalar(rows, width, bits, scale_axis)


def store_factor(values: Table | Tensor, factors: Factors, scale_axis: ScaleAxis) -> CompressedEmbedding:
    """``values``, (rows, width), rounded to the form of :func:`empty_factor`."""
    values, bits = Table.of(values), FACTOR_BITS[factors]
    if bits is not None:
        return quantise(values, bits, scale_axis)
    form = Dense(*values.shape).to(values.device)
    values.fill([form.rows.data], lambda _, rows: [rows])
    return form


def empty_low_rank(rows: int, width: int, rank: int, factors: Factors) -> Projected:
    """The empty form ``left @ right + mean``: left has a scale a column, right a scale a row."""
    return Projected(empty_factor(rows, rank, factors, "column"), empty_factor(rank, width, factors, "row"))


def store_low_rank(table: Table, rank: int, weights: Tensor, factors: Factors) -> Projected:
    """The weighted SVD of a table, (rows, width), in the form of :func:`empty_low_rank`.

    The right factor is refitted to the rounded left one by least squares, before it is rounded, too.
    """
    low = weighted_svd(table, rank, weights)
    left = store_factor(low.left, factors, "column")
    right = ridge(Decoded(left), table.minus(low.mean), weights, penalty=1e-9)
    return Projected.of(left, store_factor(right, factors, "row"), low.mean)


def check_factors(factors: str) -> None:
    """Raise ValueError if ``factors`` is not one of FACTOR_BITS."""
    if factors not in FACTOR_BITS:
        raise ValueError(f"unknown factors {factors!r}; choose from {list(FACTOR_BITS)}")
