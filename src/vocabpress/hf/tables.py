"""The modules of a transformers model that hold its vocabulary, and their names, compressed or not."""

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from vocabpress.hf.modules import TokenEmbedding


def module_name(model: nn.Module, wanted: nn.Module) -> str:
    """The first name under which a module stands in a model.

    Raises:
        ValueError: If it does not.
    """
    for name, module in model.named_modules():
        if module is wanted:
            return name
    raise ValueError(f"{type(wanted).__name__} is not a module of {type(model).__name__}")


def base_prefix(model: PreTrainedModel) -> str:
    """What stands before the names of the base model's modules, e.g. ``"bert."``; empty in a base model."""
    return "" if model.base_model is model else f"{model.base_model_prefix}."


def input_table_name(model: PreTrainedModel) -> str:
    """The name of the module that holds the token embedding.

    Models of several parts, such as CLIP, often don't say which embedding is their own: then it is the only one with as
    many rows as the vocabulary of the text part has tokens, or that of the only model inside that has one.

    Raises:
        ValueError: If the model has no token embedding, or several and does not say which is its input.
    """
    found = _input_embeddings(model)
    if not found:
        own = _own_input(model)
        told = "none" if own is None else type(own).__name__
        raise ValueError(f"{type(model).__name__} has no token table to compress (its input embedding: {told})")
    names = [module_name(model, embedding) for embedding in found]
    apart = [name for name in names if name not in tied_modules(model, names[0])]
    if len(apart) > 1:
        raise ValueError(
            f"{type(model).__name__} has several token tables ({', '.join(apart)}) and does not say which is its "
            "input; compress one of the models inside it"
        )
    return names[0]


def _own_input(model: PreTrainedModel) -> nn.Module | None:
    try:
        return model.get_input_embeddings()
    except (NotImplementedError, AttributeError):  # the latter where a part that it passes the question on to has none
        return None


def _input_embeddings(model: PreTrainedModel) -> list[nn.Module]:
    """Embeddings that may be the input of a model: its own, or those of its text part, or those of models inside it."""
    own = _own_input(model)
    if isinstance(own, nn.Embedding | TokenEmbedding):
        return [own]
    rows = _vocabulary(model)
    if rows is None:
        inside = [part for part in model.modules() if isinstance(part, PreTrainedModel) and part is not model]
        return list({id(found): found for part in inside for found in _input_embeddings(part)}.values())
    fitting: list[nn.Module] = [
        part
        for part in model.modules()
        if isinstance(part, nn.Embedding | TokenEmbedding) and part.num_embeddings == rows
    ]
    inputs = {id(_own_input(part)) for part in model.modules() if isinstance(part, PreTrainedModel)}
    return [table for table in fitting if id(table) in inputs] or fitting


def text_config(model: PreTrainedModel) -> PreTrainedConfig | None:
    """The config of a model's text part, that of the model where it has no parts; None where it has several of them."""
    try:
        return model.config.get_text_config()
    except ValueError:
        return None


def _vocabulary(model: PreTrainedModel) -> int | None:
    """Tokens of the text part of a model; None where the config names none."""
    return getattr(text_config(model), "vocab_size", None)


def has_input_table(model: PreTrainedModel) -> bool:
    """Whether the model has a token embedding, compressed or not."""
    return bool(_input_embeddings(model))


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


def tied_modules(model: PreTrainedModel, name: str) -> list[str]:
    """The other modules whose ``weight`` is the ``weight`` of module ``name``, by the model's own map of ties."""
    ties: dict[str, str] = model.all_tied_weights_keys
    key = f"{name}.weight"
    root = ties.get(key, key)
    group = {root, *(target for target, source in ties.items() if source == root)}
    return sorted(other.removesuffix(".weight") for other in group - {key} if other.endswith(".weight"))
