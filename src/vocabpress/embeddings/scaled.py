"""A matrix whose rows and columns have scales of their own."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from vocabpress.embeddings.base import CompressedEmbedding
from vocabpress.embeddings.configured import Configured
from vocabpress.embeddings.fields import BOOLEAN, DTYPE, FORM


class Scaled(Configured):
    """Entry (i, j) is ``rows[i] * columns[j]`` times the entry of ``inner``.

    Few numbers, which are trained where all others are codes, as QuIP# does (Tseng et al., ICML 2024, section 5).

    Args:
        inner: (num_embeddings, embedding_dim).
        rows: Whether rows have scales, (num_embeddings).
        columns: Whether columns have scales, (embedding_dim).
        dtype: Dtype of the scales on disk.
    """

    fields: ClassVar = {"inner": FORM, "rows": BOOLEAN, "columns": BOOLEAN, "dtype": DTYPE}

    def __init__(
        self,
        inner: CompressedEmbedding,
        rows: bool = True,
        columns: bool = True,
        dtype: torch.dtype = torch.float16,
    ) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = inner.num_embeddings, inner.embedding_dim
        self.stored_dtype = dtype
        # The order of registration matters: a model's dtype is that of its first parameter.
        self.rows = nn.Parameter(torch.ones(self.num_embeddings)) if rows else None
        self.columns = nn.Parameter(torch.ones(self.embedding_dim)) if columns else None
        self.inner = inner

    @property
    def dtype(self) -> torch.dtype:
        scales = self.rows if self.columns is None else self.columns
        return self.inner.dtype if scales is None else scales.dtype

    def _scaled(self, entries: Tensor, ids: Tensor | None = None) -> Tensor:
        """Rows of ``inner``, all or some, (*n, embedding_dim), as those of this form."""
        entries = entries.to(self.dtype)
        if self.rows is not None:
            entries = entries * (self.rows if ids is None else self.rows[ids])[..., None]
        return entries if self.columns is None else entries * self.columns

    def inputs(self, hidden: Tensor) -> Tensor:
        """Vectors whose inner products with rows of ``inner`` are, but for `outputs`, those with rows of this form."""
        return hidden if self.columns is None else hidden * self.columns.to(hidden.dtype)

    def outputs(self, logits: Tensor) -> Tensor:
        """Logits of ``inner`` as those of this form."""
        return logits if self.rows is None else logits * self.rows.to(logits.dtype)

    def lookup(self, ids: Tensor) -> Tensor:
        return self._scaled(self.inner.lookup(ids), ids)

    def dense(self) -> Tensor:
        return self._scaled(self.inner.dense())

    def logits(self, hidden: Tensor) -> Tensor:
        return self.outputs(self.inner.logits(self.inputs(hidden)))
