"""Find the linear maps of a model by its structure, whatever they are called, and put compressed ones in their place."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from vocabpress.embeddings import CompressedEmbedding
from vocabpress.hf.inner import is_quantised
from vocabpress.hf.swap import install_linear
from vocabpress.hf.tables import base_prefix, tied_modules

LEAST = 2**12  # entries of a map that is worth coding


def find_maps(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Name, relative to the base model, -> module, for all plain maps of the base model, in the order of the model.

    Maps that are tied to something, quantised, or of fewer than `LEAST` entries are left out.
    """
    base, prefix = model.base_model, base_prefix(model)
    found: dict[str, nn.Module] = {}
    for name, module in base.named_modules():
        plain = type(module) is nn.Linear or type(module) is Conv1D
        if plain and module.weight.numel() >= LEAST and not is_quantised(module.weight):
            if not tied_modules(model, f"{prefix}{name}"):
                found[name] = module
    return found


def weight_of(module: Any) -> Tensor:
    """The weight of a map, (outputs, inputs); a view, float32 if it is that."""
    weight = module.weight.detach()
    return weight.T if type(module) is Conv1D else weight


@torch.no_grad()
def put_map(model: PreTrainedModel, name: str, form: CompressedEmbedding, shift: Tensor | None) -> None:
    """Replace a map, named relative to the base model, by a compressed one; ``shift``, (outputs), is added to its bias."""
    place = f"{base_prefix(model)}{name}"
    module: Any = model.get_submodule(place)
    if module.bias is not None and shift is not None:
        module.bias += shift.to(module.bias)
    install_linear(model, place, form.to(module.weight.device, module.weight.dtype))


@torch.no_grad()
def set_weight(module: Any, weight: Tensor, shift: Tensor | None) -> None:
    """Give a map another weight, (outputs, inputs), and add a shift, (outputs), to its bias if it has one."""
    weight_of(module).copy_(weight)
    if module.bias is not None and shift is not None:
        module.bias += shift
