"""Sentence embeddings of a model in memory, pooled as its folder says; sentence-transformers is not needed."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn.functional import normalize
from transformers import PreTrainedModel

from vocabpress.hf.companions import modules_of


def is_sentence_encoder(folder: Path) -> bool:
    """Whether sentence-transformers knows the folder as a model of several modules."""
    return bool(modules_of(folder))


def pooling_of(folder: Path) -> str:
    """``"cls"``, ``"lasttoken"`` or ``"mean"``: how a folder's states become an embedding; mean if it does not say."""
    for module in modules_of(folder):
        config = folder / str(module.get("path", "")) / "config.json"
        if str(module.get("type", "")).endswith(".Pooling") and config.is_file():
            given: dict[str, Any] = json.loads(config.read_text(encoding="utf-8"))
            if given.get("pooling_mode_cls_token") or given.get("pooling_mode") == "cls":
                return "cls"
            if given.get("pooling_mode_lasttoken") or given.get("pooling_mode") == "lasttoken":
                return "lasttoken"
    return "mean"


def embed(model: PreTrainedModel, inputs: dict[str, Tensor], folder: Path) -> Tensor:
    """Sentence embeddings of unit length, (sentences, d), float32, pooled as the checkpoint's folder says.

    A head and layers after the pooling are not used. A model with several parts is its text part, an encoder-decoder
    its encoder. The ``inputs`` are padded at the end.
    """
    body: Any = model.get_encoder() if model.config.is_encoder_decoder else model.base_model
    body = getattr(body, "text_model", body)
    mask = inputs["attention_mask"]
    states = body(input_ids=inputs["input_ids"], attention_mask=mask).last_hidden_state
    return pooled(states, mask, pooling_of(folder))


def pooled(states: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """Embeddings of unit length, (sentences, d), float32, from states of the last layer, (sentences, longest, d).

    The mask is 0 for padding, which is at the end; (sentences, longest).
    """
    states = states.float()
    if pooling == "cls":
        return normalize(states[:, 0], dim=-1)
    if pooling == "lasttoken":
        return normalize(states[range(len(mask)), mask.sum(1) - 1], dim=-1)
    return normalize((states * mask[..., None]).sum(1), dim=-1)
