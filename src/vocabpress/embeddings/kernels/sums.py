"""Compiled loops, as those of `loops.py`: inner products of vectors with all rows."""

from typing import Any

import numpy

from vocabpress.embeddings.kernels.compiling import compiled, summing
from vocabpress.embeddings.kernels.loops import code_at

PLACES_AT_ONCE = 28  # tables of 256 floats that stay in the nearest memory while rows pass by
ROWS_AT_ONCE = 1024  # whose codes stay in the next one


@summing
def word_products(words: Any, book: int, entries: Any, out: Any) -> None:
    """Inner products of a piece of a vector, (width), with words from ``book`` on, as many as ``out`` has."""
    for word in range(len(out)):
        total = numpy.float32(0)
        if len(entries) == 8:  # a number known beforehand is unrolled into one product of vectors
            for column in range(8):
                total += words[book + word, column] * entries[column]
        else:
            for column in range(len(entries)):
                total += words[book + word, column] * entries[column]
        out[word] = total


@summing
def widen(table: Any, known: int, own: Any) -> None:
    """Let the first ``known`` entries, what the lower codes of a byte say, be followed by those with each next code."""
    for word in range(len(own) - 1, -1, -1):  # the first word overwrites what is known, so it is last
        if known == 16:
            for value in range(16):
                table[16 * word + value] = table[value] + own[word]
        else:
            for value in range(known):
                table[word * known + value] = table[value] + own[word]


@summing
def code_tables(hidden: Any, words: Any, books: Any, segments: int, bits: int, per_byte: int) -> Any:
    """Inner products of vectors with what a byte of codes stands for, (n, codes / per_byte, 2**(bits * per_byte)).

    Args:
        hidden: (n, segments * width), float32.
        words: (words, width), float32.
        books: For each code the first word of its book, stage by stage, (stages * segments).
        segments: Pieces of a row.
        bits: How many a code has.
        per_byte: Codes that are read as one number, the first the lowest; lacking ones at the end count nothing.
    """
    size, width = 1 << bits, words.shape[1]
    places = (len(books) + per_byte - 1) // per_byte
    tables = numpy.empty((len(hidden), places, size**per_byte), numpy.float32)
    own = numpy.empty(size, numpy.float32)
    for vector in range(len(hidden)):
        for code in range(places * per_byte):
            first, table, own[:] = code % segments * width, tables[vector, code // per_byte], 0
            if code < len(books):
                word_products(words, books[code], hidden[vector, first : first + width], own)
            if code % per_byte == 0:
                table[:size] = own
            else:
                widen(table, size ** (code % per_byte), own)
    return tables


@compiled
def add_bytes(codes: Any, tables: Any, out: Any) -> None:
    """For every row of bytes, (V, places), the sum of what they pick from tables, (n, places, 256), added to (n, V)."""
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
def add_codes(codes: Any, tables: Any, bits: int, out: Any) -> None:
    """As `add_bytes`, for codes that do not fill whole bytes; tables are (n, codes, 2**bits)."""
    for row in range(len(codes)):
        for vector in range(len(tables)):
            total = numpy.float32(0)
            for place in range(tables.shape[1]):
                total += tables[vector, place, code_at(codes[row], place, bits)]
            out[vector, row] += total


@summing
def add_integers(rows: Any, hidden: Any, out: Any) -> None:
    """Inner products of rows of bytes, (V, columns), with vectors, float32 (n, columns), added to ``out``, (n, V)."""
    for row in range(len(rows)):
        for vector in range(len(hidden)):
            total = numpy.float32(0)
            for column in range(rows.shape[1]):
                total += numpy.float32(rows[row, column]) * hidden[vector, column]
            out[vector, row] += total


@summing
def add_nibbles(rows: Any, hidden: Any, out: Any) -> None:
    """As `add_integers`, of rows of two codes a byte; vectors for the lower codes and the upper, (n, 2, bytes)."""
    for row in range(len(rows)):
        for vector in range(len(hidden)):
            total = numpy.float32(0)
            for place in range(rows.shape[1]):
                code = rows[row, place]
                total += numpy.float32(code & 15) * hidden[vector, 0, place]
                total += numpy.float32(code >> 4) * hidden[vector, 1, place]
            out[vector, row] += total


@summing
def add_bfloat16(rows: Any, hidden: Any, out: Any) -> None:
    """As `add_integers`, of rows of bfloat16 as uint16, the upper half of a float32."""
    halves = numpy.empty(rows.shape[1], numpy.uint32)
    wide = halves.view(numpy.float32)
    for row in range(len(rows)):
        for column in range(rows.shape[1]):
            halves[column] = numpy.uint32(rows[row, column]) << numpy.uint32(16)
        for vector in range(len(hidden)):
            total = numpy.float32(0)
            for column in range(rows.shape[1]):
                total += wide[column] * hidden[vector, column]
            out[vector, row] += total
