"""The ``weight`` of a module whose table is compressed: a dense reading of it, that refuses to be written to."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from vocabpress.embeddings import CompressedEmbedding
from vocabpress.embeddings.inference import dense, in_graph

ALLOWED = {"requires_grad_", "detach_", "share_memory_"}  # in place, but no number changes
LOST = (
    "the weight of a compressed table is a reading, and what is written to it would be lost; write to the weight of "
    "model.dequantize(), or to a clone() of this one"
)


class WeightReading(Tensor):
    """Dense numbers, (V, d), made of a compressed table when they are asked for.

    Gradients pass through it to the table's parameters. ``requires_grad`` is theirs: what freezes an embedding by its
    weight freezes the table. Whatever would write into it, or into a view of it, raises a ValueError.
    """

    _table: CompressedEmbedding | None
    _is_hf_initialized = True  # transformers initialises what has not been loaded, rows of padding among it

    @classmethod
    def of(cls, table: CompressedEmbedding) -> Tensor:
        """A reading; in a graph that is compiled, traced or without numbers an ordinary tensor."""
        numbers = dense(table)
        if in_graph(numbers):
            return numbers
        reading = numbers.as_subclass(cls)
        reading._table = table
        return reading

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Ordinary tensors of whatever is computed, readings of what shares this one's memory, and no writes."""
        kwargs = kwargs or {}
        name, owner = func.__name__, next(iter(args or kwargs.values()), None)
        attribute = getattr(getattr(func, "__self__", None), "__name__", "")
        table = getattr(owner, "_table", None) if isinstance(owner, WeightReading) else None
        if (
            isinstance(owner, WeightReading)
            and table is not None
            and (name == "requires_grad_" or attribute == "requires_grad")
        ):
            return _trainable(owner, table, name, args)
        if _writes(name, owner, kwargs):
            raise ValueError(LOST)
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
        if name == "numpy" and hasattr(result, "setflags"):
            result.setflags(write=False)
        return _marked(result, owner)


def _writes(name: str, owner: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a function of torch, called so, changes numbers of a reading."""
    if any(isinstance(out, WeightReading) for out in _each(kwargs.get("out"))):
        return True
    in_place = (name.endswith("_") and not name.endswith("__") and name not in ALLOWED) or name in ("__set__", "set_")
    in_place = in_place or name == "__setitem__" or (name.startswith("__i") and name[3:-2] in IN_PLACE)
    return in_place and any(isinstance(one, WeightReading) for one in _each(owner))


IN_PLACE = {"add", "sub", "mul", "div", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "lshift", "rshift"}


def _each(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list | tuple) else (value,)


def _trainable(reading: Tensor, table: CompressedEmbedding, name: str, args: Any) -> Any:
    """Read or set whether the table's parameters are trained."""
    if name == "__get__":
        return any(parameter.requires_grad for parameter in table.parameters())
    wanted = bool(args[1]) if len(args) > 1 else True
    for parameter in table.parameters():
        parameter.requires_grad_(wanted)
    return reading if name == "requires_grad_" else None


def _marked(result: Any, owner: Any) -> Any:
    """A result that shares the memory of a reading is one, too; all else is an ordinary tensor."""
    if isinstance(result, list | tuple) and type(result) in (list, tuple):
        return type(result)(_marked(each, owner) for each in result)
    if not isinstance(result, Tensor) or not isinstance(owner, WeightReading):
        return result
    with torch._C.DisableTorchFunctionSubclass():
        shared = result.untyped_storage()._cdata == owner.untyped_storage()._cdata
        wanted = WeightReading if shared else Tensor
        return result if type(result) is wanted else result.as_subclass(wanted)
