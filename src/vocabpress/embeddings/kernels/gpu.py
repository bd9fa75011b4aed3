"""Rows on a GPU by kernels that Triton compiles, where that is installed, as it is with torch for CUDA.

One launch finds and decodes the rows of all tokens, another multiplies them by a basis; nothing waits for the device,
so a CUDA graph can capture it. Where the numbers of a table are, and counts of its maps, are found at the first
reading, and anew when its tensors are others; numbers are read where they lie, and bases and words decoded at every
reading, so that it does not matter how they were written. Float rows, integers and trellis codes are those of plain
torch to the bit; codebooks of several stages, and products, are sums in another order.
"""

import importlib
import importlib.util
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vocabpress.embeddings import Columns, CompressedEmbedding, Projected, Rows, Sum
from vocabpress.embeddings.combine import forms
from vocabpress.embeddings.kernels.pieces import Memory, UncutError, cut
from vocabpress.embeddings.kernels.watch import Watch, cached
from vocabpress.embeddings.projected import ACTIVATIONS
from vocabpress.embeddings.rows import picked

Read = Callable[[Tensor], Tensor]

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # kernels run in Python then, on any tensors
HAVE_TRITON = importlib.util.find_spec("triton") is not None and (
    INTERPRETED or torch.version.cuda is not None or torch.version.hip is not None
)
# Half a second, which nobody should wait for who has no use for them.
kernels: Any = importlib.import_module("vocabpress.embeddings.kernels.triton") if HAVE_TRITON else None

MOST_COLUMNS = 512  # that a program reads at a time; for more it would take registers from others
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def serves(table: CompressedEmbedding, ids: Tensor) -> bool:
    """Whether the kernels can be used here: Triton is there, and all is on one GPU."""
    return HAVE_TRITON and ids.is_cuda and table.device == ids.device


def lookup(table: CompressedEmbedding, ids: Tensor) -> Tensor:
    """Rows of the table, shape (n, embedding_dim), in the dtype of its parameters.

    An id that the table does not have gives a row of NaN: to raise, one would have to wait for the device.

    Args:
        table: Any; what no kernel reads, its own `lookup` does.
        ids: Integers, shape (n).
    """
    read = cached(table, "gpu", reader, lambda table: Watch(table, codes=_maps(table)))
    return table.lookup(ids) if read is None else read(ids.contiguous())


def _maps(table: CompressedEmbedding) -> list[Tensor]:
    return [part.block_of for part in table.modules() if isinstance(part, Rows) and part.block_of is not None]


def reader(table: CompressedEmbedding) -> Read | None:
    """How a table is read, or None where no kernel does, or its tensors are not all here."""
    tensors = (*table.parameters(), *table.buffers())
    if any(tensor.device != table.device or type(tensor) not in (Tensor, nn.Parameter) for tensor in tensors):
        return None
    with torch.autocast(table.device.type, enabled=False):  # which would round what is kept
        return _reader(table)


def _reader(form: CompressedEmbedding) -> Read | None:
    """How a form is read, or None where it reads itself; holds no reference to the form, which it is kept for."""
    flat = _flat(form)
    if flat is not None:
        return flat
    if isinstance(form, Projected):
        return _projected(form)
    if isinstance(form, Rows):
        return _blocks(form)
    if isinstance(form, Sum):
        parts = [_inner(part) for part in forms(form.parts)]
        return lambda ids: torch.stack([read(ids) for read in parts]).sum(0)
    if isinstance(form, Columns):
        parts, rest = [_inner(part) for part in forms(form.parts)], form.embedding_dim - sum(form.widths)
        return lambda ids: nn.functional.pad(torch.cat([read(ids) for read in parts], -1), (0, rest))
    return None


def _inner(form: CompressedEmbedding) -> Read:
    return _reader(form) or form.lookup


def _flat(form: CompressedEmbedding) -> Read | None:
    """Rows that are found and decoded by one launch, or None where the form is not one of leaves."""
    memory = Memory()
    try:
        pieces, counts = cut(form, memory)
    except UncutError:
        return None
    if len(memory.dtypes) != 1 or not memory.dtypes.issubset(DTYPES):  # torch would promote
        return None
    (dtype,), (places, options) = memory.dtypes, _places(form)
    rows, width, widest = form.num_embeddings, form.embedding_dim, max(piece.columns for piece in pieces)
    records = torch.tensor(pieces, dtype=torch.int64, device=form.device)
    bounds = torch.tensor(counts, dtype=torch.int32, device=form.device)
    tile = min(MOST_COLUMNS, 1 << (widest - 1).bit_length())

    def read(ids: Tensor) -> Tensor:
        out = torch.empty(len(ids), width, dtype=dtype, device=ids.device)
        memory.refresh()
        if len(ids):
            given = (ids, out, rows, width, *places, bounds, records)
            with torch.cuda.device_of(ids):  # rounded as by torch
                kernels.read_pieces[(len(ids),)](*given, **options, TILE=tile, enable_fp_fusion=False)
        return out

    return read


def _places(form: CompressedEmbedding) -> tuple[tuple[Tensor | int, ...], dict[str, int]]:
    """What kernels find the block of a token by: their arguments, and their constants."""
    blocks = forms(form.blocks) if isinstance(form, Rows) else [form]
    sizes = torch.tensor([block.num_embeddings for block in blocks])
    starts = (sizes.cumsum(0) - sizes).to(form.device)
    constants = {"MAP_BITS": 0, "BLOCKS": 1 << (len(blocks) - 1).bit_length()}
    if not isinstance(form, Rows) or form.block_of is None:
        return (starts, 0, starts, starts, len(blocks)), constants
    counted = form.counted(form.block_of)
    places = (form.block_of, len(form.block_of), counted, starts, len(blocks))
    return places, {**constants, "MAP_BITS": form.map_bits}


def _blocks(form: Rows) -> Read:
    """Every block reads every token: how many lie in each, only the device knows."""
    (places, options), rows = _places(form), form.num_embeddings
    readers = [_inner(block) for block in forms(form.blocks)]

    def read(ids: Tensor) -> Tensor:
        block = torch.empty(len(ids), dtype=torch.int32, device=ids.device)
        row = torch.empty(len(ids), dtype=torch.int64, device=ids.device)
        if len(ids):
            with torch.cuda.device_of(ids):
                kernels.find_rows[(len(ids),)](ids, block, row, rows, *places, **options)
        return torch.where((row < 0)[:, None], torch.nan, picked(readers, block, row.clamp(min=0)))

    return read


def _projected(form: Projected) -> Read | None:
    inner, decoder, bias = _inner(form.inner), form.basis, form.bias
    if bias is not None and bias.dtype != decoder.dense().dtype:  # torch would promote
        return None
    activation = None if form.activation is None else ACTIVATIONS[form.activation]

    def read(ids: Tensor) -> Tensor:
        basis = decoder.dense()
        rows = inner(ids).to(basis.dtype)
        rows = rows @ basis if bias is None else torch.addmm(bias, rows, basis)
        return rows if activation is None else activation(rows)

    return read
