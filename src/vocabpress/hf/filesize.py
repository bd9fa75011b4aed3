"""Bytes of the weight file that a model will be saved in, before it is."""

import json
import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from vocabpress.embeddings import CompressedEmbedding
from vocabpress.hf.states import SIGN, anchor
from vocabpress.hf.stored import DIGESTS, SAFETENSORS_DTYPES

Entry = tuple[str, tuple[int, ...], int]
"""Dtype in the file, shape, and bytes of a tensor."""

HEX = "0" * 64  # as long as a digest
ALIGNED = 8


def entry(tensor: Tensor, dtype: torch.dtype | None = None) -> Entry:
    """The entry of a tensor that is saved, in another dtype or its own."""
    kind = tensor.dtype if dtype is None or not tensor.is_floating_point() else dtype
    name = str(kind).removeprefix("torch.")
    return SAFETENSORS_DTYPES[name], tuple(tensor.shape), tensor.numel() * kind.itemsize


def entries_of(place: str, form: CompressedEmbedding) -> dict[str, Entry]:
    """The entries of a form that stands for the module ``place``."""
    key = anchor(form)
    found = {
        f"{place}.weight" if item.name == key else f"{place}.table.{item.name}": (
            SAFETENSORS_DTYPES[item.dtype],
            item.shape,
            item.bits // 8,
        )
        for item in form.storage()
    }
    return found if key is None else {**found, f"{place}.{SIGN}": ("U8", (0,), 0)}


def file_bytes(entries: Mapping[str, Entry]) -> int:
    """At most the bytes of a file of these tensors: the header, with digests of all, and the data.

    Offsets are counted with as many digits as the largest has.
    """
    total = sum(size for _, _, size in entries.values())
    header = {
        name: {"dtype": dtype, "shape": list(shape), "data_offsets": [total, total]}
        for name, (dtype, shape, _) in entries.items()
    }
    data = {"config": HEX, "tensors": [dict.fromkeys(entries, HEX)]}
    metadata = {DIGESTS: _short(data), "format": "pt", "vocabpress_format_version": "10"}
    length = len(_short({"__metadata__": metadata, **header}).encode())
    return 8 + math.ceil(length / ALIGNED) * ALIGNED + total


def left_after(limit: int, entries: Mapping[str, Entry], coded: Iterable[str]) -> int:
    """Bytes that ``limit`` leaves for the data of some tensors, ``coded``, beside all else in the file."""
    return limit - (file_bytes(entries) - sum(entries[name][2] for name in coded))


def _short(data: object) -> str:
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False)
