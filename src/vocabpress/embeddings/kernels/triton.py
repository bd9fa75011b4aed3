"""The kernels themselves, in Triton: a program for each token finds its block and row, and reads the row's pieces.

Everything a program must know it loads from the records of `pieces.py`; nothing of a table but the dtype is
compiled in. Sums and products are made in float32, and rounded where plain torch rounds.
"""

# The names of a kernel are Triton's: constants are compiled in, all else are pointers and numbers on the device.
# ruff: noqa: ANN001, ANN201, ANN202, N803

import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]

from vocabpress.embeddings.kernels.pieces import Kind, Piece
from vocabpress.embeddings.rows import CHUNK
from vocabpress.embeddings.trellis import INCREMENT, MULTIPLIER

_CHUNK, _MULTIPLIER, _INCREMENT = tl.constexpr(CHUNK), tl.constexpr(MULTIPLIER), tl.constexpr(INCREMENT)
_DENSE, _SCALAR, _CODEBOOKS, _TRELLIS = (
    tl.constexpr(int(kind)) for kind in (Kind.DENSE, Kind.SCALAR, Kind.CODEBOOKS, Kind.TRELLIS)
)
(
    _KIND, _COLUMN, _COLUMNS, _CODES, _STRIDE, _VALUES, _BITS, _WIDTH, _GROUPS,
    _SEGMENTS, _STAGES, _BOOKS, _START, _ROW_BITS, _MEMORY, _STATES,
) = (tl.constexpr(place) for place in range(len(Piece._fields)))  # fmt: skip
_FIELDS = tl.constexpr(len(Piece._fields))


