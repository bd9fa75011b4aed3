"""What reaches the modules of a model when it runs, and the gradients of its output at theirs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vocabpress.calibrate.outputs import Output, Ran
from vocabpress.hf.tables import input_table_name
from vocabpress.progress import Bar


class Call(NamedTuple):
    """A call of a module: its name, what it was given, and the gradient at its output, None where there is none."""

    name: str
    values: Tensor
    gradient: Tensor | None


@dataclass
class Observation:
    """The calls of a run.

    Attributes:
        maps: Of linear maps.
        rows: Of the embeddings of tokens; an encoder and its decoder may each have one.
        head: Of the output head, if it is tied to the table.
    """

    maps: list[Call] = field(default_factory=list)
    rows: list[Call] = field(default_factory=list)
    head: list[Call] = field(default_factory=list)


def observed(
    model: nn.Module, maps: Mapping[str, nn.Module], batches: Sequence[Output], title: str
) -> Iterator[tuple[Ran, Observation]]:
    """Run a frozen model forward and backward on each batch.

    Args:
        model: The model that the batches run.
        maps: Name -> module; the token table and a head that is tied to it are observed in any case.
        batches: From `read_outputs`.
        title: Of the progress bar on stderr; empty draws none.
    """
    for run in Bar(batches, desc=title, disable=not title):
        with _Recorder(model, maps) as calls, torch.enable_grad():
            ran = run()
        ends = [output for *_, output in calls if output.requires_grad]
        gradients = iter(torch.autograd.grad(ran.value, ends, allow_unused=True) if ends else ())
        seen = Observation()
        for part, name, values, output in calls:
            part_of_run: list[Call] = getattr(seen, part)
            part_of_run.append(Call(name, values, next(gradients) if output.requires_grad else None))
        yield ran, seen


class _Recorder:
    """Records calls while it lasts: the part of an `Observation`, name, values and output of each."""

    def __init__(self, model: Any, maps: Mapping[str, nn.Module]) -> None:
        self.calls: list[tuple[str, str, Tensor, Tensor]] = []
        rows = input_rows(model)
        modules = [*(("maps", *each) for each in maps.items()), *(("rows", "", module) for module in rows)]
        head: Any = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
        if getattr(head, "weight", None) is rows[0].weight:
            modules.append(("head", "", head))
        self._hooks = [
            module.register_forward_hook(self._hook(part, name), with_kwargs=True) for part, name, module in modules
        ]

    def _hook(self, part: str, name: str) -> Any:
        def record(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
            embedding = isinstance(module, nn.Embedding)
            if embedding:  # nothing before it has a gradient
                output = output.detach().requires_grad_(torch.is_grad_enabled())
            self.calls.append((part, name, given_to(args, kwargs).detach(), output))
            return output.clone() if embedding else output  # some models scale rows in place

        return record

    def __enter__(self) -> list[tuple[str, str, Tensor, Tensor]]:
        return self.calls

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()


def input_rows(model: Any) -> list[nn.Module]:
    """The embeddings that read the token table."""
    weight = model.get_submodule(input_table_name(model)).weight
    return [each for each in model.modules() if isinstance(each, nn.Embedding) and each.weight is weight]


def given_to(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """What a module was called with, whether by its place or by its name."""
    return args[0] if args else next(iter(kwargs.values()))


def identity(values: Tensor) -> tuple[object, ...]:
    """Equal for tensors that are the same numbers in the same order, as long as all of them exist."""
    return values.data_ptr(), values.shape, values.stride(), values.dtype


def counted(values: Tensor, counts: Tensor) -> Tensor:
    """The vectors of tokens that count, float32, (n, width); all, where a module does not see tokens side by side."""
    same = values.shape[:2] == counts.shape and values.ndim >= 3
    return (values[counts] if same else values).flatten(0, -2).float()
