"""Rows of a small table through a linear map: low rank, a decoder, one layer of an MLP."""

from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from vocabpress.budget import DTYPES, dtype_name
from vocabpress.embeddings.base import Build, CompressedEmbedding
from vocabpress.embeddings.fields import BOOLEAN, DTYPE, FORM, one_of

ACTIVATIONS = {"elu": nn.functional.elu, "tanh": torch.tanh, "relu": torch.relu}
Activation = Literal["elu", "tanh", "relu"]


class Projected(CompressedEmbedding):
    """Row ``i`` is ``activation(inner[i] @ basis + bias)``.

    The basis is a table too, (inner.embedding_dim, embedding_dim), in any form: a float16 or an 8-bit decoder is
    ``Dense`` or ``Scalar``. An MLP is a ``Projected`` in a ``Projected``; where the outermost has no activation,
    ``logits`` never builds the table.

    Args:
        inner: (num_embeddings, rank).
        basis: (rank, embedding_dim).
        bias: Whether a row of embedding_dim values is added.
        activation: Applied to each entry at the end, or None.
        dtype: Of the bias on disk.

    Raises:
        ValueError: If the shapes do not chain or the activation is unknown.
    """

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
        # The order of registration matters: a model's dtype is read off its first parameter.
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
        """The form with this bias, shape (embedding_dim), or none."""
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

    def config(self) -> dict[str, Any]:
        return {
            "form": "projected",
            "inner": self.inner.config(),
            "basis": self.basis.config(),
            "bias": self.bias is not None,
            "activation": self.activation,
            "dtype": dtype_name(self.stored_dtype),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], build: Build) -> Self:
        inner, basis = build(config["inner"]), build(config["basis"])
        return cls(inner, basis, config["bias"], config["activation"], DTYPES[config["dtype"]])
