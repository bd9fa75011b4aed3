"""What is prepared from a table's numbers, kept for as long as they hold.

No checkpoint holds it, no copy of a module takes it along, and it goes with the table.
"""

from collections.abc import Callable
from operator import is_
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn


class Watch:
    """Tells whether a module still has the tensors and parts that it had, and nobody has written to them.

    Writes through ``.data``, which torch does not count, are not seen; another tensor in its place is.
    """

    def __init__(self, module: nn.Module) -> None:
        self._modules = [own._modules for own in module.modules()]
        self._before = [dict(modules) for modules in self._modules]
        holders = [holder for own in module.modules() for holder in (own._parameters, own._buffers)]
        self._places = [(holder, name) for holder in holders for name, tensor in holder.items() if tensor is not None]
        self._tensors: list[Any] = [holder[name] for holder, name in self._places]
        # Writes to tensors of inference mode are not counted.
        self._counted = [tensor for tensor in self._tensors if not tensor.is_inference()]
        self._state = self._numbers()

    def holds(self, module: nn.Module) -> bool:
        """Whether this is the module, and all is as it was."""
        # All of it is asked at every lookup, of a table of a hundred tensors: loops in Python would take a millisecond.
        return (
            self._modules[0] is module._modules
            and self._modules == self._before
            and all(map(is_, [holder.get(name) for holder, name in self._places], self._tensors))
            and self._state == self._numbers()
        )

    def _numbers(self) -> tuple[list[int], list[int]]:
        return [tensor.data_ptr() for tensor in self._tensors], [tensor._version for tensor in self._counted]


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
