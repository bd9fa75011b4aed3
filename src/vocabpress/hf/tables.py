"""Find the token embeddings of a transformers model and their names, whether they are compressed or not."""

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from vocabpress.hf.modules import TokenEmbedding


def module_name(model: nn.Module, wanted: nn.Module) -> str:
    """The first name of a module in a model; a ValueError if it is not there."""
    for name, module in model.named_modules():
        if module is wanted:
            return name
    raise ValueError(f"{type(wanted).__name__} is not a module of {type(model).__name__}")


def base_prefix(model: PreTrainedModel) -> str:
    """The prefix of the base model's modules, e.g. ``"bert."``; empty in a base model."""
    return "" if model.base_model is model else f"{model.base_model_prefix}."


def input_table_name(model: PreTrainedModel) -> str:
    """The name of the module that holds the token embedding.

    Models of several parts, such as CLIP, often don't declare an input embedding. Then it is the only embedding with
    a row for each token of the text part, or the input of the only model inside that has one.

    Raises:
        ValueError: If the model has no token embedding, or has several and does not declare which is its input.
    """
    found = _input_embeddings(model)
    if not found:
        own = _own_input(model)
        kind = "none" if own is None else type(own).__name__
        raise ValueError(f"{type(model).__name__} has no token table to compress (its input embedding: {kind})")
    names = [module_name(model, embedding) for embedding in found]
    separate = [name for name in names if name not in tied_modules(model, names[0])]
    if len(separate) > 1:
        raise ValueError(
            f"{type(model).__name__} has several token tables ({', '.join(separate)}) and does not declare which is "
            "its input; compress one of the models inside it"
        )
    return names[0]


def _own_input(model: PreTrainedModel) -> nn.Module | None:
    try:
        return model.get_input_embeddings()
    except (NotImplementedError, AttributeError):  # AttributeError: it delegates to a part that has none
        return None


def _input_embeddings(model: PreTrainedModel) -> list[nn.Module]:
    """Candidates for the input of a model: its own, else those of its text part, else those of models inside it."""
    own = _own_input(model)
    if isinstance(own, nn.Embedding | TokenEmbedding):
        return [own]
    rows = getattr(text_config(model), "vocab_size", None)
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
    """The config of a model's text part, or of a model without parts; None if there are several text parts."""
    try:
        return model.config.get_text_config()
    except ValueError:
        return None


def has_input_table(model: PreTrainedModel) -> bool:
    """Whether the model has a token embedding, compressed or not."""
    return bool(_input_embeddings(model))


def resolve(model: PreTrainedModel, name: str) -> str | None:
    """The full name in this model of a module named relative to the base model; None in a model without token table.

    When the text part of a model is loaded from a checkpoint of the whole, its names lack the first parts.

    Raises:
        ValueError: If the model has a token table, but no such module.
    """
    names = {module for module, _ in model.named_modules()}
    # Some models with a head declare a wrong prefix, so the right one is part of the stored names; the base model
    # declares it.
    for candidate in (base_prefix(model) + name, name, name.removeprefix(f"{model.base_model_prefix}.")):
        if candidate in names:
            return candidate
    if has_input_table(model):
        shorter = name
        while "." in shorter:
            shorter = shorter.partition(".")[2]
            if shorter in names:
                return shorter
        raise ValueError(f"the checkpoint's compressed {name!r} is not a module of {type(model).__name__}")
    return None  # such as the vision part of CLIP, loaded from a checkpoint of all of CLIP


def tied_modules(model: PreTrainedModel, name: str) -> list[str]:
    """The other modules that share the ``weight`` of module ``name``, according to the model's map of ties."""
    ties: dict[str, str] = model.all_tied_weights_keys
    key = f"{name}.weight"
    root = ties.get(key, key)
    group = {root, *(target for target, source in ties.items() if source == root)}
    return sorted(other.removesuffix(".weight") for other in group - {key} if other.endswith(".weight"))
