"""Find the linear maps of a model by its structure, whatever their names, and put compressed ones in their place."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from vocabpress.embeddings import CompressedEmbedding
from vocabpress.hf.inner import is_quantised
from vocabpress.hf.swap import install, install_linear
from vocabpress.hf.tables import base_prefix, input_table_name, tied_modules

LEAST = 2**12  # entries of a map that is worth coding
LEAST_ROWS = 16  # of an embedding


def find_maps(model: PreTrainedModel, least: int = LEAST) -> dict[str, nn.Module]:
    """Name, relative to the base model, -> module, for all plain maps of the base model, in the order of the model.

    Embeddings of other things than tokens, such as positions, are among them. What is tied to something, quantised, or
    has fewer than ``least`` entries is left out.
    """
    base: nn.Module = model.base_model
    prefix, found = base_prefix(model), dict[str, nn.Module]()
    tokens = model.get_submodule(input_table_name(model))
    for name, each in base.named_modules():
        module: Any = each
        plain = type(module) in (nn.Linear, Conv1D)
        if type(module) is nn.Embedding and module is not tokens:
            plain = module.num_embeddings >= LEAST_ROWS and module.max_norm is None
        large = plain and module.weight.numel() >= least and not is_quantised(module.weight)
        if large and not tied_modules(model, f"{prefix}{name}"):
            found[name] = module
    return found


def weight_of(module: Any) -> Tensor:
    """The weight of a map, (outputs, inputs); a view, float32 if it is that."""
    weight = module.weight.detach()
    return weight.T if type(module) is Conv1D else weight


def write_counts(module: nn.Module) -> dict[str, int]:
    """How often each parameter has been written to; models that scale weights in a forward pass (RWKV) add to it."""
    return {name: each._version for name, each in module.named_parameters()}


@torch.no_grad()
def put_map(model: PreTrainedModel, name: str, form: CompressedEmbedding, shift: Tensor | None) -> None:
    """Replace a map, named relative to the base model, by a compressed one; add ``shift``, (outputs), to its bias."""
    place = f"{base_prefix(model)}{name}"
    module: Any = model.get_submodule(place)
    form = form.to(module.weight.device, module.weight.dtype)
    if isinstance(module, nn.Embedding):
        install(model, place, form)
        return
    if module.bias is not None and shift is not None:
        module.bias += shift.to(module.bias)
    install_linear(model, place, form)


@torch.no_grad()
def set_weight(module: Any, weight: Tensor, shift: Tensor | None) -> None:
    """Give a map another weight, (outputs, inputs), and add a shift, (outputs), to its bias if it has one."""
    weight_of(module).copy_(weight)
    if shift is not None and getattr(module, "bias", None) is not None:
        module.bias += shift
