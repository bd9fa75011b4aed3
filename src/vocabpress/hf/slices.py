"""Read some rows of a checkpoint's table from its files without loading the model, for jobs that share one table."""

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from vocabpress.hf.checkpoint import empty_model
from vocabpress.hf.folders import find_folder, weight_files
from vocabpress.hf.original import Original
from vocabpress.hf.stored import read_headers


class StoredTable(NamedTuple):
    """The place of a token table in the files of a checkpoint."""

    file: str  # in safetensors
    key: str  # of the tensor in it
    shape: tuple[int, int]  # (V, d)
    dtype: torch.dtype  # in the file
    ties_head: bool  # whether an output head shares it

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop``, (stop - start, d), mapped from the file; a ValueError if they are not there."""
        if not 0 <= start <= stop <= self.shape[0]:
            raise ValueError(f"the table has rows 0 to {self.shape[0]}, got {start} to {stop}")
        with safe_open(self.file, "pt") as opened:
            return opened.get_slice(self.key)[start:stop]


def find_stored_table(model: str | Path) -> StoredTable:
    """Find the input table of a checkpoint in its files, by the model's names and the tensors' shapes.

    Raises:
        ValueError: If the model has no table, it is compressed already, or several or no tensors match.
    """
    folder = find_folder(model)
    skeleton = Original.of(empty_model(folder))
    weight, prefix = skeleton.weight, f"{skeleton.model.base_model_prefix}."
    entries, _ = read_headers([str(file) for file in weight_files(folder)])
    candidates = [key for key, entry in entries.items() if entry.shape == tuple(weight.shape)]
    for place in (skeleton.name, *skeleton.tied):
        # Checkpoints with a head and without differ by a prefix.
        name = f"{place}.weight".removeprefix(prefix)
        found = [key for key in candidates if key.removeprefix(prefix) == name]
        if len(found) == 1:
            file, (rows, width) = entries[found[0]].file, weight.shape
            stored = StoredTable(file, found[0], (rows, width), weight.dtype, skeleton.ties_head)
            return stored._replace(dtype=stored.rows(0, 0).dtype)
    raise ValueError(
        f"the files of {model} have no tensor of {list(weight.shape)} that is clearly its {skeleton.name}.weight; load "
        "the model instead"
    )