@triton.jit
def read_pieces(
    ids, out, rows, width, places, length, counts, starts, blocks, bounds, records,
    MAP_BITS: tl.constexpr, BLOCKS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """The row of each id; NaN for an id that the table does not have, of which nothing is read.

    Args:
        ids: (n).
        out: (n, width).
        rows: Of the table.
        width: Of the table.
        places: The packed map from token to block, ``length`` bytes; without one anything.
        length: Of it.
        counts: Of each block's tokens before every `CHUNK`-th one, (chunks, blocks), for a map.
        starts: The first row of each block, where there is no map.
        blocks: How many.
        bounds: Of the pieces of each block, (blocks + 1).
        records: Of the pieces.
        MAP_BITS: Bits of the map for a token, 0 without a map.
        BLOCKS: A power of two, not less than ``blocks``.
        TILE: Columns at a time, a power of two.
    """
    program = tl.program_id(0).to(tl.int64)
    token = tl.load(ids + program).to(tl.int64)
    known = (token >= 0) & (token < rows)
    token = tl.where(known, token, 0)
    block, row = _find(token, places, length, counts, starts, blocks, MAP_BITS, BLOCKS)
    for piece in range(tl.load(bounds + block), tl.load(bounds + block + 1)):
        record = records + piece * _FIELDS
        kind, columns = _number(record, _KIND), _number(record, _COLUMNS)
        first = out + program * width + tl.load(record + _COLUMN)
        for start in range(0, columns, TILE):
            column = start + tl.arange(0, TILE)
            inside = column < columns
            values = tl.zeros([TILE], tl.float32)
            if kind == _TRELLIS:
                values = _trellis(record, row, column, inside, out.dtype.element_ty)
            elif kind == _CODEBOOKS:
                values = _codebooks(record, row, column, inside, out.dtype.element_ty)
            elif kind == _SCALAR:
                values = _scalar(record, row, column, inside, out.dtype.element_ty)
            elif kind == _DENSE:
                values = _dense(record, row, column, inside, out.dtype.element_ty)
            values = tl.where(known, values, float("nan"))
            tl.store(first + column, values.to(out.dtype.element_ty), mask=inside)


@triton.jit
def find_rows(
    ids, of_block, of_row, rows, places, length, counts, starts, blocks, MAP_BITS: tl.constexpr, BLOCKS: tl.constexpr
):
    """The block of each id and its row there, both (n); row -1 of block 0 for an id that the table does not have."""
    program = tl.program_id(0).to(tl.int64)
    token = tl.load(ids + program).to(tl.int64)
    known = (token >= 0) & (token < rows)
    block, row = _find(tl.where(known, token, 0), places, length, counts, starts, blocks, MAP_BITS, BLOCKS)
    tl.store(of_block + program, tl.where(known, block, 0))
    tl.store(of_row + program, tl.where(known, row, -1))


@triton.jit
def _find(token, places, length, counts, starts, blocks, MAP_BITS: tl.constexpr, BLOCKS: tl.constexpr):
    """The block of a token and its row there, by the map from the nearest counted token on, or by blocks' starts."""
    if MAP_BITS > 0:
        inside, own, chunk = tl.arange(0, _CHUNK), token % _CHUNK, token // _CHUNK
        bit = (chunk * _CHUNK + inside) * MAP_BITS
        codes = _bits(places, length, bit, MAP_BITS, bit < length * 8, False)
        block = tl.sum(tl.where(inside == own, codes, 0))
        earlier = tl.sum(((codes == block) & (inside < own)).to(tl.int32))
        row = tl.load(counts + chunk * blocks + block).to(tl.int64) + earlier
    else:
        index = tl.arange(0, BLOCKS)
        first = tl.load(starts + index, mask=index < blocks, other=1 << 62)
        block = tl.sum((first <= token).to(tl.int32)) - 1
        row = token - tl.load(starts + block)
    return block, row


@triton.jit
def _bits(codes, length, bit, count, mask, WIDE: tl.constexpr):
    """``count`` bits, at most 8, or 16 if wide, of a row of ``length`` bytes from each bit on."""
    place = bit >> 3
    window = tl.load(codes + place, mask=mask, other=0).to(tl.int32)
    window |= tl.load(codes + place + 1, mask=mask & (place + 1 < length), other=0).to(tl.int32) << 8
    if WIDE:
        window |= tl.load(codes + place + 2, mask=mask & (place + 2 < length), other=0).to(tl.int32) << 16
    return (window >> (bit & 7).to(tl.int32)) & ((1 << count) - 1)


@triton.jit
def _number(record, FIELD: tl.constexpr):
    return tl.load(record + FIELD).to(tl.int32)  # what is divided should be short


@triton.jit
def _pointer(record, FIELD: tl.constexpr, DTYPE: tl.constexpr):
    return tl.load(record + FIELD).to(tl.pointer_type(DTYPE))


@triton.jit
def _row(record, row):
    """Where the codes of a row begin, and how many bytes they are."""
    length = _number(record, _STRIDE)
    return _pointer(record, _CODES, tl.uint8) + row * length, length


@triton.jit
def _dense(record, row, column, inside, DTYPE: tl.constexpr):
    values = _pointer(record, _VALUES, DTYPE) + row * tl.load(record + _STRIDE)
    return tl.load(values + column, mask=inside, other=0).to(tl.float32)


@triton.jit
def _scalar(record, row, column, inside, DTYPE: tl.constexpr):
    codes, length = _row(record, row)
    bits = _number(record, _BITS)
    code = _bits(codes, length, column * bits, bits, inside, False).to(tl.float32)
    levels = code * tl.div_rn(tl.full([], 2.0, tl.float32), ((1 << bits) - 1).to(tl.float32))
    levels = (levels.to(DTYPE).to(tl.float32) - 1.0).to(DTYPE).to(tl.float32)
    scales = _pointer(record, _VALUES, DTYPE) + row * tl.load(record + _GROUPS)
    return levels * tl.load(scales + column // _number(record, _WIDTH), mask=inside, other=0).to(tl.float32)


@triton.jit
def _codebooks(record, row, column, inside, DTYPE: tl.constexpr):
    codes, length = _row(record, row)
    bits, width = _number(record, _BITS), _number(record, _WIDTH)
    segments, books = _number(record, _SEGMENTS), _number(record, _BOOKS)
    words = _pointer(record, _VALUES, DTYPE) + column % width
    segment = column // width
    values = tl.zeros(column.shape, tl.float32)
    for stage in range(_number(record, _STAGES)):
        code = _bits(codes, length, (stage * segments + segment) * bits, bits, inside, False)
        word = ((stage * books + segment % books) << bits) + code  # one book for all segments, or one for each
        values += tl.load(words + word.to(tl.int64) * width, mask=inside, other=0).to(tl.float32)
    return values


@triton.jit
def _trellis(record, row, column, inside, DTYPE: tl.constexpr):
    """Words of the states: the columns are read side by side, for a state is the bits of the ring that end there."""
    codes, length = _row(record, row)
    bits, width, memory = _number(record, _BITS), _number(record, _WIDTH), _number(record, _MEMORY)
    row_bits = _number(record, _ROW_BITS)
    bit = _number(record, _START) + (column // width + 1) * bits - memory
    bit = tl.where(bit < 0, bit + row_bits, bit)  # the last bits of the ring come before its first
    own = tl.minimum(row_bits - bit, memory)  # bits until the ring closes
    begin = _bits(codes, length, column * 0, memory, inside, True)
    state = _bits(codes, length, bit, own, inside, True) | ((begin & ((1 << (memory - own)) - 1)) << own)
    mixed = (state * width + column % width).to(tl.uint32) * _MULTIPLIER + _INCREMENT
    total = (mixed & 255) + ((mixed >> 8) & 255) + ((mixed >> 16) & 255) + (mixed >> 24)
    word = tl.div_rn((total.to(tl.int32) - 510).to(tl.float32), 147.8).to(DTYPE)
    return word.to(tl.float32) * tl.load(_pointer(record, _VALUES, DTYPE)).to(tl.float32)
