"""Inputs of a tiny model: text alone where that is enough, else with an image or a sound."""

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from conformance.shrink import FIRST_SPECIAL, text_config

Inputs = dict[str, Any]
BATCH, LENGTH = 2, 8
REFUSALS = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError),
    *(OSError, RuntimeError, StrictDataclassError, TypeError, ValueError),
)
"""Errors with which models refuse a config or an input. Not included: out of memory, interruption."""


def token_ids(rows: int, pad: int | None = None) -> Tensor:
    """Random ids of two sentences, (2, 8); the second ends in the padding token if there is one."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, min(FIRST_SPECIAL, rows), (BATCH, LENGTH), generator=generator)
    if pad is not None and 0 <= pad < rows:
        ids[1, -1] = pad
    return ids


def outputs(model: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    """All float tensors that a forward pass returns, by name, without caches."""
    torch.manual_seed(0)
    with torch.no_grad():
        found = model(**inputs)
    return dict(_floats("", found))


def _floats(name: str, found: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(found, Tensor):
        if found.is_floating_point() and found.numel():
            yield name or "output", found.detach()
    elif isinstance(found, dict):
        for key, part in found.items():
            if "past" not in key and "cache" not in key:
                yield from _floats(f"{name}.{key}" if name else str(key), part)
    elif isinstance(found, list | tuple):
        for index, part in enumerate(found):
            yield from _floats(f"{name}.{index}" if name else str(index), part)


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether both outputs are equal bit by bit."""
    return first.keys() == second.keys() and all(
        first[name].shape == second[name].shape and torch.equal(first[name].nan_to_num(), second[name].nan_to_num())
        for name in first
    )


def distance(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """The largest difference of two outputs relative to the second's norm; infinite if names or shapes differ."""
    if first.keys() != second.keys() or any(first[name].shape != second[name].shape for name in first):
        return float("inf")
    return max((_relative(first[name], second[name]) for name in first), default=float("inf"))


def _relative(first: Tensor, second: Tensor) -> float:
    if not torch.equal(first.isfinite(), second.isfinite()):
        return float("inf")
    first, second = (
        torch.where(part.isfinite(), part, torch.zeros_like(part)).double().abs().clamp(max=1e20) * part.sign()
        for part in (first, second)
    )
    return float((first - second).norm() / second.norm().clamp(min=1e-30))


def find_inputs(model: PreTrainedModel, table: str) -> Inputs | None:
    """The first candidate that the model accepts and whose result depends on the table; None without one."""
    weight = model.get_parameter(f"{table}.weight")
    for candidate in candidates(model, len(weight)):
        try:
            if _depends(model, weight, candidate):
                return candidate
        except REFUSALS:  # the model can't read it: try the next candidate
            continue
    return None


def _depends(model: PreTrainedModel, weight: Tensor, inputs: Inputs) -> bool:
    """Whether the result of a model changes with its table."""
    before, saved = outputs(model, inputs), weight.data.clone()
    weight.data = torch.randn(saved.shape, generator=torch.Generator().manual_seed(2)).to(saved)
    try:
        after = outputs(model, inputs)
    finally:
        weight.data.copy_(saved)
    return bool(before) and after.keys() == before.keys() and distance(before, after) > 1e-6


def candidates(model: PreTrainedModel, rows: int) -> Iterator[Inputs]:
    """Inputs to try, the plainest first, restricted to the parameters of the forward pass."""
    ids = token_ids(rows, getattr(text_config(model.config), "pad_token_id", None))
    # Without a cache: a cache of recurrent layers alone has no length.
    text = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    decoder = {"decoder_input_ids": ids}
    other = modalities(model.config)
    known = inspect.signature(model.forward).parameters
    tried: list[set[str]] = []
    for given in (
        text,
        {"input_ids": ids},
        text | decoder,
        {"input_ids": ids} | decoder,
        text | other,
        text | decoder | other,
        other | decoder,
        {**{name: part for name, part in other.items() if name != "pixel_values"}, **text},
    ):
        taken = {name: part for name, part in given.items() if name in known}
        if taken and set(taken) not in tried:
            tried.append(set(taken))
            yield taken


def modalities(config: PreTrainedConfig) -> Inputs:
    """Noise as an image and a sound, in the sizes of the config's parts."""
    generator = torch.Generator().manual_seed(3)
    parts = [config, *(part for part in vars(config).values() if isinstance(part, PreTrainedConfig))]

    def size(*names: str, default: int) -> int:
        for part in parts[::-1]:
            for name in names:
                value = vars(part).get(name)
                value = value[0] if isinstance(value, list | tuple) and value else value
                if isinstance(value, int) and not isinstance(value, bool):
                    return value
        return default

    side, channels = size("image_size", default=32), size("num_channels", default=3)
    bins, frames = size("num_mel_bins", default=80), 2 * size("max_source_positions", default=64)
    boxes = torch.tensor([1, 2, 3, 4]).expand(BATCH, LENGTH, 4)
    return {
        "pixel_values": torch.randn(BATCH, channels, side, side, generator=generator),
        "input_features": torch.randn(BATCH, bins, frames, generator=generator),
        "input_values": torch.randn(BATCH, 4000, generator=generator),
        "bbox": boxes,
    }
