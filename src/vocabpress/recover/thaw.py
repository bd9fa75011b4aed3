"""Makes integer decoders trainable, decodes what is constant, and stores both in the same bytes again."""

from typing import Any, Self

import torch
from torch import Tensor, nn

from vocabpress.embeddings import Columns, CompressedEmbedding, Rotated, Rows, Scalar, Trellis
from vocabpress.embeddings.base import Build
from vocabpress.embeddings.inference import dense
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


class Held(CompressedEmbedding):
    """A form that is constant during training: its rows, decoded once.

    Args:
        form: It is not registered, so that nothing of it trains or is saved with the run.
    """

    rows: Tensor

    def __init__(self, form: CompressedEmbedding) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = form.num_embeddings, form.embedding_dim
        self.held = [form]
        with torch.no_grad():
            self.register_buffer("rows", dense(form), persistent=False)

    def lookup(self, ids: Tensor) -> Tensor:
        return nn.functional.embedding(ids, self.rows)

    def dense(self) -> Tensor:
        return self.rows

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden @ self.rows.to(hidden.dtype).T

    def config(self) -> dict[str, Any]:
        return self.held[0].config()

    @classmethod
    def from_config(cls, config: dict[str, Any], build: Build) -> Self:
        """A form of this config, held."""
        return cls(build(config))


def hold(table: CompressedEmbedding) -> None:
    """Stop the training of codes that are decoded as a whole at every step, for the sake of a few scales in them.

    Those are matrices that are rotated, and the rows of a table that an output head is tied to.
    """
    if _is_constant(table):
        table.requires_grad_(False)
    else:
        _hold_parts(table)


def _hold_parts(module: nn.Module) -> None:
    for name, part in list(module.named_children()):
        if isinstance(part, CompressedEmbedding) and _is_constant(part):
            setattr(module, name, Held(part))
        else:
            _hold_parts(part)


def _is_constant(form: CompressedEmbedding) -> bool:
    """Whether a form is a rotated matrix, or trellis codes and nothing else."""
    parts = [part for part in form.modules() if isinstance(part, CompressedEmbedding)]
    return isinstance(form, Rotated) or all(isinstance(part, Trellis | Rows | Columns) for part in parts)


def freeze(table: CompressedEmbedding) -> None:
    """Undo `thaw` and `hold` in place: each decoder gets its stored form, with the trained values."""
    for module in list(table.modules()):
        for name, part in list(module.named_children()):
            if isinstance(part, Thawed):
                setattr(module, name, part.frozen())
            if isinstance(part, Held):
                setattr(module, name, part.held[0].to(part.device))
