"""Methods of a model that are ours once its tables are compressed; they stand in the model itself, not in its class.

The largest is `resize_token_embeddings`, which transformers has for dense tables alone.
"""

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import PreTrainedModel

from vocabpress.embeddings import CompressedEmbedding, Dense, Rows
from vocabpress.hf.modules import CompressedLinear, TokenEmbedding
from vocabpress.hf.tables import base_prefix, input_table_name

PEFT_LOOKS_FOR = "embeddings.word_embeddings"


def get_submodule(model: PreTrainedModel, target: str) -> nn.Module:
    """As torch's, but that the name under which PEFT looks for a token embedding first finds it in any model.

    PEFT's prompt tuning would else look for a parameter with a row for each token, which a compressed table lacks.
    """
    try:
        return nn.Module.get_submodule(model, target)
    except AttributeError:
        if target != PEFT_LOOKS_FOR:
            raise
        return model.get_input_embeddings()


def half(model: PreTrainedModel, *arguments: Any) -> Any:
    """As torch's; transformers has it of models alone that are not quantised, and here it is the tables that are."""
    return nn.Module.half(model, *arguments)


def single(model: PreTrainedModel, *arguments: Any) -> Any:
    """As `half`, for ``float``."""
    return nn.Module.float(model, *arguments)


def resize_token_embeddings(
    model: PreTrainedModel,
    new_num_tokens: int | None = None,
    pad_to_multiple_of: int | None = None,
    mean_resizing: bool = True,
) -> TokenEmbedding:
    """Add tokens at the end of the table, and of every head that has a row for each token.

    The rows of added tokens are exact: ``Rows([compressed, Dense])``, stored in the model's dtype, and they train. So
    does a model's own `resize_token_embeddings` once its table is compressed.

    Args:
        model: With a compressed input table; changed in place.
        new_num_tokens: Rows from then on; None leaves their number as it is, but for the padding.
        pad_to_multiple_of: Rounds the number up.
        mean_resizing: Whether added rows start as the mean row; else normal, of ``config.initializer_range``.

    Returns:
        The module that embeds tokens.

    Raises:
        ValueError: If there would be fewer tokens than now.
    """
    owner: Any = model.get_submodule(input_table_name(model))
    before, wanted = owner.num_embeddings, new_num_tokens or owner.num_embeddings
    after = wanted if pad_to_multiple_of is None else -(-wanted // pad_to_multiple_of) * pad_to_multiple_of
    if after < before:
        raise ValueError(
            f"a compressed table of {before} tokens can't shrink to {after}; trim the original (vocabpress trim) first"
        )
    if after == before:
        return owner
    old: CompressedEmbedding = owner.table
    added = Dense.of(_first_rows(model, owner, after - before, mean_resizing), model.dtype)
    table = Rows([old, added.to(old.device, model.dtype)])
    for module in list(model.modules()):
        if isinstance(module, TokenEmbedding | CompressedLinear) and module.table is old:
            module.read(table)
    _grow_biases(model, before, after)
    _grow_others(model, before, after, mean_resizing)
    config: Any = model.config
    config.get_text_config().vocab_size = after
    stored = config.quantization_config.tables
    stored[input_table_name(model).removeprefix(base_prefix(model))] = table.config()
    return owner


def _first_rows(model: PreTrainedModel, owner: TokenEmbedding, count: int, mean: bool) -> Tensor:
    """What added rows hold at first, (count, d)."""
    if mean:
        return owner.weight.detach().mean(0).expand(count, -1).clone()
    deviation = getattr(model.config.get_text_config(), "initializer_range", 0.02)
    return torch.randn(count, owner.embedding_dim, device=owner.table.device, dtype=model.dtype) * deviation


def _grow_biases(model: PreTrainedModel, before: int, after: int) -> None:
    """Zeros for the added tokens in the biases of tied heads, wherever else in the model they stand."""
    heads = [module for module in model.modules() if isinstance(module, CompressedLinear)]
    for bias in {id(head.bias): head.bias for head in heads if head.bias is not None}.values():
        if len(bias) != before:
            continue
        grown = nn.Parameter(pad(bias.detach(), (0, after - before)), requires_grad=bias.requires_grad)
        for module in list(model.modules()):
            for name, parameter in list(module.named_parameters(recurse=False)):
                if parameter is bias:
                    setattr(module, name, grown)


def _grow_others(model: Any, before: int, after: int, mean: bool) -> None:
    """A head with numbers of its own, and the buffer of biases that BART and its kin have."""
    head = model.get_output_embeddings()
    if isinstance(head, nn.Linear) and head.out_features == before:
        model.set_output_embeddings(model._get_resized_lm_head(head, after, mean_resizing=mean))
    if hasattr(model, "_resize_final_logits_bias"):
        model._resize_final_logits_bias(after)


OURS = {"resize_token_embeddings": resize_token_embeddings, "get_submodule": get_submodule}
OF_PLAIN_BODIES = {"half": half, "float": single}


def override(model: PreTrainedModel, plain_body: bool) -> None:
    """Give a model our methods.

    Args:
        model: With compressed tables.
        plain_body: Whether no library has quantised the rest.
    """
    restore(model)
    for name, method in (OURS | (OF_PLAIN_BODIES if plain_body else {})).items():
        vars(model)[name] = MethodType(method, model)


def restore(model: PreTrainedModel) -> None:
    """Give a model its class' methods back."""
    for name in OURS | OF_PLAIN_BODIES:
        vars(model).pop(name, None)
