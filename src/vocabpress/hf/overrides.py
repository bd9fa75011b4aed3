"""Methods that replace those of a model while its tables are compressed. They are set on the instance, not the class.

The largest is `resize_token_embeddings`, which transformers has only for dense tables.
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

PEFT_NAME = "embeddings.word_embeddings"


def get_submodule(model: PreTrainedModel, target: str) -> nn.Module:
    """The method of torch, but the first name that PEFT tries for a token embedding finds it in any model.

    Otherwise PEFT's prompt tuning looks for a parameter with a row for each token, which a compressed table lacks.
    """
    try:
        return nn.Module.get_submodule(model, target)
    except AttributeError:
        if target != PEFT_NAME:
            raise
        return model.get_input_embeddings()


def resize_token_embeddings(
    model: PreTrainedModel,
    new_num_tokens: int | None = None,
    pad_to_multiple_of: int | None = None,
    mean_resizing: bool = True,
) -> TokenEmbedding:
    """Add tokens at the end of the table, and of every head that has a row for each token.

    The rows of added tokens are exact: the table becomes ``Rows([compressed, Dense])``, the new rows stored in the
    model's dtype, and they can be trained. A compressed model's own `resize_token_embeddings` is this function, with
    the arguments of transformers: with ``mean_resizing`` added rows start as the mean row, otherwise they are normal
    with standard deviation ``config.initializer_range``.

    Raises:
        ValueError: If there would be fewer tokens than now.
    """
    owner: Any = model.get_submodule(input_table_name(model))
    before, tokens = owner.num_embeddings, new_num_tokens or owner.num_embeddings
    after = tokens if pad_to_multiple_of is None else -(-tokens // pad_to_multiple_of) * pad_to_multiple_of
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
    """Initial values of added rows, (count, d)."""
    if mean:
        return owner.weight.detach().mean(0).expand(count, -1).clone()
    deviation = getattr(model.config.get_text_config(), "initializer_range", 0.02)
    return torch.randn(count, owner.embedding_dim, device=owner.table.device, dtype=model.dtype) * deviation


def _grow_biases(model: PreTrainedModel, before: int, after: int) -> None:
    """Add zeros for the new tokens to the biases of tied heads, in every module that shares such a bias."""
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
    """Resize a head with a weight of its own, and the buffer of biases in models such as BART."""
    head = model.get_output_embeddings()
    if isinstance(head, nn.Linear) and head.out_features == before:
        model.set_output_embeddings(model._get_resized_lm_head(head, after, mean_resizing=mean))
    if hasattr(model, "_resize_final_logits_bias"):
        model._resize_final_logits_bias(after)


OURS = {"resize_token_embeddings": resize_token_embeddings, "get_submodule": get_submodule}
# Transformers forbids these for every quantised model. They are safe if only the tables are compressed.
FOR_PLAIN_BODIES = {"half": nn.Module.half, "float": nn.Module.float}


def override(model: PreTrainedModel, plain_body: bool) -> None:
    """Set our methods on a model with compressed tables, and those that need a body that is not quantised."""
    restore(model)
    for name, method in (OURS | (FOR_PLAIN_BODIES if plain_body else {})).items():
        vars(model)[name] = MethodType(method, model)


def restore(model: PreTrainedModel) -> None:
    """Remove our methods, so that those of the class apply again."""
    for name in OURS | FOR_PLAIN_BODIES:
        vars(model).pop(name, None)
