"""The spectrum of a table, and the rate-distortion bound of tables with that spectrum."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vocabpress.fitting.lowrank import principal_axes, weighted_mean
from vocabpress.fitting.table import Table

NOISE = 1e-13  # share of the largest variance, below which there are only rounding errors of float64


def singular_values(table: Tensor) -> Tensor:
    """Singular values of the centred table in descending order, (min(V, d))."""
    ones, rows = torch.ones(len(table), device=table.device), Table.of(table)
    _, variances = principal_axes(rows.minus(weighted_mean(rows, ones)), ones)
    return (variances * len(table)).sqrt()[: min(table.shape)]


def gaussian_bound(values: Tensor, width: int, bits_per_weight: Sequence[float]) -> list[float]:
    """The lowest relative error at which rows of a Gaussian with this spectrum can be stored, for each rate.

    Reverse water-filling (Cover and Thomas, Elements of Information Theory, 2nd ed., Theorem 10.3.3). With variances
    ``l_i``, the squares of the singular values up to a factor, and a water level ``t``::

        bits per weight = 1/d   * sum_i max(0, 1/2 * log2(l_i / t))
        relative error  = sum_i min(l_i, t) / sum_i l_i

    The error is that of `vocabpress.reconstruction`: over the squared deviations from the mean row. For a flat spectrum
    it is ``2 ** (-2 R)``. The Gaussian is the hardest source with these variances, so other tables may be stored
    better. Bytes of decoder, scales and mean are not counted.

    Args:
        values: Result of `singular_values`.
        width: d, columns of the table.
        bits_per_weight: Rates R, not negative.
    """
    variances = values.double().cpu().square()
    variances = variances[variances > NOISE * variances[0]]
    if len(variances) == 0:  # all rows equal the mean row
        return [0.0 for _ in bits_per_weight]
    bits = torch.tensor(bits_per_weight, dtype=torch.float64) * width
    logs, components = variances.log2(), torch.arange(1, len(variances) + 1, dtype=torch.float64)
    sums = logs.cumsum(0)
    joins = (sums - components * logs) / 2  # bits of a row at which the water has sunk to each component
    above = torch.searchsorted(joins, bits, right=True)
    level = ((sums[above - 1] - 2 * bits) / above).exp2()
    tail = variances.sum() - variances.cumsum(0)
    error = (above * level + tail[above - 1].clamp(min=0)) / variances.sum()
    return error.tolist()
