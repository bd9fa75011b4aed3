"""What is prepared from a table's numbers, kept for as long as they are what they were, however they are written.

Optimisers with fused steps, writes through ``.data``, averages and swaps of whole parameters leave no trace that torch
counts (`Tensor._version`), so copies of numbers are kept only as long as the bytes of these are the same. No checkpoint
holds what is kept, no copy of a module takes it along, and it goes with the table.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import count, filterfalse
from operator import attrgetter, is_
from typing import Any, TypeVar
from weakref import ref

import numpy
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from vocabpress.embeddings.kernels.compiling import HAVE_NUMBA
from vocabpress.embeddings.kernels.loops import hash_at, same_bytes

PIECE = 2**17  # bytes of large codes that one look takes; a nearest cache holds them
_version = attrgetter("_version")


class Watch:
    """Tells whether a module still has the tensors and parts that it had, where they were, and the numbers copied.

    What was made of a tensor either reads it where it lies, so that it follows whatever is written there, or has copied
    its numbers; of those that were copied, the bytes are compared.

    Args:
        module: Whose tensors they are.
        copied: Those of its tensors whose numbers were copied; all their bytes are compared at every look.
        codes: Integers that were copied, which no optimiser writes. What torch counts of writes to large ones is
            compared, and on the processor the bytes of one piece in turn, so that whoever exchanges all of them is seen
            at the next look, and whoever writes a part at one of the next. On another device a look would wait for it.
    """

    def __init__(self, module: nn.Module, copied: Iterable[Tensor] = (), codes: Iterable[Tensor] = ()) -> None:
        self._modules = [own._modules for own in module.modules()]
        self._before = [dict(modules) for modules in self._modules]
        holders = [holder for own in module.modules() for holder in (own._parameters, own._buffers)]
        places = [(holder, name) for holder in holders for name, tensor in holder.items() if tensor is not None]
        self._holders, self._names = [holder for holder, _ in places], [name for _, name in places]
        self._tensors: list[Any] = [holder[name] for holder, name in places]
        self._addresses = [*map(Tensor.data_ptr, self._tensors)]
        codes = [*codes]
        large, whole = [*filter(_is_large, codes)], [*copied, *filterfalse(_is_large, codes)]
        self._views = [tensor.detach() for tensor in (*whole, *large)]  # what the addresses of hashes point at stays
        self._waits = any(tensor.is_cuda for tensor in self._views)
        self._same = bytes_of(whole)
        here = [tensor for tensor in large if tensor.device.type == "cpu"]
        self._pieces = [bytes_of([piece]) for tensor in here for piece in _bytes(tensor).split(PIECE)]
        self._counted = [tensor for tensor in large if not tensor.is_inference()]  # whose writes are counted
        self._versions, self._looks = [*map(_version, self._counted)], count()

    def holds(self, module: nn.Module) -> bool:
        """Whether this is the module, and all is as it was."""
        # All of it is asked at every lookup, of a table of a hundred tensors: loops in Python would take a millisecond.
        if not (
            self._modules[0] is module._modules
            and self._modules == self._before
            and all(map(is_, map(dict.get, self._holders, self._names), self._tensors))
            and [*map(Tensor.data_ptr, self._tensors)] == self._addresses
        ):
            return False
        if self._waits and torch.cuda.is_current_stream_capturing():
            return True  # a CUDA graph holds what was there when it was made, and must not wait for the device
        if not self._same() or [*map(_version, self._counted)] != self._versions:
            return False
        return not self._pieces or self._pieces[next(self._looks) % len(self._pieces)]()


def bytes_of(tensors: Sequence[Tensor]) -> Callable[[], bool]:
    """A call that says whether the bytes of tensors are as they are now; the tensors must stay where they are."""
    if HAVE_NUMBA and all(tensor.device.type == "cpu" and tensor.is_contiguous() for tensor in tensors):
        looks = (Tensor.data_ptr, attrgetter("nbytes"))
        places = [numpy.array([look(tensor) for tensor in tensors], numpy.int64) for look in looks]
        hashes = [hash_at(int(address), int(size)) for address, size in zip(*places, strict=True)]
        return partial(same_bytes, *places, numpy.array(hashes, numpy.uint64))
    before = [*map(_torch_hash, tensors)]
    return lambda: [*map(_torch_hash, tensors)] == before


def _is_large(codes: Tensor) -> bool:
    return codes.device.type != "cpu" or (codes.nbytes > PIECE and codes.is_contiguous())


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def _torch_hash(tensor: Tensor) -> int:
    """On any device: a sum of the words of 8 bytes, each times an odd number of its own."""
    flat = _bytes(tensor)
    words = pad(flat, (0, -len(flat) % 8)).view(torch.int64)
    odd = (2 * torch.arange(len(words), device=words.device) + 1) * 0x1E37_79B9_7F4A_7C15
    return int((words * odd).sum())


Table = TypeVar("Table", bound=nn.Module)
_CACHE: dict[tuple[int, str], tuple[Watch, Any, Any]] = {}


def cached(table: Table, name: str, make: Callable[[Table], Any], watch: Callable[[Table], Watch]) -> Any:
    """What ``make`` gives, made anew when the watch no longer holds.

    Args:
        table: On which it depends; what is made must not refer to it.
        name: What is made, so that a table may have several.
        make: Is called outside of inference mode, whose tensors are of no use elsewhere, and without gradients.
        watch: Says which of the table's tensors are copied; all others are read where they lie.
    """
    key = id(table), name
    found = _CACHE.get(key)
    if found is None or not found[0].holds(table):
        with torch.inference_mode(False), torch.no_grad():
            # In this order: what is written meanwhile is seen.
            found = watch(table), make(table), ref(table, lambda _, cache=_CACHE: cache.pop(key, None))
        _CACHE[key] = found
    return found[1]
