"""The names and dtypes of a table's tensors in files and in the state dicts of models.

In a model they are ``<embedding>.table.<tensor>``. In files one of them, the anchor, has the original key
``<embedding>.weight``. A state dict with either name loads into a model.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vocabpress.embeddings import CompressedEmbedding
from vocabpress.embeddings.caching import Reader
from vocabpress.hf.dense_weight import WeightReading

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


def all_shortened(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a model, those of float32 in float16; tensors that share their memory still do."""
    made, short = dict[Any, Tensor](), dict(state)
    for name, tensor in state.items():
        if tensor.dtype == torch.float32 and not tensor.is_meta:
            place = tensor.data_ptr(), tensor.shape, tensor.stride()
            if place not in made:
                made[place] = shortened(name, tensor)
            short[name] = made[place]
    return short


def shortened(name: str, tensor: Tensor) -> Tensor:
    """A tensor in float16; a ValueError if a number is too large for it."""
    short = tensor.to(torch.float16)
    if bool((short.isinf() & tensor.isfinite()).any()):
        reach = float(tensor.abs().max())
        raise ValueError(f"{name} reaches {reach:.3g}, too large for float16; leave the body as it is")
    return short


class ReadsTable(nn.Module):
    """Stands for a module with a weight: reads a table, its own or that of another module.

    An own table loads under either name.
    """

    table: CompressedEmbedding  # a registered submodule if this module owns it
    sizes: tuple[str, str]  # what the original calls the sides of its weight

    def __init__(self) -> None:
        super().__init__()
        self.reader = Reader()

    def read(self, table: CompressedEmbedding, owner: bool | None = None) -> None:
        """Go on with another table of the same width, which belongs to this module if ``owner``; None is as before."""
        if self.owns_table if owner is None else owner:
            self.table = table
        else:  # no key in the state dict, no second copy on `.to()`
            object.__setattr__(self, "table", table)
        for name, size in zip(self.sizes, (table.num_embeddings, table.embedding_dim), strict=True):
            setattr(self, name, size)

    @property
    def weight(self) -> Tensor:
        """The dense table, unscaled as in the original; a `WeightReading`, rebuilt at every access."""
        return WeightReading.of(self.table)

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
