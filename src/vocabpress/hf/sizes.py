"""Bytes of all files in a model's folder, and of a weight file before it is written."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from vocabpress.embeddings import CompressedEmbedding
from vocabpress.hf.companions import INDEX, companions
from vocabpress.hf.folders import weight_files
from vocabpress.hf.states import SIGN, anchor
from vocabpress.hf.stored import DIGESTS, SAFETENSORS_DTYPES

REPORT = "vocabpress.json"  # in the folder of a compressed checkpoint
NOT_COUNTED = {REPORT, "README.md"}  # written after the count, from it; no program needs them to load a model
HEX = "0" * 64  # as long as a digest
ALIGNED = 8


@dataclass(frozen=True)
class Folder:
    """Bytes of the files in a folder, without its report and its model card."""

    bytes_before: int  # of the original: the weights that are loaded, config.json, and all that is copied
    bytes_after: int  # sum of `files`
    files: dict[str, int]  # path in the folder -> bytes, the largest first

    @classmethod
    def of(cls, folder: Path, bytes_before: int) -> Self:
        """Count a complete folder."""
        names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        sizes = {name: (folder / name).stat().st_size for name in names if name not in NOT_COUNTED}
        largest_first = dict(sorted(sizes.items(), key=lambda item: (-item[1], item[0])))
        return cls(bytes_before, sum(sizes.values()), largest_first)

    def largest(self, count: int) -> list[tuple[str, int]]:
        """The name and bytes of the largest files, and of all others together."""
        files = list(self.files.items())
        if len(files) <= count + 1:
            return files
        others = files[count:]
        return [*files[:count], (f"{len(others)} others", sum(size for _, size in others))]


def used_bytes(folder: Path) -> int:
    """Bytes of the files in a model's folder that are loaded or copied: weights, their index, config, companions."""
    weights = weight_files(folder)
    indexes = folder.glob(f"*{weights[0].suffix}{INDEX}") if len(weights) > 1 else ()
    beside = (folder / file for file in companions(folder)[0])
    return sum(file.stat().st_size for file in {folder / "config.json", *weights, *indexes, *beside})


def form_tensors(place: str, form: CompressedEmbedding) -> dict[str, Tensor]:
    """The tensors of a form that stands for the module ``place``, on the meta device, under their names in files."""
    key, found = anchor(form), dict[str, Tensor]()
    for item in form.storage():
        name = f"{place}.weight" if item.name == key else f"{place}.table.{item.name}"
        found[name] = torch.empty(item.shape, dtype=getattr(torch, item.dtype), device="meta")
    if key is not None:
        found[f"{place}.{SIGN}"] = torch.empty(0, dtype=torch.uint8, device="meta")
    return found


def header_bytes(model: PreTrainedModel, state: Mapping[str, Tensor], largest: int) -> int:
    """At most the bytes of the header of a file, with digests of all tensors and offsets of at most ``largest``.

    The model's ties and names in files decide which tensors of ``state`` are written; only shapes and dtypes are read.
    """
    state = {name: tensor.to("meta") for name, tensor in state.items() if name not in _ignored(model)}
    written = _written(model, state)
    named, digested = revert_weight_conversion(model, dict(written)), [state]
    if named.keys() != written.keys():
        digested.append(revert_weight_conversion(model, dict(state)))
    tensors = {
        name: {
            "dtype": SAFETENSORS_DTYPES[str(tensor.dtype).removeprefix("torch.")],
            "shape": list(tensor.shape),
            "data_offsets": [largest, largest],
        }
        for name, tensor in named.items()
    }
    data = {"config": HEX, "tensors": [dict.fromkeys(version, HEX) for version in digested]}
    metadata = {DIGESTS: _short(data), "format": "pt", "vocabpress_format_version": "10"}
    length = len(_short({"__metadata__": metadata, **tensors}).encode())
    return 8 + math.ceil(length / ALIGNED) * ALIGNED


def data_bytes(model: PreTrainedModel, state: Mapping[str, Tensor]) -> int:
    """Bytes of all these tensors of a model in its file."""
    return sum(tensor.numel() * tensor.itemsize for tensor in _written(model, state).values())


def _written(model: PreTrainedModel, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without what is ignored, and what is tied to a tensor that is written."""
    tied = {target for target, source in model.all_tied_weights_keys.items() if source in state}
    gone = {*_ignored(model), *tied}
    return {name: tensor for name, tensor in state.items() if name not in gone}


def _ignored(model: PreTrainedModel) -> set[str]:
    return set(model._keys_to_ignore_on_save or ())


def _short(data: object) -> str:
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False)
