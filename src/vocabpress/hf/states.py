"""The names of a table's tensors in files and in the state dicts of models.

In a model they stand as they do in the table, ``<embedding>.table.<tensor>``. In files one of them, the anchor, takes
the original key ``<embedding>.weight``. A state dict by either names loads into a model.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vocabpress.embeddings import CompressedEmbedding

SIGN = "import vocabpress"
"""A tensor of no bytes beside a table in files: a transformers that knows nothing of us lists it among what it did not
expect, and so says what to do."""


def anchor(table: CompressedEmbedding) -> str | None:
    """The stored tensor that takes the original key: the largest whose shape is not the table's.

    None for a lone `Dense` form, which no method stores.
    """
    shape = (table.num_embeddings, table.embedding_dim)
    misfits = [item for item in table.storage() if item.shape != shape]
    return max(misfits, key=lambda item: item.bits).name if misfits else None


def with_stored(state: Mapping[str, Tensor], tables: Mapping[str, CompressedEmbedding]) -> dict[str, Tensor]:
    """A model's state dict as files have it: the tables' tensors as they are stored, by the names that files have.

    Args:
        state: Of the model.
        tables: By the names of the modules that own them.
    """
    stored = dict(state)
    for name, table in tables.items():
        key = anchor(table)
        for part, tensor in table.stored_tensors().items():
            del stored[f"{name}.table.{part}"]
            stored[f"{name}.weight" if part == key else f"{name}.table.{part}"] = tensor
        if key is not None:
            stored[f"{name}.{SIGN}"] = torch.empty(0, dtype=torch.uint8)
    return stored


class ReadsTable(nn.Module):
    """What reads a table, its own or that of another module; loads its own by either names.

    Attributes:
        table: The table; registered where it is the module's own.
    """

    table: CompressedEmbedding

    @property
    def owns_table(self) -> bool:
        """Whether the table's tensors are saved, moved and trained as this module's."""
        return "table" in self._modules

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight":
            raise KeyError(
                "attribute 'weight' already exists: it is a reading of the compressed table, which none replaces; "
                "exchange the module (set_input_embeddings, set_output_embeddings), or set it after model.dequantize()"
            )
        super().__setattr__(name, value)

    def _load_from_state_dict(  # pyright: ignore[reportIncompatibleMethodOverride]: torch passes all by place
        self, state_dict: dict[str, Any], prefix: str, *arguments: Any
    ) -> None:
        if self.owns_table:
            key, given = anchor(self.table), state_dict.get(f"{prefix}weight")
            if given is not None and tuple(given.shape) == (self.table.num_embeddings, self.table.embedding_dim):
                errors: list[str] = arguments[-1]
                errors.append(
                    f"{prefix}weight is a dense table, and this model's is compressed; load it into "
                    "model.dequantize(), or compress the checkpoint that it is of"
                )
                del state_dict[f"{prefix}weight"]
            elif given is not None and key is not None:
                state_dict[f"{prefix}table.{key}"] = state_dict.pop(f"{prefix}weight")
            state_dict.pop(f"{prefix}{SIGN}", None)
        super()._load_from_state_dict(state_dict, prefix, *arguments)
