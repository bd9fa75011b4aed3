"""Inner products with all rows of an expression by compiled loops: what each form's `logits` does, in a few calls.

A scorer is a function from vectors, float32 (n, d), to their inner products, float32 (n, V). For a few vectors codes
are read through tables of inner products with words (asymmetric distance computation: Jegou et al., 2011, section 3.2).
For many, or where there are no such tables, rows are decoded tile by tile, and a tile is multiplied before the next.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy
import torch

from vocabpress.embeddings.base import CompressedEmbedding
from vocabpress.embeddings.codebooks import Codebooks
from vocabpress.embeddings.combine import Columns, Sum, forms
from vocabpress.embeddings.dense import Dense
from vocabpress.embeddings.kernels import sums
from vocabpress.embeddings.kernels.decoders import books_of, decoder, held, map_of, scales_of
from vocabpress.embeddings.kernels.loops import Loop
from vocabpress.embeddings.kernels.threads import in_threads
from vocabpress.embeddings.projected import Projected
from vocabpress.embeddings.rows import CHUNK, Rows
from vocabpress.embeddings.scalar import Scalar

Score = Callable[[Any], Any]
FEW, FEW_BYTES = 64, 8  # vectors up to which codes are read through tables, or rows as they lie (benchmarks/heads.py)
ROWS = 16  # for which they are: what a byte's table takes, of 256 sums, decodes the byte of a dozen rows
TILE = 8192  # rows that are decoded at a time
SHARE = 512  # rows of a tile that are worth a thread


def scorer(form: CompressedEmbedding) -> Score:
    """How inner products with all rows of a form are computed.

    Raises:
        NoKernelError: If it holds a form that is none of `EMBEDDINGS`.
    """
    by_tables, by_tiles, most = few(form), many(form), limit(form)
    return lambda hidden: (by_tables if len(hidden) <= most else by_tiles)(hidden)


def limit(form: CompressedEmbedding) -> int:
    """Vectors that are a few for this form."""
    if isinstance(form, Projected):
        return limit(form.inner)
    if isinstance(form, Rows | Columns | Sum):
        return min(limit(part) for part in forms(form.blocks if isinstance(form, Rows) else form.parts))
    by_tables = isinstance(form, Codebooks) or (isinstance(form, Scalar) and form.bits < 4)
    return FEW if by_tables else FEW_BYTES


def few(form: CompressedEmbedding) -> Score:
    """For a few vectors: without a row decoded, where the form can do that."""
    return tiles(form) if form.num_embeddings < ROWS else SCORERS.get(type(form), tiles)(form)


def many(form: CompressedEmbedding) -> Score:
    """For many: whole rows decoded, but not turned, since it is the vectors that are."""
    return _projected(form, many) if type(form) is Projected else tiles(form)


def tiles(form: CompressedEmbedding) -> Score:
    """Rows decoded by tiles, for any form and any number of vectors."""
    decode, rows, columns = decoder(form), form.num_embeddings, form.embedding_dim
    # Products have threads of their own; those of small tiles are no matter.
    least = SHARE if not any(isinstance(part, Projected) for part in form.modules()) else rows

    def score(hidden: Any) -> Any:
        vectors, out = torch.from_numpy(hidden), torch.empty(len(hidden), rows)
        tile = numpy.empty((min(rows, TILE), columns), numpy.float32)
        for start in range(0, rows, TILE):
            count = min(TILE, rows - start)

            def part(first: int, last: int, start: int = start) -> None:
                tile[first:last] = decode(numpy.arange(start + first, start + last))

            in_threads(part, count, least)
            out[:, start : start + count] = vectors @ torch.from_numpy(tile[:count]).T
        return out.numpy()

    return score


def _dense(form: Dense) -> Score:
    rows = form.rows.detach()
    if rows.dtype != torch.bfloat16:  # in the rows' own dtype: one cast of a vector instead of one of the table
        return lambda hidden: torch.mm(torch.from_numpy(hidden).to(rows.dtype), rows.T).float().numpy()
    halves = rows.view(torch.uint16).numpy()
    return _by_rows(sums.dot_bfloat16, halves)


def _by_rows(dot: Loop, rows: Any) -> Score:
    """Inner products with rows as they lie there, by a loop."""

    def score(hidden: Any) -> Any:
        out = numpy.empty((len(hidden), len(rows)), numpy.float32)
        in_threads(lambda first, last: dot(rows[first:last], hidden, out[:, first:last]), len(rows))
        return out

    return score


def _scalar(form: Scalar) -> Score:
    codes, bits, columns = form.codes.numpy(), form.bits, form.embedding_dim
    scales, _ = scales_of(form)
    if form.scale_axis == "group" or bits not in (1, 2, 4, 8):
        return tiles(form)
    by_row = len(scales) > 1
    levels = torch.arange(1 << bits)[:, None] * (2 / (2**bits - 1)) - 1
    words, books = levels.float().numpy(), numpy.zeros(columns, numpy.int64)
    integers = _by_rows(sums.dot_bytes if bits == 8 else sums.dot_nibbles, codes)

    def score(hidden: Any) -> Any:
        vectors = hidden if by_row else hidden * scales
        if bits >= 4:
            halves = vectors if bits == 8 else _halves(vectors, codes.shape[1])
            out = integers(halves) * numpy.float32(2 / (2**bits - 1)) - vectors.sum(1, keepdims=True)
        else:  # a book of evenly spread words for each column
            out = _by_tables(codes, sums.code_tables(vectors, words, books, columns, bits, 8 // bits))
        return numpy.multiply(out, scales[:, 0], out=out) if by_row else out

    return score


def _halves(vectors: Any, length: int) -> Any:
    """Entries for the lower code of each byte and for the upper one, (n, 2, length); zero where there is none."""
    padded = numpy.zeros((len(vectors), 2 * length), numpy.float32)
    padded[:, : vectors.shape[1]] = vectors
    return numpy.ascontiguousarray(padded.reshape(len(vectors), length, 2).swapaxes(1, 2))


def _codebooks(form: Codebooks) -> Score:
    codes, bits, segments = form.codes.numpy(), form.bits, form.segments
    words, books = held(form.words), books_of(form)
    if 8 % bits == 0:

        def score(hidden: Any) -> Any:
            return _by_tables(codes, sums.code_tables(hidden, words().numpy(), books, segments, bits, 8 // bits))

    else:

        def score(hidden: Any) -> Any:
            tables = sums.code_tables(hidden, words().numpy(), books, segments, bits, 1)
            return _by_rows(lambda rows, _, out: sums.sum_codes(rows, tables, bits, out), codes)(hidden)

    return score


def _by_tables(codes: Any, tables: Any) -> Any:
    """Sums of what bytes pick from their tables, (n, V)."""
    out = numpy.zeros((len(tables), len(codes)), numpy.float32)
    in_threads(lambda first, last: sums.add_bytes(codes[first:last], tables, out[:, first:last]), len(codes))
    return out


def _projected(form: Projected, how: Callable[[CompressedEmbedding], Score] = few) -> Score:
    if form.activation is not None:
        return tiles(form)
    inner, basis = how(form.inner), held(form.basis)
    bias = None if form.bias is None else form.bias.detach().float()

    def score(hidden: Any) -> Any:
        vectors = torch.from_numpy(hidden)
        out = inner((vectors @ basis().T).numpy())
        return out if bias is None else numpy.add(out, (vectors @ bias).numpy()[:, None], out=out)

    return score


def _sum(form: Sum) -> Score:
    first, *others = (few(part) for part in forms(form.parts))

    def score(hidden: Any) -> Any:
        out = first(hidden)
        for other in others:
            out += other(hidden)
        return out

    return score


def _columns(form: Columns) -> Score:
    parts, ends = [few(part) for part in forms(form.parts)], numpy.cumsum([0, *form.widths]).tolist()

    def score(hidden: Any) -> Any:
        pieces = [numpy.ascontiguousarray(hidden[:, first:last]) for first, last in pairwise(ends)]
        out = parts[0](pieces[0])
        for part, piece in zip(parts[1:], pieces[1:], strict=True):
            out += part(piece)
        return out

    return score


def _rows(form: Rows) -> Score:
    blocks, rows = [few(block) for block in forms(form.blocks)], form.num_embeddings
    if form.block_of is None:
        return lambda hidden: numpy.concatenate([block(hidden) for block in blocks], axis=1)
    block_of, counts = map_of(form, form.block_of)
    bits = form.map_bits
    sizes = numpy.array([block.num_embeddings for block in forms(form.blocks)])
    starts = sizes.cumsum() - sizes

    def score(hidden: Any) -> Any:
        parts = numpy.concatenate([block(hidden) for block in blocks], axis=1)
        out = numpy.empty_like(parts)

        def part(first: int, last: int) -> None:
            span = slice(first * CHUNK, min(last * CHUNK, rows))
            sums.from_blocks(parts, starts, block_of, bits, counts[first], span.start, out[:, span])

        in_threads(part, len(counts), 4096 // CHUNK)
        return out

    return score


SCORERS: dict[type[CompressedEmbedding], Callable[[Any], Score]] = {
    Dense: _dense,
    Scalar: _scalar,
    Codebooks: _codebooks,
    Projected: _projected,
    Sum: _sum,
    Columns: _columns,
    Rows: _rows,
}
