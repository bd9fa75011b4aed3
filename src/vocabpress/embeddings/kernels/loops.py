"""Compiled loops for the processor, by numba, where that is installed (the `fast` extra): rows, and looks at bytes.

They work on arrays that are known to fit together: a byte is read only where a form's constructor has seen to it that
there is one, and ids are checked once, by `inside`. No loop holds Python's lock.
"""

from typing import Any, NamedTuple

import numpy

from vocabpress.embeddings.kernels.compiling import carray, compiled, pointer_to

LANES = 16  # vectors that are turned side by side
ZERO, DENSE, SCALAR, CODEBOOKS, TRELLIS = range(5)  # how a leaf is coded


class Leaf(NamedTuple):
    """Neighbouring columns of a block of rows, coded in one way; addresses are of memory that somebody else owns."""

    kind: int
    column: int  # the first, in the row of the table
    columns: int
    codes: int = 0  # address of the packed codes
    stride: int = 0  # bytes of a row of them
    bits: int = 0  # a code's; TRELLIS: a state's
    values: int = 0  # address of rows, scales or words, float32
    size: int = 0  # how many
    step: int = 0  # values from one row to the next; none where all rows share them
    width: int = 0  # SCALAR: columns that share a scale; CODEBOOKS: columns of a word; TRELLIS: bits of a row
    more: int = 0  # address of int64: of CODEBOOKS the first word of each code's book, of TRELLIS the runs
    length: int = 0  # how many


@compiled
def hash_at(address: int, size: int) -> Any:
    """A number of 64 bits that depends on each of the bytes at an address: a byte that changes alone changes it."""
    lanes, prime = numpy.zeros(8, numpy.uint64), numpy.uint64(0x9E3779B97F4A7C15)
    words = carray(pointer_to(address), size >> 3, numpy.uint64)
    whole = len(words) >> 3
    for line in range(whole):
        for lane in range(8):
            lanes[lane] = (lanes[lane] ^ words[8 * line + lane]) * prime
    for word in range(8 * whole, len(words)):
        lanes[word & 7] = (lanes[word & 7] ^ words[word]) * prime
    last = carray(pointer_to(address), size, numpy.uint8)
    for byte in range(size & ~7, size):
        lanes[byte & 7] = (lanes[byte & 7] ^ numpy.uint64(last[byte])) * prime
    total = numpy.uint64(size)
    for lane in range(8):
        total = ((total ^ lanes[lane]) * prime) ^ (lanes[lane] >> numpy.uint64(32))
    return total


