"""Rows of a checkpoint's table, read from its files; no model is loaded. For jobs that each hold a part of a table."""

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel

from vocabpress.hf.checkpoint import empty_model
from vocabpress.hf.folders import find_folder, weight_files
from vocabpress.hf.original import Original
from vocabpress.hf.stored import read_headers
from vocabpress.methods import method_name


class StoredTable(NamedTuple):
    """Where the numbers of a token table are.

    Attributes:
        file: A safetensors file.
        key: Name of the tensor there.
        shape: (V, d).
        dtype: As stored.
    """

    file: str
    key: str
    shape: tuple[int, int]
    dtype: torch.dtype

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop``, (stop - start, d): mapped from the file, and read when they are used.

        Raises:
            ValueError: If there are no such rows.
        """
        if not 0 <= start <= stop <= self.shape[0]:
            raise ValueError(f"the table has rows 0 to {self.shape[0]}, asked for {start} to {stop}")
        with safe_open(self.file, "pt") as opened:
            return opened.get_slice(self.key)[start:stop]


def default_method_name(model: str | Path) -> str:
    """The method that a checkpoint's table gets where none is named; no weights are read.

    Raises:
        ValueError: If the model has no table, or it is compressed already.
    """
    return method_name(Original.of(empty_model(find_folder(model))).default_method)


def find_stored_table(model: str | Path) -> StoredTable:
    """Find the input table of a checkpoint in its files, by the model's names and the tensors' shapes.

    Args:
        model: A hub id, or a folder with config.json and safetensors.

    Raises:
        ValueError: If the model has no table, it is compressed already, or it is not plain which tensor it is.
    """
    folder = find_folder(model)
    skeleton = Original.of(empty_model(folder))
    weight = skeleton.weight
    entries, _ = read_headers([str(file) for file in weight_files(folder)])
    fitting = [key for key, entry in entries.items() if entry.shape == tuple(weight.shape)]
    for place in (skeleton.name, *skeleton.tied):
        found = [key for key in fitting if _same_module(key, f"{place}.weight", skeleton.model)]
        if len(found) == 1:
            file, (rows, width) = entries[found[0]].file, weight.shape
            empty = StoredTable(file, found[0], (rows, width), weight.dtype).rows(0, 0)
            return StoredTable(file, found[0], (rows, width), empty.dtype)
    raise ValueError(
        f"the files of {model} hold no tensor of {list(weight.shape)} that is plainly its {skeleton.name}.weight; load "
        "the model"
    )


def _same_module(key: str, wanted: str, model: PreTrainedModel) -> bool:
    """Whether a key of the files is that of a parameter: checkpoints with a head and without differ by a prefix."""
    prefix = f"{model.base_model_prefix}."
    return key.removeprefix(prefix) == wanted.removeprefix(prefix)
