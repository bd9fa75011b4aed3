"""What is prepared from a table's numbers, kept for as long as they hold.

No checkpoint holds it, no copy of a module takes it along, and it goes with the table.
"""

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn


class Watch:
    """Tells whether a module still has the tensors and parts that it had, and nobody has written to them.

    Writes through ``.data``, which torch does not count, are not seen; another tensor in its place is.
    """

    def __init__(self, module: nn.Module) -> None:
        self._parts = [(own._modules, dict(own._modules)) for own in module.modules()]
        holders = [holder for own in module.modules() for holder in (own._parameters, own._buffers)]
        named = [(holder, name, tensor) for holder in holders for name, tensor in holder.items() if tensor is not None]
        self._tensors = [(holder, name, tensor, tensor.data_ptr(), _version(tensor)) for holder, name, tensor in named]

    def holds(self, module: nn.Module) -> bool:
        """Whether this is the module, and all is as it was."""
        if self._parts[0][0] is not module._modules:
            return False
        for modules, before in self._parts:
            if modules != before:
                return False
        for holder, name, tensor, place, version in self._tensors:
            if holder.get(name) is not tensor or tensor.data_ptr() != place or _version(tensor) != version:
                return False
        return True


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


_KEPT: WeakKeyDictionary[nn.Module, dict[str, tuple[Watch, Any]]] = WeakKeyDictionary()


def kept(table: nn.Module, name: str, make: Callable[[], Any]) -> Any:
    """What ``make`` gives, made anew when the table's numbers are others than when it was made.

    Args:
        table: On which it depends; ``make`` and what it gives must not refer to it.
        name: Of what is made.
        make: Is called outside of inference mode, whose tensors are of no use elsewhere, and without gradients.
    """
    mine = _KEPT.setdefault(table, {})
    found = mine.get(name)
    if found is None or not found[0].holds(table):
        with torch.inference_mode(False), torch.no_grad():
            found = mine[name] = Watch(table), make()
    return found[1]
