"""Stacks of layers: which are found, that they compute what the model does, and what their maps get."""

from itertools import chain

import pytest
import torch
from torch import nn
from transformers import Cache, DynamicCache

import wide
from vocabpress.calibrate.layers import find_stacks
from vocabpress.calibrate.moments import measure_moments
from vocabpress.calibrate.outputs import Ran
from vocabpress.hf.maps import find_maps, set_weight, weight_of

STACKS = {
    "bert": {"encoder.layer": 2},
    "bert, one layer": {"encoder.layer": 1},
    "bert, masked": {"bert.encoder.layer": 2},
    "llama": {"model.layers": 2},
    "gpt2": {"transformer.h": 2},
    "distilbert": {"transformer.layer": 2},
    "mpnet": {"encoder.layer": 2},
    "modernbert": {"layers": 2},
    "t5": {"encoder.block": 2, "decoder.block": 2},
    "bart": {"model.encoder.layers": 1, "model.decoder.layers": 1},
    "mixtral": {"model.layers": 2},
    "qwen2, experts": {"model.layers": 2},
    "albert": {},
}


def outputs_of(layers, batches):
    """What each layer gives for each batch in the whole model."""
    outputs = [[] for _ in layers]
    hooks = [
        layer.register_forward_hook(lambda _m, _i, found, own=own: own.append(found))
        for layer, own in zip(layers, outputs, strict=True)
    ]
    with torch.no_grad():
        for batch in batches:
            batch()
    for hook in hooks:
        hook.remove()
    return outputs


@pytest.mark.parametrize("name", STACKS)
def test_layers_are_found_and_compute_what_the_model_does(name):
    model = wide.make(name).requires_grad_(False)
    batches = wide.batches(model)
    stacks = find_stacks(model, batches)
    assert {stack.name: len(stack.layers) for stack in stacks} == STACKS[name]
    for stack in stacks:
        outputs, before = outputs_of(stack.layers, batches), list(stack.states)
        for number in chain(stack.run(), [len(stack.layers)]):
            if number:
                for states, found in zip(stack.states, outputs[number - 1], strict=True):
                    torch.testing.assert_close(states, found[0] if isinstance(found, tuple) else found)
        assert all(len(calls) == 2 for calls in stack.calls)
        again = next(one for one in find_stacks(model, batches) if one.name == stack.name)
        assert all(torch.equal(*pair) for pair in zip(again.states, before, strict=True))
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5", "qwen2, experts"])
def test_inputs_of_a_layer_are_those_in_the_whole_model(name):
    model = wide.make(name).requires_grad_(False)
    batches, maps = wide.batches(model), find_maps(model)
    measured = measure_moments(model, maps, batches)
    for stack in find_stacks(model, batches):
        for number in stack.run():
            within = set(stack.layers[number].modules())
            inside = {key: module for key, module in maps.items() if module in within}
            found = stack.inputs_of(number, inside)
            assert found.keys() == inside.keys()
            for key, (square, mean) in found.items():
                torch.testing.assert_close(square, measured[key].inputs, rtol=1e-4, atol=1e-4)
                torch.testing.assert_close(mean, measured[key].mean, rtol=1e-4, atol=1e-4)


def test_a_layer_sees_what_was_changed_before_it():
    model = wide.make("bert").requires_grad_(False)
    batches, maps = wide.batches(model), find_maps(model)
    (stack,) = find_stacks(model, batches)
    first, second = "encoder.layer.0.output.dense", "encoder.layer.1.attention.self.query"
    for number in stack.run():
        if number == 0:
            set_weight(maps[first], weight_of(maps[first]) * 0.5, torch.ones(64))
        else:
            square, mean = stack.inputs_of(1, {second: maps[second]})[second]
    expected = measure_moments(model, {second: maps[second]}, batches)[second]
    torch.testing.assert_close(square, expected.inputs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mean, expected.mean, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5", "bart"])
def test_no_cache_of_keys_and_values_is_left(name):
    model = wide.make(name).requires_grad_(False)
    model.config.use_cache = True
    cached = []
    for module in model.modules():
        module.register_forward_pre_hook(
            lambda _, args, kwargs: cached.extend(v for v in (*args, *kwargs.values()) if isinstance(v, Cache)),
            with_kwargs=True,
        )
    stacks = find_stacks(model, wide.batches(model))
    assert cached
    assert len(stacks) == len(STACKS[name])
    for stack in stacks:
        given = [value for calls in stack.calls for call in calls for value in (*call.args, *call.kwargs.values())]
        assert not any(isinstance(value, Cache) for value in given)
        first = [states.clone() for states in stack.states]
        list(stack.run())
        ends, stack.states = stack.states, first
        list(stack.run())
        assert all(torch.equal(*pair) for pair in zip(stack.states, ends, strict=True))


class Layer(nn.Module):
    def __init__(self, as_named=False, dtype=torch.float32):
        super().__init__()
        self.map, self.as_named, self.dtype = nn.Linear(4, 4), as_named, dtype

    def forward(self, hidden_states, past=None):
        return (self.map(hidden_states.float()).to(self.dtype), past)


class Model(nn.Module):
    def __init__(self, count, between=lambda states: states, **how):
        super().__init__()
        self.layers, self.between = nn.ModuleList(Layer(**how) for _ in range(count)), between
        self.rest = nn.ModuleList([nn.Linear(4, 4)])

    def forward(self, states):
        for layer in self.layers:
            given = {"hidden_states": states} if layer.as_named else {}
            found = layer(*(() if given else (states,)), **given, past=DynamicCache())
            states = self.between(found[0])
        return states


@pytest.mark.parametrize(
    ("model", "count"),
    [
        (Model(3), 3),
        (Model(2, as_named=True), 2),
        (Model(2, between=lambda states: states + 1), None),
        (Model(2, between=lambda states: states.double()), None),
        (Model(2, between=lambda states: states * 1), 2),
        (Model(0), None),
    ],
)
def test_what_follows_one_another(model, count):
    counts = torch.ones(1, 2, dtype=torch.bool)
    run = lambda: Ran(model(torch.ones(1, 2, 4)).sum(), counts)  # noqa: E731
    stacks = find_stacks(model, [run])
    assert [len(stack.layers) for stack in stacks] == ([] if count is None else [count])
    for stack in stacks:
        list(stack.run())
        with torch.no_grad():
            torch.testing.assert_close(stack.states[0], model(torch.ones(1, 2, 4)))
