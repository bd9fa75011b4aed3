"""Correlations of two vectors; 0 if all values of one are equal."""

import torch
from torch import Tensor


def pearson(a: Tensor, b: Tensor) -> float:
    """Pearson correlation."""
    if bool((a == a[0]).all()) or bool((b == b[0]).all()):
        return 0.0
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])


def spearman(a: Tensor, b: Tensor) -> float:
    """Rank correlation; equal values share their mean rank."""
    return pearson(_ranks(a), _ranks(b))


def _ranks(values: Tensor) -> Tensor:
    _, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts.double() - 1) / 2)[inverse]
