"""Attention scores before the softmax, read from any model that uses transformers' attention interface."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import eager_mask

NAME = "vocabpress_recorded"
MASKED = -1e4  # what a float mask adds to a score that does not count lies far below this

Scores = list[tuple[Tensor, Tensor | None]]
"""Per attention: scores (batch, heads, queries, keys), and which of them count, broadcastable; None means all."""

_sinks: list[Scores] = []


def _recorded(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    if _sinks:
        groups = query.shape[1] // key.shape[1]  # grouped queries share their keys
        scaling = options.get("scaling") or query.shape[-1] ** -0.5
        scores = query @ repeat_kv(key, groups).transpose(2, 3) * scaling
        _sinks[-1].append((scores, None if attention_mask is None else attention_mask > MASKED))
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)


def record_attention(model: PreTrainedModel) -> None:
    """Let a model's attention hand its scores to whoever listens; its results stay what they were.

    Raises:
        ValueError: If the model does not use transformers' attention interface.
    """
    AttentionInterface.register(NAME, _recorded)
    AttentionMaskInterface.register(NAME, eager_mask)
    with suppress(ValueError, KeyError):
        model.set_attn_implementation(NAME)
    if model.config._attn_implementation != NAME:
        raise ValueError(f"{type(model).__name__} keeps its attention scores to itself; try --set attention=0")


@contextmanager
def listening() -> Iterator[Scores]:
    """The scores of all forward passes inside, in the order in which they are computed."""
    scores: Scores = []
    _sinks.append(scores)
    try:
        yield scores
    finally:
        _sinks.remove(scores)
