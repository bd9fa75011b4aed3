"""Rows on a GPU by kernels that Triton compiles, where that is installed, as it is with torch for CUDA.

One launch finds and decodes the rows of all tokens, another multiplies them by a basis; nothing waits for the device,
so a CUDA graph can capture it. What a kernel has to know of a table, and the basis and words as numbers, are derived:
they are made at the first reading, and anew when the table's numbers, dtype or place change. Float rows, integers and
trellis codes are those of plain torch to the bit; codebooks of several stages, and products, are sums in another order.
"""

import importlib
import importlib.util
import os
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from vocabpress.embeddings.base import CompressedEmbedding
from vocabpress.embeddings.combine import Columns, Sum, forms
from vocabpress.embeddings.kernels_pieces import Cut, cut
from vocabpress.embeddings.projected import ACTIVATIONS, Projected
from vocabpress.embeddings.rows import Rows

Read = Callable[[Tensor], Tensor]

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # kernels run in Python then, on any tensors
HAVE_TRITON = importlib.util.find_spec("triton") is not None and (
    INTERPRETED or torch.version.cuda is not None or torch.version.hip is not None
)
# Half a second, which nobody should wait for who has no use for them.
kernels: Any = importlib.import_module("vocabpress.embeddings.kernels_triton") if HAVE_TRITON else None

MOST_COLUMNS = 1024  # that a program reads at a time
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def serves(table: CompressedEmbedding, ids: Tensor) -> bool:
    """Whether the kernels can be used here: all is on one GPU, and nobody asks for a gradient or traces a graph."""
    if not HAVE_TRITON or not ids.is_cuda or type(ids) is not Tensor or torch.compiler.is_compiling():
        return False
    tensors = _tensors(table)
    return all(tensor.device == ids.device and type(tensor) in (Tensor, nn.Parameter) for tensor in tensors) and not (
        torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    )


def lookup(table: CompressedEmbedding, ids: Tensor) -> Tensor:
    """Rows of the table, shape (n, embedding_dim), in the dtype of its parameters.

    An id that the table does not have gives a row of NaN: to raise, one would have to wait for the device.

    Args:
        table: Any; what no kernel reads, its own `lookup` does.
        ids: Integers, shape (n).
    """
    state, known = _state(table), _readers.get(table)
    if known is None or known[0] != state:
        # What is kept serves outside of inference mode, too, and is not rounded to the moment's autocast.
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(ids.device.type, enabled=False):
            known = _readers[table] = state, _reader(table)
    read = known[1]
    return table.lookup(ids) if read is None else read(ids.contiguous())


_readers: WeakKeyDictionary[CompressedEmbedding, tuple[object, Read | None]] = WeakKeyDictionary()


def _modules(table: nn.Module) -> list[nn.Module]:
    modules = [table]
    for module in modules:  # which grows
        modules += [child for child in module._modules.values() if child is not None]
    return modules


def _tensors(table: nn.Module) -> list[Tensor]:
    tensors = [t for module in _modules(table) for held in (module._parameters, module._buffers) for t in held.values()]
    return [tensor for tensor in tensors if tensor is not None]


def _state(table: nn.Module) -> object:
    """What changes with the forms of a table, their numbers, dtype or place; writes through `.data` are not seen."""
    versions = [
        (id(tensor), tensor.data_ptr(), tensor.dtype, None if tensor.is_inference() else tensor._version)
        for tensor in _tensors(table)
    ]
    return versions, [id(module) for module in _modules(table)]


def _reader(form: CompressedEmbedding) -> Read | None:
    """How a form is read, or None where it reads itself; holds no reference to the form, which it is kept for."""
    pieces = cut(form)
    if pieces is not None:
        return _of_pieces(form, pieces) if pieces.dtype in DTYPES else None
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


def _of_pieces(form: CompressedEmbedding, pieces: Cut) -> Read:
    """Found and decoded by one launch."""
    (places, options), rows, width = _places(form), form.num_embeddings, form.embedding_dim
    tile = min(MOST_COLUMNS, 1 << (pieces.widest - 1).bit_length())

    def read(ids: Tensor) -> Tensor:
        out = torch.empty(len(ids), width, dtype=pieces.dtype, device=ids.device)
        if len(ids):
            given = (ids, out, rows, width, *places, pieces.bounds, pieces.records)
            with torch.cuda.device_of(ids):
                kernels.read_pieces[(len(ids),)](
                    *given, **options, TILE=tile, enable_fp_fusion=False
                )  # rounded as by torch
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
    counted = form._counted(form.block_of)
    places = (form.block_of, len(form.block_of), counted, starts, len(blocks))
    return places, {**constants, "MAP_BITS": form.map_bits}


def _blocks(form: Rows) -> Read:
    """Every block reads every token, and `where` picks: how many lie in each, only the device knows."""
    (places, options), rows = _places(form), form.num_embeddings
    readers = [_inner(block) for block in forms(form.blocks)]

    def read(ids: Tensor) -> Tensor:
        block = torch.empty(len(ids), dtype=torch.int32, device=ids.device)
        row = torch.empty(len(ids), dtype=torch.int64, device=ids.device)
        if len(ids):
            with torch.cuda.device_of(ids):
                kernels.find_rows[(len(ids),)](ids, block, row, rows, *places, **options)
        first, *others = readers
        result = first(torch.where(block == 0, row, 0).clamp(min=0))
        for index, other in enumerate(others, start=1):
            inside = block == index
            result = torch.where(inside[:, None], other(torch.where(inside, row, 0)), result)
        return torch.where((row < 0)[:, None], torch.nan, result)

    return read


def _projected(form: Projected) -> Read | None:
    inner, basis, bias = _inner(form.inner), form.basis.dense(), form.bias
    if bias is not None and bias.dtype != basis.dtype:  # torch would promote
        return None
    activation = None if form.activation is None else ACTIVATIONS[form.activation]

    def read(ids: Tensor) -> Tensor:
        rows = inner(ids).to(basis.dtype)
        rows = rows @ basis if bias is None else torch.addmm(bias, rows, basis)
        return rows if activation is None else activation(rows)

    return read
