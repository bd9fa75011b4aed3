"""Fitting in a metric, at no byte: the table times M^(1/2) is fitted, and M^(-1/2) goes into the decoders.

A metric M, (d, d), weights directions: an error e of a row counts e M e^T; `vocabpress.calibrate` measures one. As a
weight of compression errors this is the empirical Fisher information of e.g. Optimal Brain Surgeon (Hassibi and Stork,
1992), shared by all tokens. Rows that are read through a basis B can be read through B T instead.
"""

import torch
from torch import Tensor

from vocabpress.embeddings import CompressedEmbedding, Dense, Projected, Rows, Scalar, Sum
from vocabpress.embeddings.combine import forms
from vocabpress.fitting.quantise import quantise

FLOOR = 1e-2  # least eigenvalue over the mean: directions that do not affect the model still count a little


def check_metric(metric: Tensor, embedding_dim: int) -> None:
    """Raise ValueError unless this is a metric of rows of this width: (d, d), symmetric, finite and positive."""
    if metric.shape != (embedding_dim, embedding_dim):
        raise ValueError(
            f"the metric has shape {tuple(metric.shape)}, rows of {embedding_dim} need "
            f"({embedding_dim}, {embedding_dim}); measure it on this model"
        )
    largest = float(metric.abs().max())
    if not bool(metric.isfinite().all()) or not torch.allclose(metric, metric.T, rtol=1e-3, atol=1e-6 * largest):
        raise ValueError("the metric is not a finite symmetric matrix; measure it with vocabpress calibrate")
    if not largest > 0 or float(metric.diagonal().min()) < 0:
        raise ValueError("the metric is zero or negative on its diagonal; measure it with vocabpress calibrate")


def power(metric: Tensor, exponent: float) -> Tensor:
    """A symmetric metric M to a power, its eigenvalues first divided by their mean and floored; float64, (d, d).

    The exponent 0 gives the identity, under which all directions count alike.
    """
    values, vectors = torch.linalg.eigh(metric.double())
    values = (values / values.mean()).clamp(min=FLOOR)
    return (vectors * values**exponent) @ vectors.T


def unevenness(metric: Tensor) -> float:
    """The arithmetic over the harmonic mean of the eigenvalues, at least 1.

    An error that is alike in all directions, as that of a rounded decoder into which the metric is folded, counts so
    much more than in the metric's own coordinates.
    """
    values = torch.linalg.eigvalsh(power(metric, 1.0))
    return float(values.mean() * values.reciprocal().mean())


def can_fold(form: CompressedEmbedding) -> bool:
    """Whether all rows of a form are read through a basis, or are floats."""
    if isinstance(form, Sum | Rows):
        return all(can_fold(part) for part in parts_of(form))
    if isinstance(form, Projected):
        basis = form.basis
        return form.activation is None and (
            isinstance(basis, Dense) or (isinstance(basis, Scalar) and basis.scales is not None)
        )
    return isinstance(form, Dense)


@torch.no_grad()
def fold(form: CompressedEmbedding, matrix: Tensor) -> None:
    """Multiply every row by ``matrix``, (d, d), in place, in a form that `can_fold`; integers are rounded again."""
    if isinstance(form, Sum | Rows):
        for part in parts_of(form):
            fold(part, matrix)
    elif isinstance(form, Dense):
        form.rows.data = form.rows @ matrix
    elif isinstance(form, Projected):
        if isinstance(form.basis, Scalar):
            like = form.basis
            turned = like.dense() @ matrix
            form.basis = quantise(turned, like.bits, like.scale_axis, like.group_size, like.stored_dtype)
        else:
            fold(form.basis, matrix)
        if form.bias is not None:
            form.bias.data = form.bias @ matrix


def parts_of(form: Sum | Rows) -> list[CompressedEmbedding]:
    """What is added up, or the blocks."""
    return forms(form.parts if isinstance(form, Sum) else form.blocks)
