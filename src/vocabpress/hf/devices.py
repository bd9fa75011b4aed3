"""Where a table lies: under a `device_map` it may be on another device than what reads it, or put off to disk."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vocabpress.embeddings import CompressedEmbedding
from vocabpress.embeddings.reading import lookup, trains


def read_where_it_lies(place: torch.device, read: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    """What ``read`` makes of values, on their own device; a table that lies in another place stays there."""
    return read(values) if values.device == place else read(values.to(place)).to(values.device)


def dense(table: CompressedEmbedding) -> Tensor:
    """The dense table, (V, d); without numbers, on the meta device, while a load has not brought all of the table's."""
    if not any(tensor.is_meta for tensor in (*table.parameters(), *table.buffers())):
        return (
            table.dense() if trains(table) else lookup(table, torch.arange(table.num_embeddings, device=table.device))
        )
    dtype = next((parameter.dtype for parameter in table.parameters()), torch.get_default_dtype())
    return torch.empty(table.num_embeddings, table.embedding_dim, dtype=dtype, device="meta")


def keep_in_memory(table: CompressedEmbedding) -> None:
    """Bring the tensors of a table that accelerate put off, to the CPU's memory or to disk, to where they are read.

    Accelerate brings a module's tensors when its `forward` is called, and forms are read by `lookup` and `logits`. A
    compressed table is small, so it stays.
    """
    for form in table.modules():
        hook: Any = getattr(form, "_hf_hook", None)
        for part in getattr(hook, "hooks", [hook]):
            if getattr(part, "offload", False):
                part.pre_forward(form)
                part.offload = False
