"""What is prepared from a table's numbers, kept for as long as they hold.

No checkpoint holds it, no copy of a module takes it along, and it goes with the table.
"""

from collections.abc import Callable, Iterable
from operator import is_
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from vocabpress.embeddings.kernels.imprint import Imprint


class Watch:
    """Tells whether a module still has the tensors and parts that it had, where they were, and the numbers copied.

    What was made of a tensor either reads it where it lies, so that it follows whatever is written there, or has copied
    its numbers; of those that were copied, the bytes are compared. It does not matter how they were written.

    Args:
        module: Whose tensors they are.
        copied: Those of its tensors whose numbers were copied; see `Imprint`.
        codes: And those of which integers may be looked at in turn.
    """

    def __init__(self, module: nn.Module, copied: Iterable[Tensor] = (), codes: Iterable[Tensor] = ()) -> None:
        self._modules = [own._modules for own in module.modules()]
        self._before = [dict(modules) for modules in self._modules]
        holders = [holder for own in module.modules() for holder in (own._parameters, own._buffers)]
        self._places = [(holder, name) for holder in holders for name, tensor in holder.items() if tensor is not None]
        self._tensors: list[Any] = [holder[name] for holder, name in self._places]
        self._addresses = [tensor.data_ptr() for tensor in self._tensors]
        self._imprint = Imprint(copied, codes)

    def holds(self, module: nn.Module) -> bool:
        """Whether this is the module, and all is as it was."""
        # All of it is asked at every lookup, of a table of a hundred tensors: loops in Python would take a millisecond.
        return (
            self._modules[0] is module._modules
            and self._modules == self._before
            and all(map(is_, [holder.get(name) for holder, name in self._places], self._tensors))
            and [tensor.data_ptr() for tensor in self._tensors] == self._addresses
            and self._imprint.holds()
        )


Table = TypeVar("Table", bound=nn.Module)
_KEPT: WeakKeyDictionary[nn.Module, dict[str, tuple[Watch, Any]]] = WeakKeyDictionary()


def kept(table: Table, name: str, make: Callable[[Table], Any], watch: Callable[[Table], Watch]) -> Any:
    """What ``make`` gives, made anew when the watch no longer holds.

    Args:
        table: On which it depends; what is made must not refer to it.
        name: Of what is made.
        make: Is called outside of inference mode, whose tensors are of no use elsewhere, and without gradients.
        watch: Says which of the table's tensors are copied; all others are read where they lie.
    """
    mine = _KEPT.setdefault(table, {})
    found = mine.get(name)
    if found is None or not found[0].holds(table):
        with torch.inference_mode(False), torch.no_grad():
            found = mine[name] = watch(table), make(table)  # in this order: what is written meanwhile is seen
    return found[1]
