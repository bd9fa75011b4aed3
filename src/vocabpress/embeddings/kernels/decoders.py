"""Rows of an expression by compiled loops: what each form's `lookup` does, in a few calls for all of it.

A decoder is a function from ids, int64 (n), to rows, float32 (n, d); it is put together once and holds views of the
table's numbers, no copies, but for small tables that every row is read through (words, bases), which are held decoded
up to `MOST_HELD` bytes, and for what `copied` lists besides.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, TypeGuard

import numpy
import torch
from torch import Tensor

from vocabpress.embeddings.base import CompressedEmbedding
from vocabpress.embeddings.codebooks import Codebooks
from vocabpress.embeddings.combine import Columns, Sum, forms
from vocabpress.embeddings.dense import Dense
from vocabpress.embeddings.kernels import loops
from vocabpress.embeddings.kernels.watch import Watch, kept
from vocabpress.embeddings.kronecker import Kronecker
from vocabpress.embeddings.projected import ACTIVATIONS, Projected
from vocabpress.embeddings.rows import CHUNK, Rows
from vocabpress.embeddings.scalar import Scalar
from vocabpress.embeddings.trellis import Trellis, all_words

Decode = Callable[[Any], Any]
MOST_HELD = 2**22  # bytes of a small table that are held decoded; a larger one is decoded at every call


class NoKernelError(Exception):
    """A form that no loop reads, or a map that points beyond its blocks: loops look at neither."""


def decoder(form: CompressedEmbedding) -> Decode:
    """How the rows of a form are read.

    Raises:
        NoKernelError: If it holds a form that is none of `EMBEDDINGS`.
    """
    make = DECODERS.get(type(form))
    if make is None:
        raise NoKernelError(type(form).__name__)
    return make(form)


def floats(tensor: Tensor) -> Any:
    """Numbers as float32, (…); a view where they are that already."""
    return tensor.detach().float().numpy()


def held(form: CompressedEmbedding) -> Callable[[], Tensor]:
    """A small table, float32 (rows, columns).

    It is a view of what lies there as such numbers, held decoded, once for all that read it, or decoded at every call.
    """
    if _lies_there(form):
        table: Tensor = form.rows.detach()
    elif is_held(form):
        table = kept(form, "dense", _decoded, lambda form: Watch(form, tensors(form)))
    else:
        decode, ids = decoder(form), numpy.arange(form.num_embeddings)
        return lambda: torch.from_numpy(decode(ids))
    return lambda: table


def _decoded(form: CompressedEmbedding) -> Tensor:
    return form.dense().detach().float().contiguous()


def _lies_there(form: CompressedEmbedding) -> TypeGuard[Dense]:
    return isinstance(form, Dense) and not _is_copied(form.rows)


def is_held(form: CompressedEmbedding) -> bool:
    """Whether a table that every row is read through is held decoded, where it is no view."""
    return not _lies_there(form) and 4 * form.num_embeddings * form.embedding_dim <= MOST_HELD


def copied(form: CompressedEmbedding) -> list[Tensor]:
    """The tensors whose numbers loops hold copies of; all others they read where they lie.

    These are: what is held decoded, maps, whose tokens are counted, and floats that are not float32, but for `Dense`
    rows, which are cast when they are read.
    """
    found: list[Tensor] = []
    for part in form.modules():
        through = part.basis if isinstance(part, Projected) else part.words if isinstance(part, Codebooks) else None
        if through is not None and is_held(through):
            found += tensors(through)
        if isinstance(part, Rows) and part.block_of is not None:
            found.append(part.block_of)
        if not isinstance(part, Dense):
            found += [own for own in part.parameters(recurse=False) if _is_copied(own)]
    return found


def tensors(form: CompressedEmbedding) -> list[Tensor]:
    """All numbers of a form."""
    return [*form.parameters(), *form.buffers()]


def _is_copied(numbers: Tensor) -> bool:
    """Whether loops that want these numbers as float32, side by side, can't read them where they lie."""
    return numbers.dtype != torch.float32 or not numbers.is_contiguous()


def _dense(form: Dense) -> Decode:
    rows = form.rows.detach()
    return lambda ids: rows[torch.from_numpy(ids)].float().numpy()


def scales_of(form: Scalar) -> tuple[Any, int]:
    """Scales, (V or 1, groups), and how many neighbours share one."""
    if form.scales is None:
        return numpy.ones((1, 1), numpy.float32), form.embedding_dim
    group = {"row": form.embedding_dim, "column": 1}.get(form.scale_axis, form.group_size or 1)
    return floats(form.scales), group


def _scalar(form: Scalar) -> Decode:
    codes, bits, columns = form.codes.numpy(), form.bits, form.embedding_dim
    scales, group = scales_of(form)

    def decode(ids: Any) -> Any:
        out = numpy.empty((len(ids), columns), numpy.float32)
        loops.read_scalar(codes, ids, bits, scales, group, out)
        return out

    return decode


def books_of(form: Codebooks) -> Any:
    """For each code of a row the first word of its book, (stages * segments)."""
    books = numpy.arange(form.words.num_embeddings >> form.bits).reshape(form.stages, -1) << form.bits
    return numpy.broadcast_to(books, (form.stages, form.segments)).flatten()


