"""Rows of an expression by compiled loops: what each form's `lookup` does, in one call or a few for all of it.

A decoder writes rows, float32 (n, d), for ids, int64 (n). An expression of leaves, `Columns` and one `Rows` around them
is read by one loop, which walks through its leaves. A decoder is put together once and holds views of the table's
numbers, no copies, but for small tables that every row is read through (words, bases), which are decoded once up to
`MOST_CACHED` bytes, and for what `copied` lists besides.
"""

from collections.abc import Callable
from contextlib import nullcontext
from copy import copy
from functools import lru_cache, partial
from itertools import accumulate, pairwise
from typing import Any, TypeGuard

import numpy
import torch
from torch import Tensor

from vocabpress.embeddings.base import CompressedEmbedding
from vocabpress.embeddings.codebooks import Codebooks
from vocabpress.embeddings.combine import Columns, Sum, forms
from vocabpress.embeddings.dense import Dense
from vocabpress.embeddings.kernels import loops
from vocabpress.embeddings.kernels.maps import Decode, floats, rotated_decoder, rows_by, scaled_decoder, tiles_decoder
from vocabpress.embeddings.kernels.pieces import Memory, UncutError, cut
from vocabpress.embeddings.kernels.watch import Watch, cached
from vocabpress.embeddings.kronecker import Kronecker
from vocabpress.embeddings.projected import ACTIVATIONS, Projected
from vocabpress.embeddings.rotated import Rotated
from vocabpress.embeddings.rows import CHUNK, Rows
from vocabpress.embeddings.scaled import Scaled
from vocabpress.embeddings.tiles import Tiles
from vocabpress.embeddings.trellis import Trellis, all_words

MOST_CACHED = 2**22  # bytes of a small table that are decoded once; a larger one is decoded at every call


class NoKernelError(Exception):
    """A form that no loop reads, or a map that points beyond its blocks: loops look at neither."""


def decoder(form: CompressedEmbedding) -> Decode:
    """What writes the rows of a form.

    Raises:
        NoKernelError: If it holds a form that is none of `EMBEDDINGS`.
    """
    flat = _flat(form)
    if flat is not None:
        return flat
    make = DECODERS.get(type(form))
    if make is None:
        raise NoKernelError(type(form).__name__)
    return make(form)


def small_table(form: CompressedEmbedding) -> Callable[[], Tensor]:
    """A small table, float32 (rows, columns).

    It is a view of what lies there as such numbers, decoded once for all that read it, or decoded at every call.
    """
    if not _is_fixed(form):
        decode, ids, columns = decoder(form), numpy.arange(form.num_embeddings), form.embedding_dim
        return lambda: torch.from_numpy(rows_by(decode, ids, columns))
    if _lies_there(form):
        table = form.rows.detach()
    else:
        table = cached(
            form, "dense", lambda own: own.dense().float().contiguous(), lambda own: Watch(own, tensors(own))
        )
    return lambda: table


def _lies_there(form: CompressedEmbedding) -> TypeGuard[Dense]:
    return type(form) is Dense and not _is_copied(form.rows)


def _is_fixed(form: CompressedEmbedding) -> bool:
    """Whether a table that every row is read through stays where it is: as it lies there, or decoded once."""
    return _lies_there(form) or 4 * form.num_embeddings * form.embedding_dim <= MOST_CACHED


def copied(form: CompressedEmbedding) -> list[Tensor]:
    """The tensors whose numbers loops hold copies of; all others they read where they lie.

    These are: what is decoded once, maps, whose tokens are counted, and what is not float32, or codes, side by side,
    but for `Dense` rows, which are cast when they are read.
    """
    found: list[Tensor] = []
    for part in form.modules():
        through = part.basis if isinstance(part, Projected) else part.words if isinstance(part, Codebooks) else None
        if through is not None and _is_fixed(through) and not _lies_there(through):
            found += tensors(through)
        if isinstance(part, Rows) and part.block_of is not None:
            found.append(part.block_of)
        if not isinstance(part, Dense):
            found += [own for own in part.parameters(recurse=False) if _is_copied(own)]
            found += [own for own in part.buffers(recurse=False) if not own.is_contiguous()]
    return found


def tensors(form: CompressedEmbedding) -> list[Tensor]:
    """All numbers of a form."""
    return [*form.parameters(), *form.buffers()]


def _is_copied(numbers: Tensor) -> bool:
    """Whether loops that want these numbers as float32, side by side, can't read them where they lie."""
    return numbers.dtype != torch.float32 or not numbers.is_contiguous()


class Arrays(Memory):
    """For loops: numbers as float32, side by side, where they lie so, and else copies."""

    def _address(self, array: Any) -> int:
        self._kept.append(array)
        return array.ctypes.data

    def numbers(self, tensor: Tensor) -> int:
        return self._address(floats(tensor))

    def rows(self, form: Dense) -> int:
        if not _lies_there(form):
            raise UncutError
        return self.numbers(form.rows)

    def codes(self, codes: Tensor) -> int:
        return self._address(codes.contiguous().numpy())

    def words(self, form: Codebooks) -> int:
        if not _is_fixed(form.words):
            raise UncutError
        return self.numbers(small_table(form.words)())

    def states(self, form: Trellis, width: int) -> int:
        return self._address(_states(form.memory, width, form.scales.dtype))


