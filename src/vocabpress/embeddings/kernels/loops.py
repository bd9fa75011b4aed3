"""Compiled loops for the processor, by numba, where that is installed (the `fast` extra).

They work on arrays that are known to fit together: a byte is read only where a form's constructor has seen to it that
there is one, and ids are checked once, by `inside`. No loop holds Python's lock.
"""

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy

Loop = Callable[..., Any]
PLACES_AT_ONCE = 28  # tables of 256 floats that stay in the nearest memory while rows pass by
ROWS_AT_ONCE = 1024  # whose codes stay in the next one


def _plain(loop: Loop) -> Loop:
    return loop


HAVE_NUMBA = importlib.util.find_spec("numba") is not None
if HAVE_NUMBA:
    from numba import njit

    compiled: Callable[[Loop], Loop] = njit(nogil=True, cache=True)
    # Sums may be taken side by side; numbers that are not finite stay what they are.
    summing: Callable[[Loop], Loop] = njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
else:
    compiled = summing = _plain


@compiled
def inside(ids: Any, rows: int) -> bool:
    """Whether all ids are from 0 to ``rows - 1``."""
    least, most = 0, -1
    for token in ids:
        least, most = min(least, token), max(most, token)
    return least >= 0 and most < rows


@compiled
def code_at(stream: Any, place: int, bits: int) -> Any:
    """The ``place``-th code of ``bits`` bits in a stream of bytes."""
    start = place * bits
    window = numpy.int64(stream[start >> 3])
    if (start & 7) + bits > 8:
        window |= numpy.int64(stream[(start >> 3) + 1]) << 8
    return window >> (start & 7) & ((1 << bits) - 1)