@compiled
def same_bytes(addresses: Any, sizes: Any, hashes: Any) -> bool:
    """Whether the bytes at some addresses, int64 (n), still have their hashes, uint64 (n)."""
    same = True
    for place in range(len(addresses)):
        same &= hash_at(addresses[place], sizes[place]) == hashes[place]
    return same


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
def find(token: int, block_of: Any, bits: int, counts: Any, chunk: int) -> Any:
    """The block of a token and its row there; see `read_rows`."""
    block, row = 0, numpy.int64(token)
    if bits > 0:
        block = code_at(block_of, token, bits)
        row = numpy.int64(counts[token // chunk, block])
        for other in range(token - token % chunk, token):
            row += code_at(block_of, other, bits) == block
    else:
        while block + 1 < counts.shape[1] and counts[0, block + 1] <= token:
            block += 1
        row -= counts[0, block]
    return block, row


@compiled
def find_all(block_of: Any, bits: int, counts: Any, chunk: int, ids: Any, blocks: Any, rows: Any) -> None:
    """The block of each id and its row there, which are written, (n) each; see `read_rows`."""
    for place in range(len(ids)):
        blocks[place], rows[place] = find(ids[place], block_of, bits, counts, chunk)


@compiled
def read_rows(block_of: Any, bits: int, counts: Any, chunk: int, bounds: Any, leaves: Any, ids: Any, out: Any) -> None:
    """Rows of blocks of leaves.

    Args:
        block_of: The packed map from token to block, uint8.
        bits: How many a block's number has; 0 where blocks lie one after another.
        counts: Tokens of each block before every ``chunk``-th token, int32 (chunks, blocks); without a map the first
            token of each block, (1, blocks).
        chunk: Tokens.
        bounds: Leaves before each block, and all of them, int64 (blocks + 1).
        leaves: A `Leaf` a line, int64.
        ids: (n).
        out: (n, columns), float32, is written.
    """
    start, row_bytes = out.ctypes.data, 4 * out.shape[1]
    for place in range(len(ids)):
        block, row = find(ids[place], block_of, bits, counts, chunk)
        for number in range(bounds[block], bounds[block + 1]):
            kind, column, columns, codes, stride, size_of, values, size, step, width, more, length = leaves[number]
            own = carray(pointer_to(start + place * row_bytes + 4 * column), columns, numpy.float32)
            stream = carray(pointer_to(codes + row * stride), stride, numpy.uint8)
            numbers = carray(pointer_to(values + 4 * row * step), size, numpy.float32)
            extra = carray(pointer_to(more), length, numpy.int64)
            if kind == SCALAR:
                read_scalar(stream, size_of, numbers, width, own)
            elif kind == CODEBOOKS:
                read_codebooks(stream, size_of, numbers, width, extra, own)
            elif kind == TRELLIS:
                read_trellis(stream, size_of, width, numbers, extra, own)
            elif kind == DENSE:
                own[:] = numbers
            else:
                own[:] = 0


@compiled
def join_tiles(tiles: Any, strips: Any, places: Any, columns: int, out: Any) -> None:
    """Rows of a matrix from its tiles.

    Args:
        tiles: Those of some strips of rows, strip by strip, (strips * tiles of a strip, rows of a tile * columns).
        strips: The strip of each row, int64 (n).
        places: The row in the strip, int64 (n).
        columns: Of a tile.
        out: (n, d), is written.
    """
    width = out.shape[1]
    across = (width + columns - 1) // columns
    for row in range(len(strips)):
        start = places[row] * columns
        for tile in range(across):
            first, source = tile * columns, tiles[strips[row] * across + tile]
            for column in range(min(columns, width - first)):
                out[row, first + column] = source[start + column]


@compiled
def turn_back(matrix: Any, by_rows: bool, block: int, cosines: Any, factors: Any, first: int, last: int) -> None:
    """Undo `rotated.rotate` of rows or columns of a matrix, in place.

    Args:
        matrix: float32, is written.
        by_rows: Whether vectors are its rows.
        block: Size of the Hadamard blocks.
        cosines: Mixes neighbouring blocks, float32 (blocks, blocks).
        factors: Of the entries of a vector, at the end.
        first: The first `LANES` vectors that are turned.
        last: Those after the last.
    """
    length = len(factors)
    strip, mixed = numpy.zeros((2, length * LANES), numpy.float32)
    for number in range(first, last):
        start = number * LANES
        count = min(LANES, (matrix.shape[0] if by_rows else matrix.shape[1]) - start)
        if by_rows:
            turn_in(matrix[start : start + count], strip)
        else:
            for place in range(length):
                for lane in range(count):
                    strip[place * LANES + lane] = matrix[place, start + lane]
        turn_strip(strip, block * LANES)
        if len(cosines) > 1:
            mix_strip(strip, block * LANES, cosines, mixed)
        result = mixed if len(cosines) > 1 else strip
        if by_rows:
            turn_out(result, factors, matrix[start : start + count])
        else:
            for place in range(length):
                for lane in range(count):
                    matrix[place, start + lane] = result[place * LANES + lane] * factors[place]


@compiled
def turn_in(rows: Any, strip: Any) -> None:
    """Up to `LANES` rows, (n, length), side by side into a strip; by squares, since rows may share lines of a cache."""
    length = rows.shape[1]
    for first in range(0, length, LANES):
        for lane in range(len(rows)):
            for place in range(first, min(first + LANES, length)):
                strip[place * LANES + lane] = rows[lane, place]


@compiled
def turn_out(strip: Any, factors: Any, rows: Any) -> None:
    """The other way than `turn_in`, times factors, (length)."""
    length = rows.shape[1]
    for first in range(0, length, LANES):
        for lane in range(len(rows)):
            for place in range(first, min(first + LANES, length)):
                rows[lane, place] = strip[place * LANES + lane] * factors[place]


@compiled
def turn_strip(strip: Any, block: int) -> None:
    """Hadamard transforms of blocks of some vectors side by side, (length * LANES), in place."""
    half = LANES
    while half < block:
        for start in range(0, len(strip), 2 * half):
            one, other = strip[start : start + half], strip[start + half : start + 2 * half]  # which are vectorised
            for place in range(half):
                left, right = one[place], other[place]
                one[place], other[place] = left + right, left - right
        half *= 2


@compiled
def mix_strip(strip: Any, block: int, cosines: Any, out: Any) -> None:
    """Blocks of some vectors side by side, (blocks * block), times the transposed cosines, (blocks, blocks)."""
    out[:] = 0
    for target in range(len(cosines)):
        total = out[target * block : (target + 1) * block]
        for source in range(len(cosines)):
            weight, own = cosines[source, target], strip[source * block : (source + 1) * block]
            for place in range(block):
                total[place] += weight * own[place]


@compiled
def read_scalar(stream: Any, bits: int, scales: Any, group: int, out: Any) -> None:
    """A row of integers as levels from -1 to 1, times scales, one for each ``group`` columns."""
    step, one = numpy.float32(2 / ((1 << bits) - 1)), numpy.float32(1)
    if bits == 8 and len(scales) == 1:
        for column in range(len(out)):
            out[column] = (numpy.float32(stream[column]) * step - one) * scales[0]
    else:
        for column in range(len(out)):
            level = numpy.float32(code_at(stream, column, bits)) * step - one
            out[column] = level * scales[column // group]


@compiled
def read_codebooks(stream: Any, bits: int, words: Any, width: int, books: Any, out: Any) -> None:
    """A row of codes into books: pieces side by side, each the sum of its stages' words, (words * width)."""
    segments = len(out) // width
    for place in range(len(books)):
        word, first = (books[place] + code_at(stream, place, bits)) * width, place % segments * width
        if place < segments:
            out[first : first + width] = 0
        if width == 8:  # the usual one: a loop whose length is known takes a third of the time
            for column in range(8):
                out[first + column] += words[word + column]
        else:
            piece, own = out[first : first + width], words[word : word + width]
            for column in range(width):
                piece[column] += own[column]


@compiled
def read_trellis(stream: Any, memory: int, row_bits: int, scales: Any, runs: Any, out: Any) -> None:
    """A row of trellis codes, ``memory`` bits a state.

    Each of the ``runs`` is its columns, bits, width, and the address of what a state stands for at that width, float32.
    """
    length, mask = len(stream), (1 << memory) - 1
    end, column, state = 0, 0, 0
    for bit in range(row_bits - memory, row_bits):  # the ring: before the first bit comes the last
        state = state >> 1 | (stream[bit >> 3] >> (bit & 7) & 1) << (memory - 1)
    for run in range(len(scales)):
        columns, bits, width, words = runs[4 * run], runs[4 * run + 1], runs[4 * run + 2], runs[4 * run + 3]
        if bits == 0:
            out[column : column + columns] = 0.0
            column += columns
            continue
        table = carray(pointer_to(words), width << memory, numpy.float32)
        for _ in range(columns // width):
            place = end >> 3
            window = numpy.int64(stream[place])
            if place + 1 < length:
                window |= numpy.int64(stream[place + 1]) << 8
            fresh = window >> (end & 7) & ((1 << bits) - 1)
            state = (state >> bits | fresh << (memory - bits)) & mask
            end += bits
            for word in range(width):
                out[column + word] = table[state * width + word] * scales[run]
            column += width
