"""Axes that suit codes of segments.

Ge, He, Ke and Sun, "Optimized product quantization", CVPR 2013: for a Gaussian the distortion of a product code is
least where segments are independent and the products of their variances are equal. Principal axes give the first, the
greedy allocation below the second; alternating with Procrustes' problem fits the axes to the codes themselves.
"""

import heapq
import math

import torch
from torch import Tensor

from vocabpress.fitting.table import Readable, Table

TINY = 1e-30  # least variance whose logarithm is taken


def deal_axes(variances: Tensor, segments: int, width: int) -> Tensor:
    """Indices of the axes of each segment, (segments * width), so that the products of their variances are balanced.

    The paper's "eigenvalue allocation" (section 3.3): one axis after another, the largest first, goes to the segment
    that has room and the least product so far. Variances, (d), fall; ``width`` axes go to each segment.
    """
    used = variances[: segments * width].double().clamp(min=TINY)
    # Relative to the least one, no factor is below 1: one more axis never makes a product smaller.
    logs = (used / used[-1]).log().tolist()
    places: list[list[int]] = [[] for _ in range(segments)]
    heap = [(0.0, 0, segment) for segment in range(segments)]  # product so far, axes so far
    for axis, log in enumerate(logs):
        product, count, segment = heapq.heappop(heap)
        places[segment].append(axis)
        if count + 1 < width:
            heapq.heappush(heap, (product + log, count + 1, segment))
    return torch.tensor(places, device=variances.device).flatten()


def procrustes(rows: Table | Tensor, targets: Readable, weights: Tensor) -> Tensor:
    """Orthonormal A, (r, d), with the least ``sum_i w_i ||x_i - y_i A||^2`` for rows x, (n, d), and targets y, (n, r).

    With the singular value decomposition ``sum_i w_i y_i x_i^T = U S V^T`` they are ``U V^T`` (Schoenemann, 1966); that
    is also the least ``||x_i A^T - y_i||^2`` where A is square.
    """
    rows = Table.of(rows)
    (moments,) = rows.sum(lambda at, part: (((targets[at] * weights[at, None]).T @ part).double(),))
    left, _, right = torch.linalg.svd(moments, full_matrices=False)
    return rows.shards.agree(left @ right).to(rows.dtype)


def block_variances(covariance: Tensor, segments: int) -> Tensor:
    """Variances along each segment's own principal axes, (segments, width), for a (d, d) covariance of all entries."""
    blocks = covariance.unflatten(0, (segments, -1)).unflatten(2, (segments, -1)).diagonal(dim1=0, dim2=2)
    return torch.linalg.eigvalsh(blocks.permute(2, 0, 1))


def gaussian_distortion(variances: Tensor, bits: float) -> Tensor:
    """The least distortion that codes of ``bits`` bits a segment can have if the rows are Gaussian, (segments).

    Reverse water-filling (Cover and Thomas, 2006, section 10.3.3) over the variances along the principal axes of each
    segment, (segments, width), float64.
    """
    values = variances.sort(1, descending=True).values.clamp(min=TINY)
    used = torch.arange(1, values.shape[1] + 1, device=values.device)
    # The level of the water if it covers all but the first k axes; it is right for the last k that it does not cover.
    levels = (values.log().cumsum(1) - 2 * math.log(2) * bits) / used
    right = (levels <= values.log() + 1e-9).sum(1, keepdim=True).clamp(min=1)
    return torch.minimum(values, levels.gather(1, right - 1).exp()).sum(1)
