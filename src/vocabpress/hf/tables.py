"""Where a transformers model keeps its vocabulary: the input table, the output head, and what is tied to what."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from vocabpress.budget import dtype_name
from vocabpress.chunks import chunks
from vocabpress.hf.inner import is_quantised, stored_bytes
from vocabpress.hf.modules import TokenEmbedding


@dataclass(frozen=True)
class TableInfo:
    """A vocabulary table of a model.

    Attributes:
        name: The module that holds it, e.g. ``bert.embeddings.word_embeddings``.
        role: ``"input"`` or ``"output"``.
        tied: The other modules that use the same numbers.
        shape: (V, d).
        dtype: As loaded, which is as stored where the model was loaded with ``dtype="auto"``.
        bytes: Of the table alone.
        share: Of all the model's parameters' bytes, tied ones counted once.
    """

    name: str
    role: str
    tied: tuple[str, ...]
    shape: tuple[int, int]
    dtype: str
    bytes: int
    share: float


def parameter_bytes(model: nn.Module) -> int:
    """Bytes of all parameters, each counted once."""
    return sum(stored_bytes(parameter) for parameter in model.parameters())


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


def has_input_table(model: PreTrainedModel) -> bool:
    """Whether the model has a token embedding, compressed or not."""
    return bool(_input_embeddings(model))


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


def input_table(model: PreTrainedModel) -> tuple[str, nn.Parameter]:
    """Name and numbers, (V, d), of a token embedding that is not compressed yet.

    Raises:
        ValueError: If the model has no token embedding, or it is compressed or quantised already.
    """
    name = input_table_name(model)
    weight = model.get_submodule(name).weight
    if not isinstance(weight, nn.Parameter):
        raise ValueError(f"the table {name} is compressed already; start from the original checkpoint")
    if is_quantised(weight):
        raise ValueError(
            f"the table {name} is quantised itself; quantise linear maps alone, or start from the original"
        )
    return name, weight


def tied_modules(model: PreTrainedModel, name: str) -> list[str]:
    """The other modules whose ``weight`` is the ``weight`` of module ``name``, by the model's own map of ties."""
    ties: dict[str, str] = model.all_tied_weights_keys
    key = f"{name}.weight"
    root = ties.get(key, key)
    group = {root, *(target for target, source in ties.items() if source == root)}
    return sorted(other.removesuffix(".weight") for other in group - {key} if other.endswith(".weight"))


def tied_head(model: PreTrainedModel) -> str | None:
    """The name of the output head whose numbers are those of the input table, or None."""
    head = model.get_output_embeddings()
    name = module_name(model, head) if isinstance(head, nn.Linear) else None
    return name if name in tied_modules(model, input_table_name(model)) else None


def equal_head(model: PreTrainedModel) -> str | None:
    """The name of an output head that holds the same numbers as the input table, and is not tied to it; or None."""
    name, table = input_table(model)
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear) or is_quantised(head.weight):
        return None
    place = module_name(model, head)
    if place in tied_modules(model, name) or head.weight.shape != table.shape or head.weight.dtype != table.dtype:
        return None
    same = all(torch.equal(head.weight[part], table[part]) for part in chunks(*table.shape))
    return place if same else None


def tie_head(model: PreTrainedModel) -> None:
    """Tie an output head to the input table whose numbers it holds, as the model's config can say it.

    Raises:
        ValueError: If it holds others, or the model's class can't tie them.
    """
    place = equal_head(model)
    if place is None:
        raise ValueError(
            f"the output head of {type(model).__name__} is tied already, or holds other numbers than the table; leave "
            "out tie"
        )
    for config in (model.config, model.config.get_text_config(decoder=True)):
        config.tie_word_embeddings = True
    model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)
    model.tie_weights(recompute_mapping=False)
    if place not in tied_modules(model, input_table_name(model)):
        raise ValueError(f"{type(model).__name__} has no tie between {place} and its table; leave out tie")


def settle_ties(model: PreTrainedModel) -> list[str]:
    """Let the config say what is so: untied, where a checkpoint's head differs from the table its config ties it to.

    Transformers loads such a checkpoint untied, with a warning, because it sees that the numbers differ. It could not
    see that of a compressed table, and would tie.

    Returns:
        The modules that have numbers of their own though the config promised otherwise. Some configs tie whatever they
        are told, T5's among them, so this must be noted elsewhere, too.
    """
    promised = model.get_expanded_tied_weights_keys(all_submodels=True)
    apart = [key for key in promised if key.endswith(".weight") and key not in model.all_tied_weights_keys]
    if apart:
        for config in (model.config, model.config.get_text_config(decoder=True)):
            config.tie_word_embeddings = False
    return [key.removesuffix(".weight") for key in apart]


def find_tables(model: PreTrainedModel) -> list[TableInfo]:
    """The input table, and the output head where it has numbers of its own.

    Raises:
        ValueError: If the model has no token embedding, or it is compressed already.
    """
    total = parameter_bytes(model)

    def describe(name: str, weight: Tensor, role: str, tied: list[str]) -> TableInfo:
        size = weight.numel() * weight.itemsize
        rows, width = weight.shape
        return TableInfo(name, role, tuple(tied), (rows, width), dtype_name(weight.dtype), size, size / total)

    name, weight = input_table(model)
    tied = tied_modules(model, name)
    tables = [describe(name, weight, "input", tied)]
    head = model.get_output_embeddings()
    if isinstance(head, nn.Linear) and module_name(model, head) not in tied:
        output = module_name(model, head)
        tables.append(describe(output, head.weight, "output", tied_modules(model, output)))
    return tables
