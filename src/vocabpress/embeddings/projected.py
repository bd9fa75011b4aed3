"""Rows of a small table times a matrix: low rank, a decoder, or one layer of an MLP."""

from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from vocabpress.embeddings.base import CompressedEmbedding
from vocabpress.embeddings.configured import Configured
from vocabpress.embeddings.fields import BOOLEAN, DTYPE, FORM, one_of

ACTIVATIONS = {"elu": nn.functional.elu, "tanh": torch.tanh, "relu": torch.relu}
Activation = Literal["elu", "tanh", "relu"]


class Projected(Configured):
    """Row ``i`` is ``activation(inner[i] @ basis + bias)``.

    The basis is also a table in any form, (inner.embedding_dim, embedding_dim): ``Dense`` for a decoder in float16,
    ``Scalar`` for one in 8 bits. An MLP is a ``Projected`` in a ``Projected``. Without an activation on the outermost,
    ``logits`` never builds the table.

    Args:
        inner: (num_embeddings, rank).
        basis: (rank, embedding_dim).
        bias: Whether to add a bias, (embedding_dim).
        activation: Function applied to each entry at the end, or None.
        dtype: Dtype of the bias on disk.

    Raises:
        ValueError: If the shapes do not chain or the activation is unknown.
    """

    read_whole = ("basis",)
    fields: ClassVar = {
        "inner": FORM,
        "basis": FORM,
        "bias": BOOLEAN,
        "activation": one_of(*ACTIVATIONS, None),
        "dtype": DTYPE,
    }

    def __init__(
        self,
        inner: CompressedEmbedding,
        basis: CompressedEmbedding,
        bias: bool = True,
        activation: Activation | None = None,
        dtype: torch.dtype = torch.float16,
    ) -> None:
        super().__init__()
        if inner.embedding_dim != basis.num_embeddings:
            raise ValueError(
                f"inner has width {inner.embedding_dim}, basis has {basis.num_embeddings} rows; make equal"
            )
        if activation is not None and activation not in ACTIVATIONS:
            raise ValueError(f"unknown activation {activation!r}; choose from {list(ACTIVATIONS)} or none")
        self.num_embeddings, self.embedding_dim = inner.num_embeddings, basis.embedding_dim
        self.stored_dtype, self.activation = dtype, activation
        # The order of registration matters: a model's dtype is that of its first parameter.
        self.bias = nn.Parameter(torch.zeros(basis.embedding_dim)) if bias else None
        self.basis, self.inner = basis, inner

    @classmethod
    def of(
        cls,
        inner: CompressedEmbedding,
        basis: CompressedEmbedding,
        bias: Tensor | None,
        activation: Activation | None = None,
        dtype: torch.dtype = torch.float16,
    ) -> Self:
        """The form with this bias, shape (embedding_dim), or without bias."""
        form = cls(inner, basis, bias is not None, activation, dtype).to(basis.device)
        if form.bias is not None and bias is not None:
            form.bias.data.copy_(bias)
        return form

    def lookup(self, ids: Tensor) -> Tensor:
        basis = self.basis.dense()
        rows = self.inner.lookup(ids).to(basis.dtype) @ basis
        rows = rows if self.bias is None else rows + self.bias
        return rows if self.activation is None else ACTIVATIONS[self.activation](rows)

    def logits(self, hidden: Tensor) -> Tensor:
        if self.activation is not None:
            return super().logits(hidden)
        logits = self.inner.logits(self.basis.logits(hidden))
        return logits if self.bias is None else logits + (hidden @ self.bias.to(hidden.dtype))[..., None]
