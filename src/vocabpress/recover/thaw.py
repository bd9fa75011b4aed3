"""Makes integer decoders trainable, and stores them in the same bytes again."""

from typing import Any, Self

import torch
from torch import Tensor, nn

from vocabpress.embeddings import CompressedEmbedding, Rotated, Scalar
from vocabpress.embeddings.base import Build
from vocabpress.fitting.quantise import quantise

DECODERS = ("basis", "right", "words")  # shared by all rows, in `Projected`, `Kronecker`, `Codebooks`


class Thawed(CompressedEmbedding):
    """An n-bit decoder during training: float values that every forward pass quantizes.

    Each read quantizes the values as the original form does, with new scales; the gradient ignores the rounding
    (straight-through estimator). So the loss is that of the stored numbers.

    Args:
        form: The decoder, of more than one bit.
    """

    def __init__(self, form: Scalar) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = form.num_embeddings, form.embedding_dim
        self.stored_dtype, self._config = form.stored_dtype, form.config()
        self.values = nn.Parameter(form.dense().detach().clone())

    @torch.no_grad()
    def frozen(self) -> Scalar:
        """The stored form of the current values."""
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
        """A decoder with the config of a form, all values zero."""
        return cls(Scalar.from_config(config, build))


def thaw(table: CompressedEmbedding, every: bool = False) -> None:
    """Make the integer decoders of a table trainable.

    Args:
        table: Changed in place.
        every: Whether to take all `Scalar` parts, as in a linear map, not only decoders; token codes are never trained.
    """
    for module in list(table.modules()):
        for name, part in list(module.named_children()):
            if isinstance(part, Scalar) and part.bits > 1 and (every or name in DECODERS):
                setattr(module, name, Thawed(part).to(part.device))


def hold(table: CompressedEmbedding) -> None:
    """Stop the training of what is rotated: all of it would be decoded at every step, for the sake of one scale."""
    for part in table.modules():
        if isinstance(part, Rotated):
            part.requires_grad_(False)


def freeze(table: CompressedEmbedding) -> None:
    """Undo `thaw` in place: each decoder gets its stored form, with the trained values."""
    for module in list(table.modules()):
        for name, part in list(module.named_children()):
            if isinstance(part, Thawed):
                setattr(module, name, part.frozen())
