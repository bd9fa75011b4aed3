"""Inner products with all rows of an expression by compiled loops: what each form's `logits` does, in a few calls.

Many vectors are multiplied with rows decoded tile by tile (`tiles.py`), a few with none: codes are read through tables
of inner products with words, which is asymmetric distance computation (Jegou et al., 2011, section 3.2). An adder makes
the tables of vectors, for all parts of an expression; what it gives adds up what any range of rows picks from them. So
threads share out the rows once for a whole expression, not for each of its parts, which may be many and small.
"""

from collections.abc import Callable
from copy import copy
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy
import torch

from vocabpress.embeddings.base import CompressedEmbedding
from vocabpress.embeddings.codebooks import Codebooks
from vocabpress.embeddings.combine import Columns, Sum, forms
from vocabpress.embeddings.dense import Dense
from vocabpress.embeddings.kernels import sums
from vocabpress.embeddings.kernels.decoders import places_of, small_table
from vocabpress.embeddings.kernels.maps import Score, floats
from vocabpress.embeddings.kernels.threads import in_threads
from vocabpress.embeddings.kernels.tiles import tiles
from vocabpress.embeddings.projected import Projected
from vocabpress.embeddings.rotated import Rotated
from vocabpress.embeddings.rows import Rows
from vocabpress.embeddings.scalar import Scalar
from vocabpress.embeddings.scaled import Scaled
from vocabpress.packing import unpack

Add = Callable[[int, int, Any], object]
"""Adds the inner products with the rows from the first to the last, (n, rows), float32, to what is there."""
Adder = Callable[[Any], Add]
MOST_BY_TABLES, MOST_BY_BYTES = 64, 8  # vectors up to which tables serve, or rows as they lie (benchmarks/heads.py)
ROWS = 16  # for which tables are made: what that of a byte takes, 256 sums, decodes the byte of a dozen rows
WORTH = 4096  # rows that are worth a thread
SHARES = 64  # that the rows of blocks are cut into; each has as many rows of every block


def scorer(form: CompressedEmbedding) -> Score:
    """How inner products with all rows of a form are computed.

    Raises:
        NoKernelError: If it holds a form that is none of `EMBEDDINGS`.
    """
    if isinstance(form, Rotated | Scaled):
        return _around(form, scorer(form.inner))
    if isinstance(form, Projected) and form.activation is None:
        return _turned(form, scorer(form.inner))
    codes, rows, most = by_codes(form), tiles(form), limit(form)
    return lambda hidden: (codes if len(hidden) <= most else rows)(hidden)


def _around(form: Rotated | Scaled, inner: Score) -> Score:
    """From changed vectors, since the rows need not be."""
    twin = copy(form)  # what is made of a form must not refer to it

    def score(hidden: Any) -> Any:
        scores = inner(twin.inputs(torch.from_numpy(hidden)).detach().numpy())
        return twin.outputs(torch.from_numpy(scores)).detach().numpy()

    return score


def _turned(form: Projected, inner: Score) -> Score:
    """From vectors that are turned to those of the inner rows."""
    turn = turning(form)

    def score(hidden: Any) -> Any:
        vectors, offset = turn(hidden)
        out = inner(vectors)
        return out if offset is None else numpy.add(out, offset, out=out)

    return score


def turning(form: Projected) -> Callable[[Any], tuple[Any, Any]]:
    """How vectors are turned to those of the inner rows, and what is added to their inner products, (n, 1)."""
    basis, bias = small_table(form.basis), None if form.bias is None else form.bias.detach().float()

    def turn(hidden: Any) -> tuple[Any, Any]:
        vectors = torch.from_numpy(hidden)
        return (vectors @ basis().T).numpy(), None if bias is None else (vectors @ bias).numpy()[:, None]

    return turn


def limit(form: CompressedEmbedding) -> int:
    """Vectors up to which inner products are sums of what codes pick."""
    if isinstance(form, Projected):
        return limit(form.inner)
    if isinstance(form, Rows | Columns | Sum):
        return min(limit(part) for part in forms(form.blocks if isinstance(form, Rows) else form.parts))
    by_tables = isinstance(form, Codebooks) or (isinstance(form, Scalar) and form.bits < 4)
    return MOST_BY_TABLES if by_tables else MOST_BY_BYTES


def by_codes(form: CompressedEmbedding) -> Score:
    """For a few vectors: without a row decoded, where the form can do that."""
    prepare, rows = adder(form), form.num_embeddings

    def score(hidden: Any) -> Any:
        add = prepare(hidden)
        if isinstance(add, Whole):
            return add.scores
        out = numpy.zeros((len(hidden), rows), numpy.float32)
        in_threads(lambda first, last: add(first, last, out[:, first:last]), rows, WORTH)
        return out

    return score


class Whole(NamedTuple):
    """Inner products with all rows, (n, V), which are there already."""

    scores: Any

    def __call__(self, first: int, last: int, out: Any) -> None:
        """Add those with some rows."""
        out += self.scores[:, first:last]


