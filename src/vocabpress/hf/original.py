"""An original in memory: its token table, the modules tied to it, and its output head."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vocabpress.budget import dtype_name
from vocabpress.chunks import chunks
from vocabpress.embeddings import CompressedEmbedding
from vocabpress.embeddings.inference import lookup
from vocabpress.hf.inner import is_quantised, stored_bytes
from vocabpress.hf.tables import input_table_name, module_name, tied_modules
from vocabpress.methods import TCQ, Method


@dataclass(frozen=True)
class TableInfo:
    """A vocabulary table of a model.

    Attributes:
        name: The module that holds it, e.g. ``bert.embeddings.word_embeddings``.
        role: ``"input"`` or ``"output"``.
        tied: The other modules that share its weight.
        shape: (V, d).
        dtype: Dtype in memory; with ``dtype="auto"`` at load it is the dtype in the file.
        bytes: Bytes of the table alone.
        share: Fraction of the bytes of all parameters; tied parameters count once.
    """

    name: str
    role: str
    tied: tuple[str, ...]
    shape: tuple[int, int]
    dtype: str
    bytes: int
    share: float


@dataclass(frozen=True)
class Original:
    """A model whose token table is not compressed yet."""

    model: PreTrainedModel  # may be on the meta device
    name: str  # of the module that holds the input table
    weight: nn.Parameter  # the input table, (V, d)
    tied: tuple[str, ...]  # the other modules that share this weight

    @classmethod
    def of(cls, model: PreTrainedModel) -> Self:
        """Find the input table of a model; a ValueError if it has none, or it is compressed or quantised already."""
        name = input_table_name(model)
        weight = model.get_submodule(name).weight
        if not isinstance(weight, nn.Parameter):
            raise ValueError(f"the table {name} is compressed already; start from the original checkpoint")
        if is_quantised(weight):
            raise ValueError(
                f"the table {name} is quantised itself; quantise only linear maps, or start from the original"
            )
        return cls(model, name, weight, tuple(tied_modules(model, name)))

    @property
    def shape(self) -> tuple[int, int]:
        return self.weight.shape[0], self.weight.shape[1]

    @property
    def head(self) -> tuple[str, nn.Linear] | None:
        """Name and module of the output head, if it is a linear map."""
        head = self.model.get_output_embeddings()
        return (module_name(self.model, head), head) if isinstance(head, nn.Linear) else None

    @property
    def ties_head(self) -> bool:
        """Whether an output head shares the table."""
        return self.head is not None and self.head[0] in self.tied

    def method_for(self, method: Method | None) -> Method:
        """A method as it suits the table; `TCQ` if None."""
        return (method or TCQ()).for_head(self.ties_head)

    def tables(self) -> list[TableInfo]:
        """The input table, and the output head if it has a weight of its own."""
        total = sum(map(stored_bytes, self.model.parameters()))

        def describe(name: str, weight: Tensor, role: str, tied: tuple[str, ...]) -> TableInfo:
            size = weight.numel() * weight.itemsize
            rows, width = weight.shape
            return TableInfo(name, role, tied, (rows, width), dtype_name(weight.dtype), size, size / total)

        found = [describe(self.name, self.weight, "input", self.tied)]
        if self.head is not None and self.head[0] not in self.tied:
            name, head = self.head
            found.append(describe(name, head.weight, "output", tuple(tied_modules(self.model, name))))
        return found

    def equal_head(self) -> str | None:
        """The name of an untied output head whose weight equals the table; None if there is none."""
        if self.head is None or self.head[0] in self.tied or is_quantised(self.head[1].weight):
            return None
        (name, head), table = self.head, self.weight
        if head.weight.shape != table.shape or head.weight.dtype != table.dtype:
            return None
        return name if all(torch.equal(head.weight[part], table[part]) for part in chunks(*self.shape)) else None

    def with_tied_head(self) -> Self:
        """Tie an output head whose weight equals the table; a ValueError if it differs, or the class can't tie it."""
        model, name = self.model, self.equal_head()
        if name is None:
            raise ValueError(
                f"the output head of {type(model).__name__} is tied already, or its weight differs from the table; "
                "leave out tie"
            )
        _set_tied(model, True)
        model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)
        model.tie_weights(recompute_mapping=False)
        found = self.of(model)
        if name not in found.tied:
            raise ValueError(f"{type(model).__name__} has no tie between {name} and its table; leave out tie")
        return found

    @contextmanager
    def reading(self, table: CompressedEmbedding) -> Iterator[None]:
        """Let the model, and all that is tied to its table, read the rows of a compressed one for a while.

        The rows are decoded into memory, (V, d) in the original's dtype.
        """
        kept, rows = self.weight.data, torch.empty_like(self.weight.data)
        for part in chunks(*self.shape):
            rows[part] = lookup(table, torch.arange(part.start, part.stop, device=table.device))
        self.weight.data = rows
        try:
            yield
        finally:
            self.weight.data = kept

    def settle_ties(self) -> list[str]:
        """Correct the config of a model whose head differs from the table that the config ties it to.

        Transformers compares the two weights, and loads such a checkpoint untied, with a warning. It can't compare a
        compressed table, so it would tie the head. Returns the modules that have a weight of their own although the
        config ties them. The checkpoint must list them, because some models, such as T5, tie in spite of their config.
        """
        tied_by_config = self.model.get_expanded_tied_weights_keys(all_submodels=True)
        tied = self.model.all_tied_weights_keys
        separate = [key for key in tied_by_config if key.endswith(".weight") and key not in tied]
        if separate:
            _set_tied(self.model, False)
        return [key.removesuffix(".weight") for key in separate]


def find_tables(model: PreTrainedModel) -> list[TableInfo]:
    """The input table of a model, and its output head if that has a weight of its own.

    Raises:
        ValueError: If the model has no token embedding, or it is compressed already.
    """
    return Original.of(model).tables()


def _set_tied(model: PreTrainedModel, tied: bool) -> None:
    for config in (model.config, model.config.get_text_config(decoder=True)):
        config.tie_word_embeddings = tied
