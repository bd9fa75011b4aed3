"""Masked and causal language models: which is which, how they are loaded, their tokens and logits."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel
from transformers.models.auto import modeling_auto

from vocabpress.evaluate.task import Subject
from vocabpress.hf.checkpoint import named_class
from vocabpress.hf.tables import input_table_name

MASKED, CAUSAL = "masked", "causal"
LOADERS = {MASKED: AutoModelForMaskedLM, CAUSAL: AutoModelForCausalLM}
CLASSES = {
    MASKED: set(modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES.values()),
    CAUSAL: set(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()),
}
TASK_OF = {MASKED: "mlm", CAUSAL: "clm"}


def head_kind(folder: Path) -> str | None:
    """``"masked"``, ``"causal"``, or None if the checkpoint names another class."""
    name = named_class(folder).__name__
    return next((kind for kind, classes in CLASSES.items() if name in classes), None)


def load_language_model(subject: Subject, kind: str, dtype: str = "float32") -> tuple[PreTrainedModel, Any]:
    """The subject's model with a head of this kind, and its tokenizer; a ValueError if it has one of the other kind."""
    name, other = named_class(subject.model).__name__, CAUSAL if kind == MASKED else MASKED
    if name in CLASSES[other] and name not in CLASSES[kind]:
        raise ValueError(
            f"{subject.model} is a {name}, a {other} language model; measure it with --task {TASK_OF[other]}"
        )
    return subject.load(LOADERS[kind], dtype=dtype), subject.tokenizer()


def load_original(subject: Subject, model: PreTrainedModel, kind: str, dtype: str = "float32") -> PreTrainedModel:
    """The original of a model of this kind; a ValueError if it has another vocabulary."""
    original = subject.load_original(LOADERS[kind], "comparing language models", dtype)
    rows = [table_rows(each) for each in (model, original)]
    if rows[0] != rows[1]:
        raise ValueError(f"the model has {rows[0]} tokens, the original {rows[1]}; give what the model was made of")
    return original


def is_causal(model: PreTrainedModel) -> bool:
    """Whether a model predicts the next token."""
    return type(model).__name__ in CLASSES[CAUSAL]


def longest_input(model: PreTrainedModel, tokenizer: Any, wanted: int) -> int:
    """Tokens of the longest sequence that the model reads, at most ``wanted``."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or wanted
    for name, module in model.named_modules():
        # RoBERTa-like models count positions from the padding token's row on.
        if isinstance(module, nn.Embedding) and "position" in name and module.padding_idx is not None:
            positions = min(positions, module.num_embeddings - module.padding_idx - 1)
    return min(wanted, positions, tokenizer.model_max_length)


def table_rows(model: PreTrainedModel) -> int:
    """Rows of the token table."""
    module: Any = model.get_submodule(input_table_name(model))
    return module.num_embeddings


def tokens_of(text: str, tokenizer: Any, model: PreTrainedModel) -> list[int]:
    """A text's tokens, without special ones; a ValueError if there is none, or the table has no row for one."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise ValueError("the tokenizer finds no token in the text; give text in the model's language")
    if max(ids) >= table_rows(model):
        raise ValueError(f"the tokenizer gives id {max(ids)}, the table has {table_rows(model)} rows")
    return ids


def logits_at(model: PreTrainedModel, inputs: dict[str, Tensor], at: Tensor, **options: Any) -> tuple[Any, Tensor]:
    """The model's output, and its logits, (positions, V), where ``at``, (batch, longest), is true.

    If transformers knows the head's module, the head runs only at those positions. The ``inputs`` are of `pad`, on the
    model's device.
    """

    def select(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = arguments[0]
        return (hidden[at], *arguments[1:]) if hidden.shape[:-1] == at.shape else arguments

    head: Any = model.get_output_embeddings()
    handle = head.register_forward_pre_hook(select) if isinstance(head, nn.Module) else None
    try:
        out = model(**inputs, **options)
    finally:
        if handle is not None:
            handle.remove()
    return out, out.logits if out.logits.dim() == 2 else out.logits[at]
