"""Inner products of a few vectors with rows: codes are read through tables of inner products with words.

That is asymmetric distance computation (Jegou et al., 2011, section 3.2). An adder makes the tables of vectors, for all
parts of an expression; what it gives adds up what any range of rows picks from them. So threads share out the rows once
for a whole expression, not for each of its parts, which may be many and small.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy
import torch

from vocabpress.embeddings.base import CompressedEmbedding
from vocabpress.embeddings.codebooks import Codebooks
from vocabpress.embeddings.combine import Columns, Sum, forms
from vocabpress.embeddings.dense import Dense
from vocabpress.embeddings.kernels import sums
from vocabpress.embeddings.kernels.compiling import Loop
from vocabpress.embeddings.kernels.decoders import books_of, held, map_of, scales_of
from vocabpress.embeddings.kernels.threads import in_threads
from vocabpress.embeddings.kernels.tiles import tiles, turning
from vocabpress.embeddings.projected import Projected
from vocabpress.embeddings.rows import CHUNK, Rows
from vocabpress.embeddings.scalar import Scalar

Add = Callable[[int, int, Any], object]
"""Adds the inner products with the rows from the first to the last, (n, rows), float32, to what is there."""
Adder = Callable[[Any], Add]
ROWS = 16  # for which tables are made: what that of a byte takes, 256 sums, decodes the byte of a dozen rows
WORTH = 4096  # rows that are worth a thread
SHARES = 64  # of blocks, each of as many rows of every block


class Whole(NamedTuple):
    """Inner products with all rows, (n, V), which are there already."""

    scores: Any

    def __call__(self, first: int, last: int, out: Any) -> None:
        """Add those with some rows."""
        out += self.scores[:, first:last]


def adder(form: CompressedEmbedding) -> Adder:
    """How a few vectors become what adds their inner products with ranges of rows."""
    make = ADDERS.get(type(form))
    return _whole(form) if make is None or form.num_embeddings < ROWS else make(form)


def _whole(form: CompressedEmbedding) -> Adder:
    score = tiles(form)
    return lambda hidden: Whole(score(hidden))


def _dense(form: Dense) -> Adder:
    rows = form.rows.detach()
    if rows.dtype != torch.bfloat16:  # in the rows' own dtype: one cast of a vector instead of one of the table
        return lambda hidden: Whole(torch.mm(torch.from_numpy(hidden).to(rows.dtype), rows.T).float().numpy())
    return _by_rows(sums.add_bfloat16, rows.view(torch.uint16).numpy())


def _by_rows(add: Loop, rows: Any) -> Adder:
    """Inner products with rows as they lie there, by a loop."""
    return lambda hidden: lambda first, last, out: add(rows[first:last], hidden, out)


def _scalar(form: Scalar) -> Adder:
    codes, bits, columns = form.codes.numpy(), form.bits, form.embedding_dim
    scales, _ = scales_of(form)
    if form.scale_axis == "group" or bits not in (1, 2, 4, 8):
        return _whole(form)
    by_row = len(scales) > 1
    levels = torch.arange(1 << bits)[:, None] * (2 / (2**bits - 1)) - 1
    words, books = levels.float().numpy(), numpy.zeros(columns, numpy.int64)
    step, integers = numpy.float32(2 / (2**bits - 1)), sums.add_integers if bits == 8 else sums.add_nibbles

    def prepare(hidden: Any) -> Add:
        vectors = hidden if by_row else hidden * scales
        if bits >= 4:
            halves = vectors * step if bits == 8 else _halves(vectors * step, codes.shape[1])
            start = -vectors.sum(1, keepdims=True)
        else:  # a book of evenly spread words for each column
            halves, start = sums.code_tables(vectors, words, books, columns, bits, 8 // bits), numpy.float32(0)
        loop = integers if bits >= 4 else sums.add_bytes

        def add(first: int, last: int, out: Any) -> None:
            if not by_row:
                out += start
                loop(codes[first:last], halves, out)
                return
            own = numpy.empty_like(out)
            own[:] = start
            loop(codes[first:last], halves, own)
            out += numpy.multiply(own, scales[first:last, 0], out=own)

        return add

    return prepare


def _halves(vectors: Any, length: int) -> Any:
    """Entries for the lower code of each byte and for the upper one, (n, 2, length); zero where there is none."""
    padded = numpy.zeros((len(vectors), 2 * length), numpy.float32)
    padded[:, : vectors.shape[1]] = vectors
    return numpy.ascontiguousarray(padded.reshape(len(vectors), length, 2).swapaxes(1, 2))


def _codebooks(form: Codebooks) -> Adder:
    codes, bits, segments = form.codes.numpy(), form.bits, form.segments
    words, books = held(form.words), books_of(form)
    per_byte = 8 // bits if 8 % bits == 0 else 1

    def prepare(hidden: Any) -> Add:
        tables = sums.code_tables(hidden, words().numpy(), books, segments, bits, per_byte)
        if 8 % bits == 0:
            return lambda first, last, out: sums.add_bytes(codes[first:last], tables, out)
        return lambda first, last, out: sums.add_codes(codes[first:last], tables, bits, out)

    return prepare


def _projected(form: Projected) -> Adder:
    if form.activation is not None:
        return _whole(form)
    turn, inner = turning(form), adder(form.inner)

    def prepare(hidden: Any) -> Add:
        vectors, offset = turn(hidden)
        add = inner(vectors)
        if offset is None:
            return add
        if isinstance(add, Whole):
            return Whole(add.scores + offset)

        def shifted(first: int, last: int, out: Any) -> None:
            out += offset
            add(first, last, out)

        return shifted

    return prepare


def _sum(form: Sum) -> Adder:
    parts = [adder(part) for part in forms(form.parts)]
    return lambda hidden: _all([part(hidden) for part in parts])


def _columns(form: Columns) -> Adder:
    parts, ends = [adder(part) for part in forms(form.parts)], numpy.cumsum([0, *form.widths]).tolist()

    def prepare(hidden: Any) -> Add:
        pieces = [numpy.ascontiguousarray(hidden[:, first:last]) for first, last in pairwise(ends)]
        return _all([part(piece) for part, piece in zip(parts, pieces, strict=True)])

    return prepare


def _all(adds: list[Add]) -> Add:
    def add(first: int, last: int, out: Any) -> None:
        for each in adds:
            each(first, last, out)

    return add


def _rows(form: Rows) -> Adder:
    blocks, rows = [adder(block) for block in forms(form.blocks)], form.num_embeddings
    sizes = [block.num_embeddings for block in forms(form.blocks)]
    starts = numpy.cumsum([0, *sizes[:-1]])
    mapped = None if form.block_of is None else map_of(form, form.block_of)
    bits = form.map_bits

    def prepare(hidden: Any) -> Add:
        adds, parts = [block(hidden) for block in blocks], numpy.zeros((len(hidden), rows), numpy.float32)

        def part(first: int, last: int) -> None:  # of every block, since a row of one may take longer than of another
            for add, start, size in zip(adds, starts.tolist(), sizes, strict=True):
                own, end = size * first // SHARES, size * last // SHARES
                add(own, end, parts[:, start + own : start + end])

        in_threads(part, SHARES, max(1, SHARES * WORTH // rows))
        return Whole(parts if mapped is None else _in_order(parts, starts, *mapped, bits))

    return prepare


def _in_order(parts: Any, starts: Any, block_of: Any, counts: Any, bits: int) -> Any:
    """Inner products that lie block by block, (n, V), in the order of tokens."""
    out, rows = numpy.empty_like(parts), parts.shape[1]

    def part(first: int, last: int) -> None:
        span = slice(first * CHUNK, min(last * CHUNK, rows))
        sums.from_blocks(parts, starts, block_of, bits, counts[first], span.start, out[:, span])

    in_threads(part, len(counts), WORTH // CHUNK)
    return out


ADDERS: dict[type[CompressedEmbedding], Callable[[Any], Adder]] = {
    Dense: _dense,
    Scalar: _scalar,
    Codebooks: _codebooks,
    Projected: _projected,
    Sum: _sum,
    Columns: _columns,
    Rows: _rows,
}