def adder(form: CompressedEmbedding) -> Adder:
    """How a few vectors become what adds their inner products with ranges of rows."""
    make = ADDERS.get(type(form))
    return _whole(tiles(form)) if make is None or form.num_embeddings < ROWS else make(form)


def _whole(score: Score) -> Adder:
    return lambda hidden: Whole(score(hidden))


def _dense(form: Dense) -> Adder:
    rows = form.rows.detach()
    if rows.dtype != torch.bfloat16:  # in the rows' own dtype: one cast of a vector instead of one of the table
        return lambda hidden: Whole(torch.mm(torch.from_numpy(hidden).to(rows.dtype), rows.T).float().numpy())
    halves = rows.view(torch.uint16).numpy()
    return lambda hidden: lambda first, last, out: sums.add_bfloat16(halves[first:last], hidden, out)


def _scalar(form: Scalar) -> Adder:
    codes, bits, columns = form.codes.contiguous().numpy(), form.bits, form.embedding_dim
    scales = numpy.ones((1, 1), numpy.float32) if form.scales is None else floats(form.scales)
    if form.scale_axis == "group" or bits not in (1, 2, 4, 8):
        return _whole(tiles(form))
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
            own = numpy.zeros_like(out) if by_row else out
            own += start
            loop(codes[first:last], halves, own)
            if by_row:
                out += numpy.multiply(own, scales[first:last, 0], out=own)

        return add

    return prepare


def _halves(vectors: Any, length: int) -> Any:
    """Entries for the lower code of each byte and for the upper one, (n, 2, length); zero where there is none."""
    padded = numpy.pad(vectors, ((0, 0), (0, 2 * length - vectors.shape[1])))
    return numpy.ascontiguousarray(padded.reshape(len(vectors), length, 2).swapaxes(1, 2))


def _codebooks(form: Codebooks) -> Adder:
    codes, bits, segments, words = form.codes.contiguous().numpy(), form.bits, form.segments, small_table(form.words)
    firsts = numpy.arange(form.words.num_embeddings >> bits).reshape(form.stages, -1) << bits
    books = numpy.broadcast_to(firsts, (form.stages, segments)).flatten()  # of each code the first word of its book
    per_byte = 8 // bits if 8 % bits == 0 else 1

    def prepare(hidden: Any) -> Add:
        tables = sums.code_tables(hidden, words().numpy(), books, segments, bits, per_byte)
        if 8 % bits == 0:
            return lambda first, last, out: sums.add_bytes(codes[first:last], tables, out)
        return lambda first, last, out: sums.add_codes(codes[first:last], tables, bits, out)

    return prepare


def _projected(form: Projected) -> Adder:
    if form.activation is not None:
        return _whole(tiles(form))
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


def _parts(form: Sum | Columns) -> Adder:
    """Parts that each take all entries of a vector, or neighbouring ones."""
    parts, all_of = [adder(part) for part in forms(form.parts)], (0, form.embedding_dim)
    ends = [all_of] * len(parts) if isinstance(form, Sum) else pairwise(accumulate(form.widths, initial=0))
    spans = [slice(*span) for span in ends]

    def prepare(hidden: Any) -> Add:
        adds = [part(numpy.ascontiguousarray(hidden[:, own])) for part, own in zip(parts, spans, strict=True)]

        def add(first: int, last: int, out: Any) -> None:
            for each in adds:
                each(first, last, out)

        return add

    return prepare


def _rows(form: Rows) -> Adder:
    blocks, rows = [adder(block) for block in forms(form.blocks)], form.num_embeddings
    sizes = [block.num_embeddings for block in forms(form.blocks)]
    starts = [*accumulate(sizes[:-1], initial=0)]
    places_of(form)  # refuses a map that gives blocks other tokens than they have
    order = None
    if form.block_of is not None:  # where each token's row is, if the blocks lie one after another
        order = unpack(form.block_of, form.map_bits, rows).numpy().argsort(kind="stable").argsort()

    def prepare(hidden: Any) -> Add:
        adds, parts = [block(hidden) for block in blocks], numpy.zeros((len(hidden), rows), numpy.float32)

        def part(first: int, last: int) -> None:  # a part of every block, since their rows take different times
            for add, start, size in zip(adds, starts, sizes, strict=True):
                own, end = size * first // SHARES, size * last // SHARES
                add(own, end, parts[:, start + own : start + end])

        in_threads(part, SHARES, max(1, SHARES * WORTH // rows))
        return Whole(parts if order is None else parts.take(order, axis=1))

    return prepare


ADDERS: dict[type[CompressedEmbedding], Callable[[Any], Adder]] = {
    Dense: _dense,
    Scalar: _scalar,
    Codebooks: _codebooks,
    Projected: _projected,
    Sum: _parts,
    Columns: _parts,
    Rows: _rows,
    **dict.fromkeys((Rotated, Scaled), lambda form: _whole(scorer(form))),
}
