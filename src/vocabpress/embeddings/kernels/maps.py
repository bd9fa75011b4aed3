"""How loops read the forms that change the entries of another form: `Tiles`, `Rotated` and `Scaled`, as maps have them.

A decoder is made from that of the form inside.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy
import torch
from torch import Tensor

from vocabpress.embeddings import CompressedEmbedding, Projected, Rotated, Scaled, Tiles
from vocabpress.embeddings.kernels.loops import LANES, turn_back
from vocabpress.embeddings.kernels.threads import in_threads
from vocabpress.embeddings.rotated import OF_COLUMNS, OF_ROWS, blocks_of, cosines, signs

Decode = Callable[[Any, Any], Any]
"""Writes rows, float32 (n, d), for ids, int64 (n)."""
Score = Callable[[Any], Any]
"""From vectors, float32 (n, d), to their inner products with all rows, float32 (n, V)."""
SHARE = 64  # rows that are worth a thread


def floats(tensor: Tensor) -> Any:
    """Numbers as float32, (…), side by side; a view where they are that already."""
    return tensor.detach().float().contiguous().numpy()


def rows_by(decode: Decode, ids: Any, columns: int) -> Any:
    """Rows that a decoder writes, float32 (n, columns)."""
    rows = numpy.empty((len(ids), columns), numpy.float32)
    decode(ids, rows)
    return rows


def has_products(form: CompressedEmbedding) -> bool:
    """Whether torch decodes a part of a form, in threads of its own."""
    return any(isinstance(part, Projected | Rotated) for part in form.modules())


def read_whole(form: CompressedEmbedding) -> bool:
    """Whether one row of a form takes as long as all of them."""
    return any(isinstance(part, Rotated) for part in form.modules())


def tiles_decoder(form: Tiles, inner: Decode) -> Decode:
    """Rows of the tiles that they lie in; each tile is decoded once a call."""
    rows, columns, across = form.rows, form.columns, form.across

    def decode(ids: Any, out: Any) -> None:
        strips, place = numpy.unique(ids // rows, return_inverse=True)
        numbers = (strips[:, None] * across + numpy.arange(across)).reshape(-1)
        tiles = rows_by(inner, numbers, rows * columns).reshape(-1, across, rows, columns)
        out[:] = tiles[place, :, ids % rows].reshape(len(ids), across * columns)[:, : out.shape[1]]

    return decode


def rotated_decoder(form: Rotated, inner: Decode) -> Decode:
    """The whole matrix, whatever rows are asked for."""
    every, shape, seed = numpy.arange(form.num_embeddings), (form.num_embeddings, form.embedding_dim), form.seed
    least = len(every) if has_products(form.inner) else SHARE
    turns = [_turning(shape[0], seed, OF_ROWS, False), _turning(shape[1], seed, OF_COLUMNS, True)]

    def decode(ids: Any, out: Any) -> None:
        whole = out if numpy.array_equal(ids, every) else numpy.empty(shape, numpy.float32)
        in_threads(lambda first, last: inner(every[first:last], whole[first:last]), len(every), least)
        for turn in turns:
            turn(whole)
        if whole is not out:
            out[:] = whole[ids]

    return decode


def _turning(length: int, seed: int, stream: int, by_rows: bool) -> Callable[[Any], None]:
    """How one side of a matrix is rotated back in place: its columns, each of them ``length``, or its rows."""
    block, blocks = blocks_of(length)
    factors = floats(signs(seed, stream, torch.zeros(length)) / math.sqrt(block))
    mixed = floats(cosines(blocks, torch.device("cpu")))

    def turn(matrix: Any) -> None:
        strips = -(-matrix.shape[0 if by_rows else 1] // LANES)
        in_threads(lambda first, last: turn_back(matrix, by_rows, block, mixed, factors, first, last), strips, 1)

    return turn


def scaled_decoder(form: Scaled, inner: Decode) -> Decode:
    """Rows, scaled where they were written."""
    of_rows, of_columns = (None if own is None else floats(own) for own in (form.rows, form.columns))

    def decode(ids: Any, out: Any) -> None:
        inner(ids, out)
        if of_columns is not None:
            out *= of_columns
        if of_rows is not None:
            out *= of_rows[ids, None]

    return decode
