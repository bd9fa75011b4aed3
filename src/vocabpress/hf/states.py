"""The names of a table's tensors in files and in the state dicts of models.

In a model they are ``<embedding>.table.<tensor>``. In files one of them, the anchor, has the original key
``<embedding>.weight``. A state dict with either name loads into a model.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vocabpress.embeddings import CompressedEmbedding

SIGN = "import vocabpress"
"""Name of an empty tensor beside each table in files. Without vocabpress, transformers lists it as an unexpected key,
and so tells the user what to do."""


def anchor(table: CompressedEmbedding) -> str | None:
    """The stored tensor that gets the original key: the largest whose shape is not that of the table.

    None for a `Dense` form alone, which no method stores.
    """
    shape = (table.num_embeddings, table.embedding_dim)
    misfits = [item for item in table.storage() if item.shape != shape]
    return max(misfits, key=lambda item: item.bits).name if misfits else None


def with_stored(state: Mapping[str, Tensor], tables: Mapping[str, CompressedEmbedding]) -> dict[str, Tensor]:
    """Convert a model's state dict to that of files: tables' tensors in their stored dtypes, under their file names.

    ``tables`` are by the name of the owning module.
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
    """Base of modules that read a table, their own or that of another module. Own tables load under either name.

    Attributes:
        table: The table; a registered submodule if this module owns it.
    """

    table: CompressedEmbedding

    @property
    def owns_table(self) -> bool:
        """Whether the table's tensors are saved, moved and trained with this module."""
        return "table" in self._modules

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight":
            raise KeyError(
                "attribute 'weight' already exists: it is a reading of the compressed table and can't be replaced; "
                "replace the module (set_input_embeddings, set_output_embeddings), or set it after model.dequantize()"
            )
        super().__setattr__(name, value)

    def _load_from_state_dict(  # pyright: ignore[reportIncompatibleMethodOverride]: torch passes all by position
        self, state_dict: dict[str, Any], prefix: str, *arguments: Any
    ) -> None:
        if self.owns_table:
            key, weight = anchor(self.table), state_dict.get(f"{prefix}weight")
            if weight is not None and tuple(weight.shape) == (self.table.num_embeddings, self.table.embedding_dim):
                errors: list[str] = arguments[-1]
                errors.append(
                    f"{prefix}weight is a dense table, and this model's is compressed; load it into "
                    "model.dequantize(), or compress its checkpoint"
                )
                del state_dict[f"{prefix}weight"]
            elif weight is not None and key is not None:
                state_dict[f"{prefix}table.{key}"] = state_dict.pop(f"{prefix}weight")
            state_dict.pop(f"{prefix}{SIGN}", None)
        super()._load_from_state_dict(state_dict, prefix, *arguments)
