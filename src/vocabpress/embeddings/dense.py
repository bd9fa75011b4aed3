"""Plain float rows: factors of low-rank forms, and the baseline."""

from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from vocabpress.embeddings.configured import Configured
from vocabpress.embeddings.fields import COLUMNS, DTYPE, ROWS


class Dense(Configured):
    """Row ``i`` is ``rows[i]``.

    Args:
        num_embeddings: Number of rows.
        embedding_dim: Number of columns.
        dtype: Dtype on disk: float32, float16 or bfloat16.
    """

    fields: ClassVar = {"num_embeddings": ROWS, "embedding_dim": COLUMNS, "dtype": DTYPE}

    def __init__(self, num_embeddings: int, embedding_dim: int, dtype: torch.dtype = torch.float16) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim, self.stored_dtype = num_embeddings, embedding_dim, dtype
        self.rows = nn.Parameter(torch.zeros(num_embeddings, embedding_dim))

    @classmethod
    def of(cls, rows: Tensor, dtype: torch.dtype = torch.float16) -> Self:
        """The form with these rows, shape (num_embeddings, embedding_dim)."""
        form = cls(rows.shape[0], rows.shape[1], dtype).to(rows.device)
        form.rows.data.copy_(rows)
        return form

    def lookup(self, ids: Tensor) -> Tensor:
        return self.rows[ids]

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden @ self.rows.T.to(hidden.dtype)

    def dense(self) -> Tensor:
        return self.rows
