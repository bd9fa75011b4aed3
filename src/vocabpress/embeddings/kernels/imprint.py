"""Whether numbers are what they were, however they were written: a hash of the bytes of tensors.

Optimisers with fused steps, writes through ``.data``, averages and swaps of whole parameters leave no trace that torch
counts (`Tensor._version`), so what was made of numbers is kept only as long as their bytes are the same.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.nn.functional import pad

from vocabpress.embeddings.kernels.compiling import HAVE_NUMBA
from vocabpress.embeddings.kernels.loops import hash_bytes

PIECE = 2**17  # bytes of large codes that one look takes; a nearest cache holds them
Hash = Callable[[], object]


class Imprint:
    """The bytes of tensors as they are now, to be compared with later ones.

    Args:
        tensors: Looked at as a whole at every look.
        codes: Integers, which no optimiser writes. What torch counts of writes to large ones is looked at, and on the
            processor one piece in turn, so that whoever exchanges all of them is seen at the next look, and whoever
            writes a few at one of the next. On another device a look at their bytes would wait for it.
    """

    def __init__(self, tensors: Iterable[Tensor], codes: Iterable[Tensor] = ()) -> None:
        given = list(codes)
        large = [tensor for tensor in given if tensor.nbytes > PIECE or tensor.device.type != "cpu"]
        small = [tensor for tensor in given if not any(tensor is other for other in large)]
        self._whole = hash_of([*tensors, *small])
        here = [tensor for tensor in large if tensor.device.type == "cpu"]
        self._pieces = [hash_of([piece]) for tensor in here for piece in _bytes(tensor).split(PIECE)]
        self._counted = [tensor for tensor in large if not tensor.is_inference()]  # whose writes are counted
        self._was = self._whole(), [piece() for piece in self._pieces], self._versions()
        self._looks = count()

    def holds(self) -> bool:
        """Whether the bytes are the same; the tensors must lie where they lay."""
        whole, pieces, versions = self._was
        if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
            return True  # a CUDA graph holds what was there when it was made, and must not wait for the device
        if self._whole() != whole or self._versions() != versions:
            return False
        turn = next(self._looks) % len(pieces) if pieces else None
        return turn is None or self._pieces[turn]() == pieces[turn]

    def _versions(self) -> list[int]:
        return [tensor._version for tensor in self._counted]


def hash_of(tensors: Sequence[Tensor]) -> Hash:
    """A call that hashes the bytes of tensors as they are then, in one loop where all are on the processor."""
    looped = HAVE_NUMBA and all(tensor.device.type == "cpu" and tensor.is_contiguous() for tensor in tensors)
    if not looped:
        return lambda: [_torch_hash(tensor) for tensor in tensors]
    held = [tensor.detach() for tensor in tensors]  # so that what the addresses point at stays
    addresses = numpy.array([tensor.data_ptr() for tensor in held], numpy.int64)
    sizes = numpy.array([tensor.nbytes for tensor in held], numpy.int64)

    def hashed(_: Any = held) -> int:
        return int(hash_bytes(addresses, sizes))

    return hashed


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def _torch_hash(tensor: Tensor) -> int:
    """On any device: a sum of the words of 8 bytes, each times an odd number of its own."""
    flat = _bytes(tensor)
    words = pad(flat, (0, -len(flat) % 8)).view(torch.int64)
    odd = (2 * torch.arange(len(words), device=words.device) + 1) * 0x1E37_79B9_7F4A_7C15
    return int((words * odd).sum())