@compiled
def read_scalar(codes: Any, ids: Any, bits: int, scales: Any, group: int, out: Any) -> None:
    """Rows of integers as levels from -1 to 1, times scales.

    Args:
        codes: (V, bytes of a row), uint8.
        ids: (n).
        bits: Of a code.
        scales: (V or 1, groups), float32: those of the row, or of all rows.
        group: Neighbours that share a scale.
        out: (n, columns), float32, is written.
    """
    step, one = numpy.float32(2 / (2**bits - 1)), numpy.float32(1)
    for row in range(len(ids)):
        token = ids[row]
        stream, own = codes[token], scales[token if len(scales) > 1 else 0]
        if bits == 8 and len(own) == 1:
            for column in range(out.shape[1]):
                out[row, column] = (numpy.float32(stream[column]) * step - one) * own[0]
        else:
            for column in range(out.shape[1]):
                level = numpy.float32(code_at(stream, column, bits)) * step - one
                out[row, column] = level * own[column // group]


@compiled
def read_codebooks(codes: Any, ids: Any, bits: int, words: Any, books: Any, segments: int, out: Any) -> None:
    """Rows of codes into books: pieces side by side, each the sum of its stages' words.

    Args:
        codes: (V, bytes of a row), uint8.
        ids: (n).
        bits: Of a code.
        words: (words, width), float32.
        books: For each code the first word of its book, stage by stage, (stages * segments).
        segments: Pieces of a row.
        out: (n, segments * width), float32, is written.
    """
    width = words.shape[1]
    for row in range(len(ids)):
        stream = codes[ids[row]]
        for place in range(len(books)):
            word, first = books[place] + code_at(stream, place, bits), place % segments * width
            if place < segments:
                out[row, first : first + width] = 0
            if width == 8:  # the usual one: a loop whose length is known takes a third of the time
                for column in range(8):
                    out[row, first + column] += words[word, column]
            else:
                for column in range(width):
                    out[row, first + column] += words[word, column]


@compiled
def read_trellis(
    codes: Any, ids: Any, runs: Any, tables: Any, starts: Any, scales: Any, memory: int, row_bits: int, out: Any
) -> None:
    """Rows of trellis codes.

    Args:
        codes: (V, bytes of a row), uint8.
        ids: (n).
        runs: Columns, bits and width of each, (runs, 3).
        tables: What a state stands for, for one width after another, float32.
        starts: Where the table of each width begins, width 1 first.
        scales: Of the runs, (runs), float32.
        memory: Bits of a state.
        row_bits: Bits of a row.
        out: (n, columns), float32, is written.
    """
    length, mask = codes.shape[1], (1 << memory) - 1
    for row in range(len(ids)):
        stream = codes[ids[row]]
        end, column, state = 0, 0, 0
        for bit in range(row_bits - memory, row_bits):  # the ring: before the first bit comes the last
            state = state >> 1 | (stream[bit >> 3] >> (bit & 7) & 1) << (memory - 1)
        for run in range(len(runs)):
            columns, bits, width = runs[run]
            if bits == 0:
                out[row, column : column + columns] = 0.0
                column += columns
                continue
            for _ in range(columns // width):
                place = end >> 3
                window = numpy.int64(stream[place])
                if place + 1 < length:
                    window |= numpy.int64(stream[place + 1]) << 8
                fresh = window >> (end & 7) & ((1 << bits) - 1)
                state = (state >> bits | fresh << (memory - bits)) & mask
                end += bits
                first = starts[width - 1] + state * width
                for word in range(width):
                    out[row, column + word] = tables[first + word] * scales[run]
                column += width


@compiled
def sort_into_blocks(ids: Any, block_of: Any, bits: int, counts: Any, chunk: int) -> Any:
    """The blocks of tokens, and their rows there.

    Args:
        ids: (n).
        block_of: The packed map, uint8.
        bits: Of a block's number.
        counts: Tokens of each block before every ``chunk``-th token, (chunks, blocks).
        chunk: Tokens.

    Returns:
        Where each block begins in what follows, (blocks + 1); the rows in the blocks, block by block, (n); and the
        places in ``ids`` that they belong to, (n).
    """
    blocks = numpy.empty(len(ids), numpy.int64)
    found = numpy.empty(len(ids), numpy.int64)
    ends = numpy.zeros(counts.shape[1] + 1, numpy.int64)
    for place in range(len(ids)):
        token = ids[place]
        block = code_at(block_of, token, bits)
        row = numpy.int64(counts[token // chunk, block])
        for other in range(token - token % chunk, token):
            row += code_at(block_of, other, bits) == block
        blocks[place], found[place] = block, row
        ends[block + 1] += 1
    ends = ends.cumsum()
    rows, places, following = numpy.empty_like(found), numpy.empty_like(found), ends.copy()
    for place in range(len(ids)):
        slot = following[blocks[place]]
        following[blocks[place]] += 1
        rows[slot], places[slot] = found[place], place
    return ends, rows, places


@compiled
def from_blocks(parts: Any, starts: Any, block_of: Any, bits: int, before: Any, first: int, out: Any) -> None:
    """Columns that lie block by block, put in the order of tokens.

    Args:
        parts: (n, V), the blocks' tokens one block after another.
        starts: Where each block begins, (blocks).
        block_of: The packed map, uint8.
        bits: Of a block's number.
        before: Tokens of each block before the first one here, (blocks).
        first: Token.
        out: (n, tokens from the first on), is written.
    """
    following = starts + before
    for column in range(out.shape[1]):
        block = code_at(block_of, first + column, bits)
        for row in range(len(out)):
            out[row, column] = parts[row, following[block]]
        following[block] += 1


@summing
def code_tables(hidden: Any, words: Any, books: Any, segments: int, bits: int, per_byte: int) -> Any:
    """Inner products of vectors with what a byte of codes stands for.

    Args:
        hidden: (n, segments * width), float32.
        words: (words, width), float32.
        books: For each code the first word of its book, stage by stage, (stages * segments).
        segments: Pieces of a row.
        bits: Of a code.
        per_byte: Codes that are read as one number, the first the lowest.

    Returns:
        (n, codes / per_byte, 2**(bits * per_byte)), float32; codes that are lacking at the end count nothing.
    """
    size, width = 1 << bits, words.shape[1]
    places = (len(books) + per_byte - 1) // per_byte
    tables = numpy.empty((len(hidden), places, size**per_byte), numpy.float32)
    own = numpy.empty(size, numpy.float32)
    for vector in range(len(hidden)):
        for code in range(places * per_byte):
            first, table, own[:] = code % segments * width, tables[vector, code // per_byte], 0
            if code < len(books):
                for word in range(size):
                    total = numpy.float32(0)
                    for column in range(width):
                        total += words[books[code] + word, column] * hidden[vector, first + column]
                    own[word] = total
            if code % per_byte == 0:
                table[:size] = own
                continue
            known = size ** (code % per_byte)  # what the codes before say; the first word overwrites it, so it is last
            for word in range(size - 1, -1, -1):
                for value in range(known):
                    table[word * known + value] = table[value] + own[word]
    return tables


@compiled
def add_bytes(codes: Any, tables: Any, out: Any) -> None:
    """For every row of bytes the sum of what they pick from their tables, added to ``out``.

    Args:
        codes: (V, places), uint8.
        tables: (n, places, 256), float32.
        out: (n, V), float32.
    """
    # Indices without a sign need no look at whether they count from the end.
    rows, places, one, table = len(codes), numpy.uint64(codes.shape[1]), numpy.uint64(1), numpy.uint64(256)
    flat = codes.reshape(-1)
    for top in range(0, rows, ROWS_AT_ONCE):
        bottom = min(top + ROWS_AT_ONCE, rows)
        whole = bottom - (bottom - top) % 4
        for left in range(0, codes.shape[1], PLACES_AT_ONCE):
            count = min(PLACES_AT_ONCE, codes.shape[1] - left)
            for vector in range(len(tables)):
                words = tables[vector].reshape(-1)
                for row in range(top, whole, 4):  # four sums at a time: each waits for its own last addition alone
                    first = second = third = fourth = numpy.float32(0)
                    at, start = numpy.uint64(row) * places + numpy.uint64(left), table * numpy.uint64(left)
                    for _ in range(count):
                        first += words[start + numpy.uint64(flat[at])]
                        second += words[start + numpy.uint64(flat[at + places])]
                        third += words[start + numpy.uint64(flat[at + places + places])]
                        fourth += words[start + numpy.uint64(flat[at + places + places + places])]
                        at, start = at + one, start + table
                    out[vector, row] += first
                    out[vector, row + 1] += second
                    out[vector, row + 2] += third
                    out[vector, row + 3] += fourth
                for row in range(whole, bottom):
                    total = numpy.float32(0)
                    for place in range(left, left + count):
                        total += words[256 * place + codes[row, place]]
                    out[vector, row] += total


@compiled
def sum_codes(codes: Any, tables: Any, bits: int, out: Any) -> None:
    """As `add_bytes`, for codes of which no whole number fills a byte; tables are (n, codes, 2**bits)."""
    for row in range(len(codes)):
        for vector in range(len(tables)):
            total = numpy.float32(0)
            for place in range(tables.shape[1]):
                total += tables[vector, place, code_at(codes[row], place, bits)]
            out[vector, row] = total


@summing
def dot_bytes(rows: Any, hidden: Any, out: Any) -> None:
    """Inner products of rows of bytes, (V, columns), with vectors, float32 (n, columns); ``out`` is (n, V)."""
    for row in range(len(rows)):
        for vector in range(len(hidden)):
            total = numpy.float32(0)
            for column in range(rows.shape[1]):
                total += numpy.float32(rows[row, column]) * hidden[vector, column]
            out[vector, row] = total


@summing
def dot_bfloat16(rows: Any, hidden: Any, out: Any) -> None:
    """As `dot_bytes`, of rows of bfloat16 as uint16, the upper half of a float32."""
    halves = numpy.empty(rows.shape[1], numpy.uint32)
    wide = halves.view(numpy.float32)
    for row in range(len(rows)):
        for column in range(rows.shape[1]):
            halves[column] = numpy.uint32(rows[row, column]) << numpy.uint32(16)
        for vector in range(len(hidden)):
            total = numpy.float32(0)
            for column in range(rows.shape[1]):
                total += wide[column] * hidden[vector, column]
            out[vector, row] = total
