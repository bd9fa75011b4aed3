"""Compiled loops for the processor, by numba, where that is installed (the `fast` extra).

Each does what the plain torch beside it does in one pass over the codes: rows to the bit, sums in another order. They
serve tensors on the CPU that ask for no gradient; graphs that are compiled or exported are made of the plain torch.
"""

import importlib.util
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy
import torch
from torch import Tensor, nn

Loop = Callable[..., Any]


def _plain(loop: Loop) -> Loop:
    return loop


HAVE_NUMBA = importlib.util.find_spec("numba") is not None
if HAVE_NUMBA:
    from numba import njit

    _compiled: Callable[[Loop], Loop] = njit(nogil=True, cache=True)
else:
    _compiled = _plain


def serves(*tensors: Tensor) -> bool:
    """Whether the loops can be used here: numba is there, all is on the processor, and nobody asks for a gradient.

    Tensors of other types may have no numbers, as those of a fake mode.
    """
    return (
        HAVE_NUMBA
        and not torch.compiler.is_compiling()
        and all(tensor.device.type == "cpu" and type(tensor) in (Tensor, nn.Parameter) for tensor in tensors)
        and not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))
    )


def read_trellis(
    codes: Tensor, ids: Tensor, runs: Sequence[tuple[int, int, int]], tables: Sequence[Tensor], scales: Tensor
) -> Tensor:
    """Rows of trellis codes, float32, shape (n, columns).

    Args:
        codes: (V, bytes of a row), uint8.
        ids: (n).
        runs: Columns, bits and width of each.
        tables: For each width, from 1 on, what a state stands for, (states, width); empty where no run has that width.
        scales: Of the runs, (runs).

    Raises:
        IndexError: If an id is out of range: the loop would read beyond the codes.
    """
    _check_ids(ids, len(codes))
    shapes = numpy.array(runs, dtype=numpy.int64)
    memory = max(len(table) for table in tables).bit_length() - 1
    starts = numpy.cumsum([0, *(table.numel() for table in tables)])
    flat = _joined(tuple(tables))
    out = torch.empty(len(ids), int(shapes[:, 0].sum()))
    row_bits = int((shapes[:, 0] // shapes[:, 2] * shapes[:, 1]).sum())
    scaled = scales.detach().float().numpy()
    _read_trellis(codes.numpy(), ids.numpy(), shapes, flat, starts, scaled, memory, row_bits, out.numpy())
    return out


@lru_cache(maxsize=32)
def _joined(tables: tuple[Tensor, ...]) -> Any:
    """Tables one after another, float32; those of a trellis are kept, so that the same ones come again."""
    return torch.cat([table.float().flatten() for table in tables]).numpy()


def read_scalar(codes: Tensor, ids: Tensor, bits: int, columns: int, scales: Tensor, group: int) -> Tensor:
    """Rows of integers of ``bits`` bits as levels from -1 to 1, times scales; float32, shape (n, columns).

    Args:
        codes: (V, bytes of a row), uint8.
        ids: (n).
        bits: Of a code.
        columns: Codes in a row.
        scales: (V or 1, groups): those of the row, or of all rows.
        group: Neighbours that share a scale.

    Raises:
        IndexError: If an id is out of range.
    """
    _check_ids(ids, len(codes))
    out = torch.empty(len(ids), columns)
    step = numpy.float32(2 / (2**bits - 1))
    _read_scalar(codes.numpy(), ids.numpy(), bits, step, scales.detach().float().numpy(), group, out.numpy())
    return out


@_compiled
def _read_scalar(codes: Any, ids: Any, bits: int, step: Any, scales: Any, group: int, out: Any) -> None:
    length, mask, one = codes.shape[1], (1 << bits) - 1, numpy.float32(1)
    for row in range(len(ids)):
        token = ids[row]
        stream, own = codes[token], scales[token if len(scales) > 1 else 0]
        for column in range(out.shape[1]):
            start = column * bits
            window = numpy.int64(stream[start >> 3])
            if (start >> 3) + 1 < length:
                window |= numpy.int64(stream[(start >> 3) + 1]) << 8
            level = numpy.float32(window >> (start & 7) & mask) * step - one
            out[row, column] = level * own[column // group]


def _check_ids(ids: Tensor, rows: int) -> None:
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < rows:
        raise IndexError(f"ids lie in 0 … {rows - 1}, got {int(ids.min())} … {int(ids.max())}")


@_compiled
def _read_trellis(
    codes: Any, ids: Any, runs: Any, tables: Any, starts: Any, scales: Any, memory: int, row_bits: int, out: Any
) -> None:
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


def sum_tables(codes: Tensor, tables: Tensor) -> Tensor:
    """For every row of codes the sum of what they pick from their tables, float32, shape (n, V).

    Args:
        codes: (V, places), uint8, below K.
        tables: (n, places, K): for each of n vectors what the values of a code stand for.
    """
    out = torch.empty(len(tables), len(codes))
    _sum_tables(codes.contiguous().numpy(), tables.float().contiguous().numpy(), out.numpy())
    return out


@_compiled
def _sum_tables(codes: Any, tables: Any, out: Any) -> None:
    rows, places = codes.shape
    whole = rows - rows % 4
    for vector in range(len(tables)):
        table = tables[vector]
        for row in range(0, whole, 4):  # four sums at a time: each waits for its own last addition alone
            first = second = third = fourth = numpy.float32(0)
            for place in range(places):
                first += table[place, codes[row, place]]
                second += table[place, codes[row + 1, place]]
                third += table[place, codes[row + 2, place]]
                fourth += table[place, codes[row + 3, place]]
            out[vector, row], out[vector, row + 1] = first, second
            out[vector, row + 2], out[vector, row + 3] = third, fourth
        for row in range(whole, rows):
            total = numpy.float32(0)
            for place in range(places):
                total += table[place, codes[row, place]]
            out[vector, row] = total
