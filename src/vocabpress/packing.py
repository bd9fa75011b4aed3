"""Pack integers of 1 to 8 bits into bytes, and unpack them.

A row of ``n`` codes of ``bits`` bits each takes ``ceil(n * bits / 8)`` bytes. Code ``i`` occupies the bits
``i * bits … (i + 1) * bits - 1`` of the row, least significant bit first; the spare bits of the last byte are zero.
Each row begins with a new byte, so that it is gathered by one contiguous read.

Example, 3 bits, the codes 1, 2, 7: bits 100 010 111 (least significant first) are the bytes 0b11010001, 0b00000001.
"""

import math

import torch
from torch import Tensor

MAX_BITS = 8


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that ``count`` codes of ``bits`` bits take.

    Raises:
        ValueError: If ``bits`` is not 1 to 8.
    """
    if not 1 <= bits <= MAX_BITS:
        raise ValueError(f"codes have 1 to {MAX_BITS} bits, got {bits}")
    return (count * bits + 7) // 8


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack integers into bytes along the last axis.

    Args:
        codes: Integers from 0 to ``2**bits - 1``, any integer dtype, shape (…, n).
        bits: Width of one code, 1 to 8.

    Returns:
        uint8, shape (…, ceil(n * bits / 8)).

    Raises:
        ValueError: If a code is outside its range, or ``bits`` is not 1 to 8.
    """
    count = codes.shape[-1]
    length = packed_bytes(count, bits)
    if codes.numel() and not codes.is_meta and (int(codes.min()) < 0 or int(codes.max()) >= 2**bits):
        raise ValueError(f"codes of {bits} bits lie in 0 … {2**bits - 1}, got {int(codes.min())} … {int(codes.max())}")
    shifts = torch.arange(bits, device=codes.device, dtype=torch.uint8)
    stream = ((codes.to(torch.uint8)[..., None] >> shifts) & 1).flatten(-2)
    stream = torch.nn.functional.pad(stream, (0, 8 * length - count * bits))
    places = torch.arange(8, device=codes.device, dtype=torch.uint8)
    return (stream.unflatten(-1, (length, 8)) << places).sum(-1, dtype=torch.uint8)


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """Undo :func:`pack`.

    Args:
        packed: uint8, shape (…, ceil(count * bits / 8)).
        bits: Width of one code, 1 to 8.
        count: Codes per row.

    Returns:
        uint8, shape (…, count).

    Raises:
        ValueError: If the last axis does not have the length that ``count`` codes take.
    """
    if packed.shape[-1] != packed_bytes(count, bits):
        raise ValueError(f"{count} codes of {bits} bits take {packed_bytes(count, bits)} bytes, got {packed.shape[-1]}")
    if bits == MAX_BITS:
        return packed
    # The smallest group of codes that fills whole bytes is read as one number, such as 8 codes of 3 bits in 3 bytes.
    shared = math.gcd(MAX_BITS, bits)
    codes, length = MAX_BITS // shared, bits // shared
    groups = (count + codes - 1) // codes
    dtype = torch.uint8 if length == 1 else torch.int32 if length <= 3 else torch.int64
    grouped = torch.nn.functional.pad(packed, (0, groups * length - packed.shape[-1])).unflatten(-1, (groups, length))
    number = grouped[..., 0].to(dtype)
    for place in range(1, length):
        number = number | (grouped[..., place].to(dtype) << (8 * place))
    shifts = torch.arange(0, MAX_BITS * length, bits, device=packed.device, dtype=dtype)
    return ((number[..., None] >> shifts) & (2**bits - 1)).to(torch.uint8).flatten(-2)[..., :count]
