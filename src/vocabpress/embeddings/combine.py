"""Forms made of other forms: `Sum` adds the rows of its parts, `Columns` puts them side by side."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from vocabpress.embeddings.base import CompressedEmbedding
from vocabpress.embeddings.configured import Configured
from vocabpress.embeddings.fields import COLUMNS, FORMS


class Sum(Configured):
    """Row ``i`` is the sum of the parts' rows ``i``.

    Args:
        parts: At least one form; all have the same shape.

    Raises:
        ValueError: If there is no part, or the shapes differ.
    """

    fields: ClassVar = {"parts": FORMS}

    def __init__(self, parts: Sequence[CompressedEmbedding]) -> None:
        super().__init__()
        shapes = {(part.num_embeddings, part.embedding_dim) for part in parts}
        if len(shapes) != 1:
            raise ValueError(f"the parts of a sum must have one shape, got {sorted(shapes) or 'no part'}")
        ((self.num_embeddings, self.embedding_dim),) = shapes
        self.parts = nn.ModuleList(parts)

    def lookup(self, ids: Tensor) -> Tensor:
        return torch.stack([part.lookup(ids) for part in forms(self.parts)]).sum(0)

    def logits(self, hidden: Tensor) -> Tensor:
        return torch.stack([part.logits(hidden) for part in forms(self.parts)]).sum(0)


class Columns(Configured):
    """Row ``i`` is the parts' rows ``i`` side by side, and zeros up to ``embedding_dim``.

    Args:
        parts: At least one form; all have the same number of rows.
        embedding_dim: Width; None is the sum of the parts' widths.

    Raises:
        ValueError: If there is no part, their numbers of rows differ, or they are wider than ``embedding_dim``.
    """

    fields: ClassVar = {"parts": FORMS, "embedding_dim": COLUMNS}

    def __init__(self, parts: Sequence[CompressedEmbedding], embedding_dim: int | None = None) -> None:
        super().__init__()
        counts = {part.num_embeddings for part in parts}
        if len(counts) != 1:
            raise ValueError(f"the parts of a row must have equally many rows, got {sorted(counts) or 'no part'}")
        (self.num_embeddings,) = counts
        self.widths = [part.embedding_dim for part in parts]
        self.embedding_dim = sum(self.widths) if embedding_dim is None else embedding_dim
        if self.embedding_dim < sum(self.widths):
            raise ValueError(f"the parts have {sum(self.widths)} columns, more than embedding_dim {embedding_dim}")
        self.parts = nn.ModuleList(parts)

    def lookup(self, ids: Tensor) -> Tensor:
        pieces = torch.cat([part.lookup(ids) for part in forms(self.parts)], -1)
        return nn.functional.pad(pieces, (0, self.embedding_dim - sum(self.widths)))

    def logits(self, hidden: Tensor) -> Tensor:
        pieces = hidden[..., : sum(self.widths)].split(self.widths, -1)
        return torch.stack([part.logits(own) for part, own in zip(forms(self.parts), pieces, strict=True)]).sum(0)


def forms(modules: nn.ModuleList) -> list[CompressedEmbedding]:
    """The same modules with their type, which `nn.ModuleList` does not declare."""
    return [module for module in modules if isinstance(module, CompressedEmbedding)]
