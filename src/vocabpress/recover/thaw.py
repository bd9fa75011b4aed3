"""Integer decoders made trainable, and frozen into the same bytes again."""

from typing import Any, Self

import torch
from torch import Tensor, nn

from vocabpress.embeddings import CompressedEmbedding, Scalar
from vocabpress.embeddings.base import Build
from vocabpress.fitting.quantise import quantise

DECODERS = ("basis", "right", "words")  # of `Projected`, `Kronecker`, `Codebooks`: what all rows share


class Thawed(CompressedEmbedding):
    """An n-bit decoder while it is trained: float values whose forward pass is what will be stored.

    Every read rounds the values to the form they came from, scales sought anew; the gradient passes the rounding as if
    it were not there (straight-through). So the loss that is minimised is that of the stored numbers.

    Args:
        form: The decoder's, at more than one bit.
    """

    def __init__(self, form: Scalar) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = form.num_embeddings, form.embedding_dim
        self.stored_dtype, self._config = form.stored_dtype, form.config()
        self.values = nn.Parameter(form.dense().detach().clone())

    @torch.no_grad()
    def frozen(self) -> Scalar:
        """What would be stored of the values as they are."""
        config = self._config
        values = self.values.detach().float()
        return quantise(values, config["bits"], config["scale_axis"], config["group_size"], self.stored_dtype)

    def dense(self) -> Tensor:
        stored = self.frozen().dense().to(self.values.dtype)
        return self.values + (stored - self.values).detach()

    def lookup(self, ids: Tensor) -> Tensor:
        return self.dense()[ids]

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden @ self.dense().to(hidden.dtype).T

    def config(self) -> dict[str, Any]:
        return self._config

    @classmethod
    def from_config(cls, config: dict[str, Any], build: Build) -> Self:
        """One of a form with these settings, its numbers zero."""
        return cls(Scalar.from_config(config, build))


def thaw(table: CompressedEmbedding, every: bool = False) -> None:
    """Make the integer decoders of a table trainable, in place.

    Args:
        table: Changed.
        every: Whether all its integers are a decoder's, as those of a linear map are; the codes of tokens stay codes.
    """
    for module in list(table.modules()):
        for name, part in list(module.named_children()):
            if isinstance(part, Scalar) and part.bits > 1 and (every or name in DECODERS):
                setattr(module, name, Thawed(part).to(part.device))


def freeze(table: CompressedEmbedding) -> None:
    """Undo `thaw`, in place: each decoder back in its form, with the values it was trained to."""
    for module in list(table.modules()):
        for name, part in list(module.named_children()):
            if isinstance(part, Thawed):
                setattr(module, name, part.frozen())
