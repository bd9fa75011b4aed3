"""The fastest way to read a table here: compiled loops or a GPU's kernels, or else the forms' own plain torch.

Loops serve tensors on the processor, where numba is installed, kernels those on a GPU, where Triton is. What may be
trained is read by plain torch, and graphs that are compiled, traced or exported are made of it. How loops read a table
is put together once, and again when its numbers or parts change; a reading is then a look at those, and one call.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from vocabpress.embeddings import CompressedEmbedding, Projected
from vocabpress.embeddings.kernels import gpu
from vocabpress.embeddings.kernels.compiling import HAVE_NUMBA
from vocabpress.embeddings.kernels.decoders import NoKernelError, copied, decoder, tensors
from vocabpress.embeddings.kernels.loops import inside
from vocabpress.embeddings.kernels.maps import SHARE, Score, read_whole
from vocabpress.embeddings.kernels.scorers import scorer
from vocabpress.embeddings.kernels.threads import in_threads
from vocabpress.embeddings.kernels.watch import Watch, cached

MANY = 64  # ids among which it pays to look for equal ones
TOP_WHOLE = 8  # vectors whose inner products with all rows may be held at once
TOP_TILE = 8192  # rows whose inner products are, for more of them
DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # loops work in float32


def lookup(table: CompressedEmbedding, ids: Tensor, repeated: bool = False) -> Tensor:
    """Rows, as the table's own `lookup` gives them, up to rounding, under autocast, too: as in a dense table.

    Args:
        table: (V, d).
        ids: On any device, shape (*n).
        repeated: Whether ids may repeat, as in text; each distinct row is then decoded once.

    Returns:
        Shape (*n, d), where the ids are.

    Raises:
        IndexError: If an id is out of range.
    """
    graph = in_graph(ids)
    if repeated and not graph and ids.numel() >= MANY:
        distinct, place = ids.unique(return_inverse=True)
        if len(distinct) < ids.numel():
            return embedding(place, lookup(table, distinct))
    read = None if graph else by_loops(table, ids, "rows", _row_reader)
    if read is None:
        return _without_loops(table, ids)
    flat = ids.reshape(-1).to(torch.int64).contiguous().numpy()
    if not inside(flat, table.num_embeddings):
        raise IndexError(f"ids lie in 0 … {table.num_embeddings - 1}, got {int(ids.min())} … {int(ids.max())}")
    return read(flat).view(*ids.shape, table.embedding_dim)


def _without_loops(table: CompressedEmbedding, ids: Tensor) -> Tensor:
    place = table.device
    if ids.device != place:
        return _without_loops(table, ids.to(place)).to(ids.device)
    if place.type != "meta" and torch.is_autocast_enabled(place.type):  # there is no autocast on the meta device
        with torch.autocast(place.type, enabled=False):
            return _without_loops(table, ids)
    if in_graph(ids) or trains(table) or not gpu.serves(table, ids):
        return table.lookup(ids)
    return gpu.lookup(table, ids.reshape(-1)).view(*ids.shape, table.embedding_dim)


def dense(table: CompressedEmbedding) -> Tensor:
    """The dense table, (V, d); without numbers, on the meta device, while a load has not brought all of the table's."""
    if any(tensor.is_meta for tensor in tensors(table)):
        dtype = next((parameter.dtype for parameter in table.parameters()), torch.get_default_dtype())
        return torch.empty(table.num_embeddings, table.embedding_dim, dtype=dtype, device="meta")
    return table.dense() if trains(table) else lookup(table, torch.arange(table.num_embeddings, device=table.device))


def logits(table: CompressedEmbedding, hidden: Tensor) -> Tensor:
    """Inner products with every row, as the table's own `logits` gives them, up to rounding and the order of sums.

    Args:
        table: (V, d).
        hidden: On any device, shape (*n, d).

    Returns:
        Shape (*n, V), where the vectors are.
    """
    if hidden.dtype in DTYPES and not in_graph(hidden) and not torch.is_autocast_enabled("cpu"):
        score: Score | None = by_loops(table, hidden, "scores", scorer)
        if score is not None:
            with numpy.errstate(all="ignore"):
                scores = score(hidden.detach().reshape(-1, hidden.shape[-1]).float().contiguous().numpy())
            return torch.from_numpy(scores).to(hidden.dtype).view(*hidden.shape[:-1], table.num_embeddings)
    place = table.device
    return table.logits(hidden) if hidden.device == place else table.logits(hidden.to(place)).to(hidden.device)


