"""Multiplying every row of a stored table by a matrix, at no byte: the matrix goes into the decoders.

Rows that are read through a basis B can be read through B T instead. So a table can be fitted in other coordinates than
its own, those of a metric (`vocabpress.metric`), and be stored as if it had not been.
"""

from typing import cast

import torch
from torch import Tensor

from vocabpress.embeddings import CompressedEmbedding, Dense, Projected, Rows, Scalar, Sum
from vocabpress.embeddings.scalar import ScaleAxis
from vocabpress.fitting.quantise import quantise


def can_fold(form: CompressedEmbedding) -> bool:
    """Whether all rows of a form are read through a basis, or are floats."""
    if isinstance(form, Sum | Rows):
        return all(can_fold(part) for part in _parts(form))
    if isinstance(form, Projected):
        basis = form.basis
        return form.activation is None and (
            isinstance(basis, Dense) or (isinstance(basis, Scalar) and basis.scales is not None)
        )
    return isinstance(form, Dense)


@torch.no_grad()
def fold(form: CompressedEmbedding, matrix: Tensor) -> None:
    """Multiply every row by ``matrix``, (d, d), in place; for forms that `can_fold`.

    A basis of integers is rounded anew, in as many bits.
    """
    if isinstance(form, Sum | Rows):
        for part in _parts(form):
            fold(part, matrix)
    elif isinstance(form, Dense):
        form.rows.data = form.rows @ matrix
    elif isinstance(form, Projected):
        if isinstance(form.basis, Scalar):
            like, axis = form.basis, cast("ScaleAxis", form.basis.scale_axis)
            form.basis = quantise(like.dense() @ matrix, like.bits, axis, like.group_size, like.stored_dtype)
        else:
            fold(form.basis, matrix)
        if form.bias is not None:
            form.bias.data = form.bias @ matrix


def _parts(form: Sum | Rows) -> list[CompressedEmbedding]:
    modules = form.parts if isinstance(form, Sum) else form.blocks
    return [module for module in modules if isinstance(module, CompressedEmbedding)]
