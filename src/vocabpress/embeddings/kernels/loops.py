"""Compiled loops for the processor, by numba, where that is installed (the `fast` extra): rows, and looks at bytes.

They work on arrays that are known to fit together: a byte is read only where a form's constructor has seen to it that
there is one, and ids are checked once, by `inside`. No loop holds Python's lock.
"""

from typing import Any

import numpy

from vocabpress.embeddings.kernels.compiling import carray, compiled, pointer_to
from vocabpress.embeddings.kernels.pieces import Kind

LANES = 16  # vectors that are turned side by side
ZERO, DENSE, SCALAR, CODEBOOKS, TRELLIS = map(int, Kind)  # numbers, which loops compare


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
def read_rows(block_of: Any, bits: int, counts: Any, chunk: int, bounds: Any, pieces: Any, ids: Any, out: Any) -> None:
    """Rows of blocks of pieces.

    Args:
        block_of: The packed map from token to block, uint8.
        bits: How many a block's number has; 0 where blocks lie one after another.
        counts: Tokens of each block before every ``chunk``-th token, int32 (chunks, blocks); without a map the first
            token of each block, (1, blocks).
        chunk: Tokens.
        bounds: Pieces before each block, and all of them, int64 (blocks + 1).
        pieces: A `Piece` a line, int64; what they have addresses of is float32.
        ids: (n).
        out: (n, columns), float32, is written.
    """
    start, row_bytes = out.ctypes.data, 4 * out.shape[1]
    for place in range(len(ids)):
        block, row = find(ids[place], block_of, bits, counts, chunk)
        for number in range(bounds[block], bounds[block + 1]):
            (
                kind, column, columns, codes, stride, values, size_of, width, groups,
                segments, stages, books, before, row_bits, memory, states,
            ) = pieces[number]  # fmt: skip
            own = carray(pointer_to(start + place * row_bytes + 4 * column), columns, numpy.float32)
            stream = carray(pointer_to(codes + row * stride), stride, numpy.uint8)
            if kind == SCALAR:
                scales = carray(pointer_to(values + 4 * row * groups), (columns + width - 1) // width, numpy.float32)
                read_scalar(stream, size_of, scales, width, own)
            elif kind == CODEBOOKS:
                words = carray(pointer_to(values), (stages * books * width) << size_of, numpy.float32)
                read_codebooks(stream, size_of, words, width, segments, stages, books, own)
            elif kind == TRELLIS:
                scale = carray(pointer_to(values), 1, numpy.float32)[0]
                words = carray(pointer_to(states), width << memory, numpy.float32)
                read_trellis(stream, memory, row_bits, before, size_of, width, words, scale, own)
            elif kind == DENSE:
                own[:] = carray(pointer_to(values + 4 * row * stride), columns, numpy.float32)
            else:
                own[:] = 0


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
def read_codebooks(
    stream: Any, bits: int, words: Any, width: int, segments: int, stages: int, books: int, out: Any
) -> None:
    """A row of codes into books: pieces side by side, each the sum of its stages' words, (words * width)."""
    for stage in range(stages):
        for segment in range(segments):
            book = stage * books + (segment if books > 1 else 0)
            word = ((book << bits) + code_at(stream, stage * segments + segment, bits)) * width
            first = segment * width
            if stage == 0:
                out[first : first + width] = 0
            if width == 8:  # the usual one: a loop whose length is known takes a third of the time
                for column in range(8):
                    out[first + column] += words[word + column]
            else:
                piece, own = out[first : first + width], words[word : word + width]
                for column in range(width):
                    piece[column] += own[column]


@compiled
def read_trellis(
    stream: Any, memory: int, row_bits: int, start: int, bits: int, width: int, words: Any, scale: Any, out: Any
) -> None:
    """A run of trellis codes whose first bit is ``start``: ``bits`` new ones for each ``width`` columns."""
    length, mask, end, state = len(stream), (1 << memory) - 1, start, 0
    for bit in range(start - memory, start):
        place = bit if bit >= 0 else bit + row_bits  # the ring: before the first bit comes the last
        state = state >> 1 | (stream[place >> 3] >> (place & 7) & 1) << (memory - 1)
    for first in range(0, len(out), width):
        place = end >> 3
        window = numpy.int64(stream[place])
        if place + 1 < length:
            window |= numpy.int64(stream[place + 1]) << 8
        fresh = window >> (end & 7) & ((1 << bits) - 1)
        state = (state >> bits | fresh << (memory - bits)) & mask
        end += bits
        for word in range(width):
            out[first + word] = words[state * width + word] * scale
