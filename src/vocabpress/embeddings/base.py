"""The contract of stored forms. A form is data and the code that reads it, independent of how it was fitted.

*In memory* the continuous tensors are parameters in the dtype of the model around them, so `model.dtype`, `.to()` and
training behave as with an ordinary embedding. Codes are uint8 buffers. *On disk* each continuous tensor has the form's
own `stored_dtype`: `stored_tensors()` casts it, and sizes are counted from its result. `fit` rounds all values to
`stored_dtype`, so a reload changes no bit.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from vocabpress.budget import dtype_name
from vocabpress.embeddings.fields import Field

Build = Callable[[dict[str, Any]], "CompressedEmbedding"]

ROWS_PER_CHUNK = 16384  # rows that a default `logits` decodes at a time


@dataclass(frozen=True)
class StorageItem:
    """One saved tensor: its name in the module, shape, dtype and size in bits."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    bits: int


class CompressedEmbedding(nn.Module, ABC):
    """A compressed (num_embeddings, embedding_dim) table.

    Laws, tested for every form in `tests/test_laws.py`: ``lookup(ids) == dense()[ids]``;
    ``logits(h) == h @ dense().T``; ``build(config())`` loads ``stored_tensors()`` and looks up the same bits;
    ``total_bits()`` is 8 times the bytes of the saved tensors.
    """

    num_embeddings: int
    embedding_dim: int
    stored_dtype: torch.dtype
    fields: ClassVar[Mapping[str, Field]]
    """The fields of a stored config, without ``form``."""
    read_whole: ClassVar[tuple[str, ...]] = ()
    """The forms inside it that a lookup or logits decode as a whole."""

    @abstractmethod
    def lookup(self, ids: Tensor) -> Tensor:
        """Rows of the table.

        Args:
            ids: Integers from 0 to ``num_embeddings - 1``, any shape (*n).

        Returns:
            Shape (*n, embedding_dim), in the dtype of the parameters.
        """

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """JSON from which :func:`vocabpress.embeddings.build` makes an empty form of this kind."""

    @classmethod
    @abstractmethod
    def from_config(cls, config: dict[str, Any], build: Build) -> Self:
        """The empty form described by ``config``; ``build`` makes the forms inside it."""

    def forward(self, ids: Tensor) -> Tensor:
        """Same as :meth:`lookup`."""
        return self.lookup(ids)

    def logits(self, hidden: Tensor) -> Tensor:
        """Inner products with every row, ``hidden @ dense().T``. Forms may override it with a faster way.

        Args:
            hidden: Shape (*n, embedding_dim).

        Returns:
            Shape (*n, num_embeddings).
        """
        ids = torch.arange(self.num_embeddings, device=hidden.device)
        return torch.cat([hidden @ self.lookup(i).to(hidden.dtype).T for i in ids.split(ROWS_PER_CHUNK)], dim=-1)

    def dense(self) -> Tensor:
        """The whole table, shape (num_embeddings, embedding_dim), as large as the original."""
        return self.lookup(torch.arange(self.num_embeddings, device=self.device))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of rows."""
        return self.lookup(torch.zeros(1, dtype=torch.int64, device=self.device)).dtype

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return next(chain(self.parameters(), self.buffers())).device

    def stored_tensors(self) -> dict[str, Tensor]:
        """The tensors of a checkpoint: ``state_dict()``, each continuous tensor in its form's ``stored_dtype``."""
        stored = {}
        for prefix, module in self.named_modules():
            if isinstance(module, CompressedEmbedding):
                own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
                for name, tensor in own:
                    dtype = module.stored_dtype if tensor.is_floating_point() else tensor.dtype
                    stored[f"{prefix}.{name}".lstrip(".")] = tensor.detach().to(dtype)
        return stored

    def round_to_stored(self) -> Self:
        """Round the continuous tensors, in place, to their stored dtype."""
        stored = self.stored_tensors()
        for name, parameter in self.named_parameters():
            parameter.data.copy_(stored[name])
        return self

    def check_numbers(self) -> None:
        """Check that loaded tensors can be read: floats are finite, and indices are in range.

        Codes of n bits select one of 2**n words, and a form always has that many, so only maps need a check.

        Raises:
            ValueError: If a tensor fails the check.
        """
        for name, module in self.named_modules():
            if isinstance(module, CompressedEmbedding):
                module.check_own_numbers(name)

    def check_own_numbers(self, name: str) -> None:
        """The part of :meth:`check_numbers` for this form, without the forms inside it.

        Args:
            name: Name of the form in the table, for messages.

        Raises:
            ValueError: If a value is not finite.
        """
        for part, parameter in self.named_parameters(recurse=False):
            if not parameter.is_meta and not bool(parameter.isfinite().all()):
                raise ValueError(
                    f"{f'{name}.{part}'.lstrip('.')} holds numbers that are not finite; the file is broken, or the "
                    "dtype that it is loaded in is too small for them"
                )

    def storage(self) -> list[StorageItem]:
        """One item for each saved tensor."""
        return [
            StorageItem(name, tuple(tensor.shape), dtype_name(tensor.dtype), tensor.numel() * tensor.itemsize * 8)
            for name, tensor in self.stored_tensors().items()
        ]

    def total_bits(self) -> int:
        """Bits of all saved tensors."""
        return sum(item.bits for item in self.storage())

    @property
    def bits_per_weight(self) -> float:
        """:meth:`total_bits` divided by the number of entries of the table."""
        return self.total_bits() / (self.num_embeddings * self.embedding_dim)

    def extra_repr(self) -> str:
        """Shape, for ``print(module)``."""
        return f"{self.num_embeddings}, {self.embedding_dim}"