def top_logits(table: CompressedEmbedding, hidden: Tensor, count: int, bias: Tensor | None = None) -> tuple[Any, Any]:
    """The largest inner products with rows, without those of all rows at once.

    Args:
        table: (V, d).
        hidden: (*n, d).
        count: How many for each vector.
        bias: Added to the inner products, (V); none without.

    Returns:
        The inner products, falling, and the tokens that they belong to, both (*n, count).

    Raises:
        ValueError: If the table has not as many rows.
    """
    if not 1 <= count <= table.num_embeddings:
        raise ValueError(f"count is 1 to {table.num_embeddings}, the rows of the table; got {count}")
    if hidden.numel() <= TOP_WHOLE * table.embedding_dim:
        scores = logits(table, hidden)
        best = (scores if bias is None else scores + bias.to(scores.dtype)).topk(count)
        return best.values, best.indices
    rows, vectors, offset = _innermost(table, hidden)
    values, tokens = [], []
    for ids in torch.arange(table.num_embeddings, device=hidden.device).split(TOP_TILE):
        scores = vectors @ lookup(rows, ids).to(vectors.dtype).T + offset
        best = (scores if bias is None else scores + bias[ids].to(scores.dtype)).topk(min(count, len(ids)))
        values, tokens = [*values, best.values], [*tokens, ids[best.indices]]
        best = torch.cat(values, -1).topk(min(count, sum(part.shape[-1] for part in values)))
        values, tokens = [best.values], [torch.cat(tokens, -1).gather(-1, best.indices)]
    return values[0], tokens[0]


def _innermost(table: CompressedEmbedding, hidden: Tensor) -> tuple[CompressedEmbedding, Tensor, Tensor]:
    """Rows and vectors of fewer columns whose inner products, plus an offset a vector, are those of the table."""
    offset = hidden.new_zeros(*hidden.shape[:-1], 1)
    while isinstance(table, Projected) and table.activation is None:
        if table.bias is not None:
            offset = offset + (hidden @ table.bias.to(hidden.dtype))[..., None]
        table, hidden = table.inner, table.basis.logits(hidden)
    return table, hidden, offset


def in_graph(values: Tensor) -> bool:
    """Whether shapes must not depend on data; tensors without numbers have types of their own."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        or values.is_meta
        or type(values) not in (Tensor, nn.Parameter)
    )


def trains(table: CompressedEmbedding, *values: Tensor) -> bool:
    """Whether somebody may ask for a gradient."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (*values, *table.parameters()))


def by_loops(
    table: CompressedEmbedding, values: Tensor, name: str, make: Callable[[CompressedEmbedding], Any]
) -> Any | None:
    """What ``make`` puts together for a table, kept by a name; None where loops don't serve."""
    if not HAVE_NUMBA or values.device.type != "cpu" or (torch.is_grad_enabled() and trains(table, values)):
        return None
    return cached(table, name, partial(_of_loops, make), lambda table: Watch(table, copied(table)))


def _of_loops(make: Callable[[CompressedEmbedding], Any], table: CompressedEmbedding) -> Any | None:
    if any(part.device.type != "cpu" or type(part) not in (Tensor, nn.Parameter) for part in tensors(table)):
        return None
    try:
        return make(table)
    except NoKernelError:
        return None


def _row_reader(table: CompressedEmbedding) -> Callable[[Any], Tensor] | None:
    """How loops read rows of a table, by ids of one axis, in the dtype that they have there."""
    decode, dtype, columns = decoder(table), table.dtype, table.embedding_dim
    least = sys.maxsize if read_whole(table) else SHARE  # rows that are worth a thread

    def read(ids: Any) -> Tensor:
        rows = numpy.empty((len(ids), columns), numpy.float32)
        if len(ids) < 2 * least:
            decode(ids, rows)
        else:
            in_threads(lambda first, last: decode(ids[first:last], rows[first:last]), len(ids), least)
        return torch.from_numpy(rows).to(dtype)

    return read if dtype in DTYPES else None
