"""Records what a forward pass computes inside: attention scores before the softmax, outputs of feed-forward blocks.

Scores come from transformers' attention interface. The outputs of feed-forward blocks, before they are added to the
residual stream, come from hooks on the last linear map of each block.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import eager_mask

from vocabpress.hf.linears import find_linears

NAME = "vocabpress_recorded"
MASKED = -1e4  # a float mask adds far less than this to a score that does not count


@dataclass
class Heard:
    """Recorded tensors, in the order of computation.

    Attributes:
        scores: (batch, heads, queries, keys) per attention, and which scores count, broadcastable; None means all.
        ffn: (batch, tokens, width) per feed-forward block.
    """

    scores: list[tuple[Tensor, Tensor | None]] = field(default_factory=list)
    ffn: list[Tensor] = field(default_factory=list)


_listeners: list[Heard] = []


def _recorded(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    if _listeners:
        groups = query.shape[1] // key.shape[1]  # grouped queries share their keys
        scaling = options.get("scaling") or query.shape[-1] ** -0.5
        scores = query @ repeat_kv(key, groups).transpose(2, 3) * scaling
        _listeners[-1].scores.append((scores, None if attention_mask is None else attention_mask > MASKED))
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)


def record_attention(model: PreTrainedModel) -> None:
    """Record a model's attention scores inside `listening`; its outputs do not change.

    Raises:
        ValueError: If the model does not use transformers' attention interface.
    """
    AttentionInterface.register(NAME, _recorded)
    AttentionMaskInterface.register(NAME, eager_mask)
    with suppress(ValueError, KeyError):
        model.set_attn_implementation(NAME)
    if model.config._attn_implementation != NAME:
        raise ValueError(f"{type(model).__name__} does not expose its attention scores; try --set attention=0")


def record_ffn(model: PreTrainedModel) -> None:
    """Record the outputs of a model's feed-forward blocks inside `listening`.

    Raises:
        ValueError: If no feed-forward block has a known name.
    """

    def record(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
        if _listeners:
            _listeners[-1].ffn.append(output)

    places = [info.name for info in find_linears(model) if info.last]
    if not places:
        raise ValueError(f"{type(model).__name__} has no feed-forward block with a known name; try --set ffn=0")
    for place in places:
        model.get_submodule(place).register_forward_hook(record)


@contextmanager
def listening() -> Iterator[Heard]:
    """What all forward passes inside the context compute."""
    heard = Heard()
    _listeners.append(heard)
    try:
        yield heard
    finally:
        _listeners.remove(heard)
