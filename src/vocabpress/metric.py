"""In which directions an error of a row matters to a model: a (d, d) matrix M, an error e counting e M e^T.

M is the mean of g^T g, g the gradient of the model's output with respect to an embedded token (`vocabpress metric`
measures it): to second order, what an error of the rows does to the output. As a weight of compression errors this is
the empirical Fisher information of e.g. Optimal Brain Surgeon (Hassibi and Stork, 1992), shared by all tokens, so that
it can be folded into a basis and costs no byte.
"""

from pathlib import Path

import torch
from torch import Tensor

from vocabpress.tensorfile import load_tensor, save_tensor

KEY = "metric"
FLOOR = 1e-2  # of the mean eigenvalue: directions in which the model feels nothing still count a little


def check_metric(metric: Tensor, embedding_dim: int) -> None:
    """Refuse what is no metric of rows of this width.

    Raises:
        ValueError: If the shape is not (d, d), or it is not symmetric and positive.
    """
    if metric.shape != (embedding_dim, embedding_dim):
        raise ValueError(
            f"the metric has shape {tuple(metric.shape)}, rows of {embedding_dim} need "
            f"({embedding_dim}, {embedding_dim}); measure it on this model"
        )
    largest = float(metric.abs().max())
    if not bool(metric.isfinite().all()) or not torch.allclose(metric, metric.T, rtol=1e-3, atol=1e-6 * largest):
        raise ValueError("the metric is not a finite symmetric matrix; measure it with vocabpress metric")
    if not largest > 0 or float(metric.diagonal().min()) < 0:
        raise ValueError("the metric is zero or negative on its diagonal; measure it with vocabpress metric")


def power(metric: Tensor, exponent: float) -> Tensor:
    """M to a power, its eigenvalues first divided by their mean and kept from zero; float64, (d, d).

    Args:
        metric: (d, d), symmetric, not negative.
        exponent: Any number; 0 gives the identity, under which all directions count alike.
    """
    values, vectors = torch.linalg.eigh(metric.double())
    values = (values / values.mean()).clamp(min=FLOOR)
    return (vectors * values**exponent) @ vectors.T


def save_metric(metric: Tensor, path: str | Path) -> None:
    """Write a metric as safetensors, one tensor ``metric``.

    Raises:
        ValueError: If the file can't be written.
    """
    save_tensor(metric, KEY, path)


def load_metric(path: str | Path) -> Tensor:
    """Read what :func:`save_metric` wrote, (d, d).

    Raises:
        ValueError: If the file is missing or holds no metric.
    """
    return load_tensor(KEY, KEY, path, "vocabpress metric MODEL --text FILE -o FILE")