@lru_cache(maxsize=32)
def _states(memory: int, width: int, dtype: torch.dtype) -> Any:
    """The words of every state, float32; those of the scales' dtype, as plain torch has them."""
    return floats(all_words(memory, width, torch.zeros((), dtype=dtype)))


class _Loop(partial[None]):
    """The loop of an expression of leaves, and the arrays that its addresses point at."""

    arrays: Arrays


def _flat(form: CompressedEmbedding) -> Decode | None:
    """One loop for the whole expression, or None where it is not one of leaves."""
    arrays = Arrays()
    try:
        pieces, bounds = cut(form, arrays)
    except UncutError:
        return None
    loop = _Loop(loops.read_rows, *places_of(form), numpy.array(bounds), numpy.array(pieces, numpy.int64))
    loop.arrays = arrays
    return loop


def places_of(form: CompressedEmbedding) -> tuple[Any, int, Any, int]:
    """What loops find the block of a token by, see `loops.read_rows`.

    Raises:
        NoKernelError: If the map gives a block other tokens than it has, as before a checkpoint is loaded.
    """
    if type(form) is not Rows or form.block_of is None:
        blocks = forms(form.blocks) if type(form) is Rows else [form]
        starts = [*accumulate((block.num_embeddings for block in blocks[:-1]), initial=0)]
        return numpy.zeros(0, numpy.uint8), 0, numpy.array([starts], numpy.int32), CHUNK
    try:
        form.check_map(form.block_of, "block_of")
    except ValueError as error:
        raise NoKernelError(str(error)) from None
    return form.block_of.numpy(), form.map_bits, form.counted(form.block_of).contiguous().numpy(), CHUNK


def _by_torch(form: CompressedEmbedding) -> Decode:
    """What is rare, by the form's own plain torch."""
    twin = copy(form)  # which has the same tensors: what is made of a form must not refer to it

    def decode(ids: Any, out: Any) -> None:
        with torch.autocast("cpu", enabled=False) if torch.is_autocast_enabled("cpu") else nullcontext():
            torch.from_numpy(out).copy_(twin.lookup(torch.from_numpy(ids)).detach())

    return decode


def _dense(form: Dense) -> Decode:
    rows = form.rows.detach()
    return lambda ids, out: torch.from_numpy(out).copy_(rows[torch.from_numpy(ids)])


def _projected(form: Projected) -> Decode:
    inner, basis, columns = decoder(form.inner), small_table(form.basis), form.inner.embedding_dim
    bias = None if form.bias is None else form.bias.detach().float()
    activation = None if form.activation is None else ACTIVATIONS[form.activation]

    def decode(ids: Any, out: Any) -> None:
        codes, rows = numpy.empty((len(ids), columns), numpy.float32), torch.from_numpy(out)
        inner(ids, codes)
        if bias is None:  # results that are given are not rounded under autocast
            torch.mm(torch.from_numpy(codes), basis(), out=rows)
        else:
            torch.addmm(bias, torch.from_numpy(codes), basis(), out=rows)
        if activation is not None:
            rows.copy_(activation(rows))

    return decode


def _around(make: Callable[[Any, Decode], Decode], form: Tiles | Rotated | Scaled) -> Decode:
    return make(form, decoder(form.inner))


def _sum(form: Sum) -> Decode:
    first, *others = (decoder(part) for part in forms(form.parts))

    def decode(ids: Any, out: Any) -> None:
        first(ids, out)
        for other in others:
            torch.from_numpy(out).add_(torch.from_numpy(rows_by(other, ids, out.shape[1])))

    return decode


def _rows(form: Rows) -> Decode:
    blocks, found = [decoder(block) for block in forms(form.blocks)], places_of(form)

    def decode(ids: Any, out: Any) -> None:
        of_block, rows = numpy.empty((2, len(ids)), numpy.int64)
        loops.find_all(*found, ids, of_block, rows)
        order = of_block.argsort(kind="stable")
        ends, rows = of_block[order].searchsorted(numpy.arange(len(blocks) + 1)).tolist(), rows[order]
        for block, (first, last) in zip(blocks, pairwise(ends), strict=True):
            if first < last:
                out[order[first:last]] = rows_by(block, rows[first:last], out.shape[1])

    return decode


DECODERS: dict[type[CompressedEmbedding], Callable[[Any], Decode]] = {
    Projected: _projected,
    Sum: _sum,
    Rows: _rows,
    Dense: _dense,
    Tiles: partial(_around, tiles_decoder),
    Rotated: partial(_around, rotated_decoder),
    Scaled: partial(_around, scaled_decoder),
    **dict.fromkeys((Codebooks, Kronecker, Columns), _by_torch),
}
