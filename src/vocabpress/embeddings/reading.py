"""The fastest way to read a table here: compiled loops or a GPU's kernels, or else the forms' own plain torch.

Loops serve tensors on the processor, where numba is installed, kernels those on a GPU, where Triton is. What may be
trained is read by plain torch, and graphs that are compiled, traced or exported are made of it.
"""

from typing import Any, NamedTuple

import numpy
import torch
from torch import Tensor, nn

from vocabpress.embeddings.base import CompressedEmbedding
from vocabpress.embeddings.kernels import gpu
from vocabpress.embeddings.kernels.compiling import HAVE_NUMBA
from vocabpress.embeddings.kernels.decoders import Decode, NoKernelError, copied, decoder, tensors
from vocabpress.embeddings.kernels.loops import inside
from vocabpress.embeddings.kernels.scorers import Score, scorer
from vocabpress.embeddings.kernels.threads import in_threads
from vocabpress.embeddings.kernels.watch import Watch, kept
from vocabpress.embeddings.projected import Projected

TOP_WHOLE = 8  # vectors whose inner products with all rows may be held at once
TOP_TILE = 8192  # rows whose inner products are, for more of them
SHARE = 64  # rows of a lookup that are worth a thread
DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # loops work in float32


class Loops(NamedTuple):
    """How a table is read by loops; the dtype is that of rows."""

    decode: Decode
    score: Score
    dtype: torch.dtype


def lookup(table: CompressedEmbedding, ids: Tensor) -> Tensor:
    """Rows, as the table's own `lookup` gives them, up to rounding.

    Raises:
        IndexError: If an id is out of range.
    """
    loops = loops_for(table, ids)
    if loops is None:
        return _without_loops(table, ids)
    flat = ids.reshape(-1).to(torch.int64).numpy()
    if not inside(flat, table.num_embeddings):
        raise IndexError(f"ids lie in 0 … {table.num_embeddings - 1}, got {int(ids.min())} … {int(ids.max())}")
    rows = _decoded(loops.decode, flat, table.embedding_dim)
    return torch.from_numpy(rows).to(loops.dtype).view(*ids.shape, table.embedding_dim)


def _decoded(decode: Decode, ids: Any, columns: int) -> Any:
    """Rows, shared out among threads where they are many, the products with a basis among them."""
    if len(ids) < 2 * SHARE:
        with numpy.errstate(all="ignore"):  # numbers beyond their dtype are as quiet as in torch
            return decode(ids)
    rows = numpy.empty((len(ids), columns), numpy.float32)

    def part(first: int, last: int) -> None:
        rows[first:last] = decode(ids[first:last])

    in_threads(part, len(ids), SHARE)
    return rows


def _without_loops(table: CompressedEmbedding, ids: Tensor) -> Tensor:
    if in_graph(ids) or trains(table) or not gpu.serves(table, ids):
        return table.lookup(ids)
    return gpu.lookup(table, ids.reshape(-1)).view(*ids.shape, table.embedding_dim)


def logits(table: CompressedEmbedding, hidden: Tensor) -> Tensor:
    """Inner products with every row, as the table's own `logits` gives them, up to rounding and the order of sums."""
    loops = loops_for(table, hidden)
    if loops is None or hidden.dtype not in DTYPES or torch.is_autocast_enabled("cpu"):
        return table.logits(hidden)
    with numpy.errstate(all="ignore"):
        scores = loops.score(_vectors(hidden))
    return torch.from_numpy(scores).to(hidden.dtype).view(*hidden.shape[:-1], table.num_embeddings)


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


def loops_for(table: CompressedEmbedding, values: Tensor) -> Loops | None:
    """Where loops serve: how they read the table."""
    if not HAVE_NUMBA or in_graph(values) or values.device.type != "cpu" or trains(table, values):
        return None
    return kept(table, "loops", _make, lambda table: Watch(table, copied(table)))


def _make(table: CompressedEmbedding) -> Loops | None:
    if any(part.device.type != "cpu" or type(part) not in (Tensor, nn.Parameter) for part in tensors(table)):
        return None
    try:
        decode, score = decoder(table), scorer(table)
    except NoKernelError:
        return None
    dtype = table.lookup(torch.zeros(1, dtype=torch.int64)).dtype
    return Loops(decode, score, dtype) if dtype in DTYPES else None


def _vectors(hidden: Tensor) -> Any:
    return hidden.detach().reshape(-1, hidden.shape[-1]).float().contiguous().numpy()
