"""Install compressed tables and linear maps in a model, with everything tied to them, and remove them again."""

from collections.abc import Collection

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from vocabpress.embeddings import CompressedEmbedding
from vocabpress.hf.inner import is_quantised
from vocabpress.hf.modules import ADDITIONS, CompressedLinear, TiedHead, TokenEmbedding
from vocabpress.hf.overrides import restore
from vocabpress.hf.tables import tied_modules


def install(model: PreTrainedModel, name: str, table: CompressedEmbedding, separate: Collection[str] = ()) -> None:
    """Replace the embedding ``name``, and all modules tied to it, by modules that read ``table``.

    Transformers ties ``weight`` parameters by their names. These parameters no longer exist, so their ties are dropped:
    the head now refers to the table itself. Ties of biases remain. Modules in the model's map of ties that have a
    weight of their own, ``separate``, are not replaced.

    Raises:
        ValueError: If a module is neither an embedding nor a linear head, or the shapes differ.
    """
    owner = model.get_submodule(name)
    _check_shape(name, getattr(owner, "num_embeddings", None), getattr(owner, "embedding_dim", None), table)
    tied = [other for other in tied_modules(model, name) if other not in separate]
    replacements: dict[str, nn.Module] = {name: TokenEmbedding(table, owner)}
    for other in tied:
        module = model.get_submodule(other)
        if isinstance(module, nn.Linear) and {child for child, _ in module.named_children()} <= {"additional_fc"}:
            replacements[other] = TiedHead(table, module.bias, getattr(module, "additional_fc", None))
        elif isinstance(module, nn.Embedding):
            replacements[other] = TokenEmbedding(table, module, owner=False)
        else:
            raise ValueError(f"{other} is tied to {name} and is a {type(module).__name__}, which is not supported yet")
    _drop_ties(model, {f"{place}.weight" for place in replacements})
    for place, module in replacements.items():
        model.set_submodule(place, module)


def check_linear(model: PreTrainedModel, name: str) -> nn.Linear:
    """The module ``name``; a ValueError if it does not compute the same as an `nn.Linear`, is quantised, or tied."""
    module = model.get_submodule(name)
    if not isinstance(module, nn.Linear) or type(module).forward is not nn.Linear.forward:
        raise ValueError(
            f"{name} is a {type(module).__name__}; only plain linear maps (nn.Linear) of an original can be stored as "
            "Kronecker products, so leave out its role"
        )
    if is_quantised(module.weight):
        raise ValueError(
            f"{name} is quantised; a Kronecker product needs the original weight, so leave out the linear maps or the "
            "quantised body"
        )
    if _without(model.all_tied_weights_keys, {f"{name}.weight"}) != model.all_tied_weights_keys:
        raise ValueError(f"{name} shares its weight with another module, so leave out its role")
    return module


def install_linear(model: PreTrainedModel, name: str, table: CompressedEmbedding) -> None:
    """Replace the linear map ``name``, or GPT-2's `Conv1D`, by one that reads ``table`` and has the same bias.

    Raises:
        ValueError: As `check_linear`, or if the shapes differ.
    """
    module = model.get_submodule(name)
    if type(module) is Conv1D:
        sides = module.nf, module.nx
    else:
        module = check_linear(model, name)
        sides = module.out_features, module.in_features
    _check_shape(name, *sides, table)
    model.set_submodule(name, CompressedLinear(table, module.bias))


def _check_shape(name: str, rows: int | None, columns: int | None, table: CompressedEmbedding) -> None:
    if (rows, columns) != (table.num_embeddings, table.embedding_dim):
        raise ValueError(
            f"{name} has the shape {(rows, columns)}, got a table of {(table.num_embeddings, table.embedding_dim)}"
        )


def uninstall(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Replace compressed embeddings, heads and linear maps by ordinary ones of this dtype, tied as before."""
    with torch.device("meta"):
        skeleton = type(model)(model.config)
    ties = {
        key: source for key, source in skeleton.all_tied_weights_keys.items() if not _stands_apart(model, key, source)
    }
    for name, module in list(model.named_modules()):
        if not isinstance(module, TokenEmbedding | CompressedLinear):
            continue
        dense = skeleton.get_submodule(name).to_empty(device=module.table.device).to(dtype)
        if isinstance(module, TokenEmbedding) and module.scale is not None and module.rounds_scale:
            scale = torch.full((), module.scale, device=module.table.device)
            dense.register_buffer("embed_scale", scale, persistent=False)
        with torch.no_grad():  # gives the same rows as inference, whose compiled loops round once
            weight = module.weight.to(dtype, copy=True)
            dense.weight = nn.Parameter(weight.T.contiguous() if type(dense) is Conv1D else weight)
        for addition in (*ADDITIONS, "additional_fc"):
            if getattr(module, addition, None) is not None:
                setattr(dense, addition, getattr(module, addition))
        if isinstance(module, CompressedLinear) and module.bias is not None:
            dense.bias = module.bias
        model.set_submodule(name, dense)
    for name, module in model.named_modules():
        if isinstance(module, PreTrainedModel):
            module.__dict__.pop("_tied_weights_keys", None)
            own = vars(skeleton.get_submodule(name))  # Marian's depend on its config
            vars(module).update({key: own[key] for key in ("_tied_weights_keys",) if key in own})
    restore(model)
    model.all_tied_weights_keys = ties
    model.tie_weights(recompute_mapping=False)


def _stands_apart(model: PreTrainedModel, target: str, source: str) -> bool:
    """Whether a parameter that the class ties to a compressed table has a value of its own."""
    if not target.endswith(".weight") or not source.endswith(".weight"):
        return False
    owner, other = (model.get_submodule(key.removesuffix(".weight")) for key in (source, target))
    return isinstance(owner, TokenEmbedding) and isinstance(getattr(other, "weight", None), nn.Parameter)


def _drop_ties(model: PreTrainedModel, gone: set[str]) -> None:
    """Remove the ties of parameters that will be replaced, in the model's map and those of models inside it."""
    model.all_tied_weights_keys = _without(model.all_tied_weights_keys, gone)
    for prefix, module in model.named_modules():
        if isinstance(module, PreTrainedModel):
            own = module.get_expanded_tied_weights_keys()
            here = {key.removeprefix(f"{prefix}.") for key in gone} if prefix else gone
            # Models that don't call `post_init` have no map.
            module.all_tied_weights_keys = _without(getattr(module, "all_tied_weights_keys", {}), here)
            module._tied_weights_keys = _without(own, here)


def _without(ties: dict[str, str], gone: set[str]) -> dict[str, str]:
    return {target: source for target, source in ties.items() if target not in gone and source not in gone}
