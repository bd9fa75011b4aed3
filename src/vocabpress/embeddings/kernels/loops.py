"""Compiled loops for the processor, by numba, where that is installed (the `fast` extra): rows.

They work on arrays that are known to fit together: a byte is read only where a form's constructor has seen to it that
there is one, and ids are checked once, by `inside`. No loop holds Python's lock.
"""

from typing import Any

import numpy

from vocabpress.embeddings.kernels.compiling import carray, compiled, pointer_to


@compiled
def hash_bytes(addresses: Any, sizes: Any) -> Any:
    """A number of 64 bits that depends on each of the bytes at some addresses: a byte that changes alone changes it.

    Args:
        addresses: (n), int64.
        sizes: (n), bytes at each of them.
    """
    lanes, prime = numpy.zeros(8, numpy.uint64), numpy.uint64(0x9E3779B97F4A7C15)
    for place in range(len(addresses)):
        words = carray(pointer_to(addresses[place]), sizes[place] >> 3, numpy.uint64)
        whole = len(words) >> 3
        for line in range(whole):
            for lane in range(8):
                lanes[lane] = (lanes[lane] ^ words[8 * line + lane]) * prime
        for word in range(8 * whole, len(words)):
            lanes[word & 7] = (lanes[word & 7] ^ words[word]) * prime
        last = carray(pointer_to(addresses[place]), sizes[place], numpy.uint8)
        for byte in range(sizes[place] & ~7, sizes[place]):
            lanes[byte & 7] = (lanes[byte & 7] ^ numpy.uint64(last[byte])) * prime
    total = numpy.uint64(len(addresses))
    for lane in range(8):
        total = ((total ^ lanes[lane]) * prime) ^ (lanes[lane] >> numpy.uint64(32))
    return total


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
