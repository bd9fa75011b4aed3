"""Run a model layer by layer, so that each layer can be changed before the next one sees what comes out of it.

A stack is a list of modules (`nn.ModuleList`), each of which is called once and gets what the one before it gave.
Everything else that they are called with, such as masks and positions, is recorded in one pass of the whole model.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache

from vocabpress.calibrate.observed import counted, given_to, identity
from vocabpress.calibrate.outputs import Output

NAME = "hidden_states"  # of the argument, where it is not the first one


@dataclass
class Call:
    """A layer's call for one batch, but for the states that it gets: what else is given, and which tokens count."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    counts: Tensor

    def __call__(self, layer: nn.Module, states: Tensor) -> Tensor:
        """The states that the layer makes of these."""
        return _states(layer(states, *self.args, **self.kwargs))


@dataclass
class Stack:
    """Layers that follow one another, and how each batch calls them.

    Attributes:
        name: Of the list in the model.
        layers: In order.
        calls: For each layer one for each batch.
        states: What the next layer gets, for each batch.
    """

    name: str
    layers: Sequence[nn.Module]
    calls: list[list[Call]] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)

    def run(self) -> Iterator[int]:
        """Each layer's number in turn; its states are replaced by what it makes of them when the next is asked for."""
        for number, layer in enumerate(self.layers):
            yield number
            with torch.no_grad():
                pairs = zip(self.calls[number], self.states, strict=True)
                self.states = [call(layer, states) for call, states in pairs]

    def inputs_of(self, number: int, maps: Mapping[str, nn.Module]) -> dict[str, tuple[Tensor, Tensor]]:
        """For each map of a layer the second moments and the mean of its inputs, as the states are now.

        Maps that read the same tensor share the moments.
        """
        sums: dict[str, list[Any]] = {}
        for call, states in zip(self.calls[number], self.states, strict=True):
            for names, values in _inputs(lambda call=call, states=states: call(self.layers[number], states), maps):
                kept = counted(values, call.counts)
                for name, more in zip(names, [(kept.T @ kept, kept.sum(0), len(kept))] * len(names), strict=True):
                    before = sums.get(name)
                    sums[name] = list(more) if before is None else [a + b for a, b in zip(before, more, strict=True)]
        return {name: (square / max(1, count), mean / max(1, count)) for name, (square, mean, count) in sums.items()}


def find_stacks(model: nn.Module, batches: Sequence[Output]) -> list[Stack]:
    """The stacks of a model, with what the batches give to them.

    Lists whose members do not follow one another, or are called several times or not at all, are none.
    """
    lists = {name: part for name, part in model.named_modules() if isinstance(part, nn.ModuleList) and len(part)}
    outer = {name: part for name, part in lists.items() if not any(name.startswith(f"{other}.") for other in lists)}
    stacks = {name: Stack(name, list(part), [[] for _ in part]) for name, part in outer.items()}
    for batch in batches:
        seen: dict[str, list[Any]] = {name: [] for name in stacks}
        hooks = [hook for name, stack in stacks.items() for hook in _recording(stack, seen[name])]
        try:
            with torch.no_grad():
                ran = batch()
        finally:
            for hook in hooks:
                hook.remove()
        stacks = {name: stack for name, stack in stacks.items() if _follow(seen[name], len(stack.layers))}
        for name, stack in stacks.items():
            stack.states.append(seen[name][0][1])
            for number, _, args, kwargs, _ in seen[name]:
                stack.calls[number].append(Call(args, kwargs, ran.counts))
    return list(stacks.values())


def _recording(stack: Stack, seen: list[Any]) -> list[Any]:
    hooks = []
    for number, layer in enumerate(stack.layers):

        def record(_: nn.Module, args: Any, kwargs: Any, output: Any, number: int = number) -> None:
            rest = {name: _uncached(value) for name, value in kwargs.items() if args or name != NAME}
            states = args[0] if args else kwargs.get(NAME)
            seen.append((number, states, tuple(map(_uncached, args[1:])), rest, _states(output)))

        hooks.append(layer.register_forward_hook(record, with_kwargs=True))
    return hooks


def _follow(seen: Sequence[Any], count: int) -> bool:
    """Whether each layer was called once, in order, with what the one before it gave."""
    if [number for number, *_ in seen] != list(range(count)) or not all(isinstance(each[1], Tensor) for each in seen):
        return False
    return all(a[4] is b[1] or (a[4].dtype == b[1].dtype and torch.equal(a[4], b[1])) for a, b in pairwise(seen))


def _uncached(value: Any) -> Any:
    """An argument, but for keys and values of earlier calls: a layer would add to them each time that it runs."""
    return None if isinstance(value, Cache) else value


def _states(output: Any) -> Any:
    return output[0] if isinstance(output, tuple | list) else output


def _inputs(run: Callable[[], Any], maps: Mapping[str, nn.Module]) -> list[tuple[list[str], Tensor]]:
    """The inputs of maps in a run, and the names of the maps that read each."""
    found: dict[Any, tuple[list[str], Tensor]] = {}

    def recorder(name: str) -> Any:
        def record(_: nn.Module, args: Any, kwargs: Any) -> None:
            values = given_to(args, kwargs)
            found.setdefault(identity(values), ([], values))[0].append(name)

        return record

    hooks = [module.register_forward_pre_hook(recorder(name), with_kwargs=True) for name, module in maps.items()]
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return list(found.values())
