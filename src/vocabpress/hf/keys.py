"""Where a table of a checkpoint goes in a model."""

from collections.abc import Iterable

from transformers import PreTrainedModel
from transformers.core_model_loading import WeightConverter, WeightTransform

from vocabpress.hf.tables import base_prefix, has_input_table


def resolve(model: PreTrainedModel, name: str) -> str | None:
    """The full name in this model of a module named relative to the base model; None in a model without token table.

    In the text part of a model of several, loaded from a checkpoint of the whole, names are shorter by a prefix.

    Raises:
        ValueError: If the model has a token table, but no such module.
    """
    names = {module for module, _ in model.named_modules()}
    # Some heads name another prefix than the one under which their base model stands; the base model knows it.
    for candidate in (base_prefix(model) + name, name, name.removeprefix(f"{model.base_model_prefix}.")):
        if candidate in names:
            return candidate
    if has_input_table(model):
        parts = name.split(".")
        shorter = [".".join(parts[dropped:]) for dropped in range(1, len(parts))]
        for candidate in shorter:
            if candidate in names:
                return candidate
        raise ValueError(f"the checkpoint's compressed {name!r} is not a module of {type(model).__name__}")
    return None  # such as the vision part of CLIP, loaded from a checkpoint of the whole


def without_converters(conversions: list[WeightTransform], tables: Iterable[str]) -> list[WeightTransform]:
    """Conversions of checkpoints, but for those that put the weight of a table together from several tensors (Molmo 2).

    A compressed table is stored as it is.
    """
    keys = [f"{name}.weight" for name in tables]
    return [
        conversion
        for conversion in conversions
        if not isinstance(conversion, WeightConverter)
        or not any(key.endswith(target) for key in keys for target in conversion.target_patterns)
    ]