def _codebooks(form: Codebooks) -> Decode:
    codes, bits, segments, columns = form.codes.numpy(), form.bits, form.segments, form.embedding_dim
    words, books = held(form.words), books_of(form)

    def decode(ids: Any) -> Any:
        out = numpy.empty((len(ids), columns), numpy.float32)
        loops.read_codebooks(codes, ids, bits, words().numpy(), books, segments, out)
        return out

    return decode


def _trellis(form: Trellis) -> Decode:
    codes, memory, row_bits, columns = form.codes.numpy(), form.memory, form.row_bits, form.embedding_dim
    runs, scales = numpy.array(form.runs, dtype=numpy.int64), floats(form.scales)
    used = {run.width for run in form.runs if run.bits}
    # Words are those of the scales' dtype, as plain torch has them.
    tables = [all_words(memory, width, form.scales) if width in used else None for width in range(1, max(used) + 1)]
    starts = numpy.cumsum([0, *(0 if table is None else table.numel() for table in tables)])
    words = _joined(tuple(table for table in tables if table is not None))

    def decode(ids: Any) -> Any:
        out = numpy.empty((len(ids), columns), numpy.float32)
        loops.read_trellis(codes, ids, runs, words, starts, scales, memory, row_bits, out)
        return out

    return decode


@lru_cache(maxsize=32)
def _joined(tables: tuple[Tensor, ...]) -> Any:
    """Tables one after another, float32; those of a trellis are kept, so that the same ones come again."""
    return torch.cat([table.float().flatten() for table in tables]).numpy()


def _kronecker(form: Kronecker) -> Decode:
    left, right, rows, columns = decoder(form.left), decoder(form.right), form.right.num_embeddings, form.embedding_dim

    def decode(ids: Any) -> Any:
        return (left(ids // rows)[:, :, None] * right(ids % rows)[:, None, :]).reshape(len(ids), columns)

    return decode


def _projected(form: Projected) -> Decode:
    inner, basis = decoder(form.inner), held(form.basis)
    bias = None if form.bias is None else form.bias.detach().float()
    activation = None if form.activation is None else ACTIVATIONS[form.activation]

    def decode(ids: Any) -> Any:
        codes = torch.from_numpy(inner(ids))
        rows = codes @ basis() if bias is None else torch.addmm(bias, codes, basis())
        return (rows if activation is None else activation(rows)).numpy()

    return decode


def _sum(form: Sum) -> Decode:
    first, *others = (decoder(part) for part in forms(form.parts))

    def decode(ids: Any) -> Any:
        rows = first(ids)
        for other in others:
            rows += other(ids)
        return rows

    return decode


def _columns(form: Columns) -> Decode:
    parts, widths, columns = [decoder(part) for part in forms(form.parts)], form.widths, form.embedding_dim

    def decode(ids: Any) -> Any:
        rows, first = numpy.zeros((len(ids), columns), numpy.float32), 0
        for part, width in zip(parts, widths, strict=True):
            rows[:, first : first + width] = part(ids)
            first += width
        return rows

    return decode


def _rows(form: Rows) -> Decode:
    blocks, columns = [decoder(block) for block in forms(form.blocks)], form.embedding_dim
    if form.block_of is None:
        starts = numpy.cumsum([0, *(block.num_embeddings for block in forms(form.blocks))])
        return lambda ids: _gather(blocks, columns, *_contiguous(ids, starts))
    block_of, counts = map_of(form, form.block_of)
    bits = form.map_bits
    return lambda ids: _gather(blocks, columns, *loops.sort_into_blocks(ids, block_of, bits, counts, CHUNK))


def map_of(form: Rows, block_of: Tensor) -> tuple[Any, Any]:
    """The packed map, and tokens of each block before every `CHUNK`-th token.

    Raises:
        NoKernelError: If the map gives a block other tokens than it has, as before a checkpoint is loaded.
    """
    try:
        form.check_map(block_of, "block_of")
    except ValueError as error:
        raise NoKernelError(str(error)) from None
    return block_of.numpy(), form.counted(block_of).numpy()


def _contiguous(ids: Any, starts: Any) -> tuple[Any, Any, Any]:
    """As `loops.sort_into_blocks`, of blocks that lie one after another."""
    places = ids.argsort(kind="stable")
    ordered = ids[places]
    ends = ordered.searchsorted(starts)
    return ends, ordered - starts[starts.searchsorted(ordered, side="right") - 1], places


def _gather(blocks: Sequence[Decode], columns: int, ends: Any, rows: Any, places: Any) -> Any:
    out = numpy.empty((len(rows), columns), numpy.float32)
    for block, (first, last) in zip(blocks, pairwise(ends.tolist()), strict=True):
        if first < last:
            out[places[first:last]] = block(rows[first:last])
    return out


DECODERS: dict[type[CompressedEmbedding], Callable[[Any], Decode]] = {
    Dense: _dense,
    Scalar: _scalar,
    Codebooks: _codebooks,
    Kronecker: _kronecker,
    Trellis: _trellis,
    Projected: _projected,
    Sum: _sum,
    Columns: _columns,
    Rows: _rows,
}
