"""A tiny model with all its linear maps in codes: `compress_model` for all that `compress --model-size` codes."""

import copy
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from conformance.inputs import Inputs, outputs
from vocabpress import TCQ, Budget, VocabpressConfig
from vocabpress.embeddings import CompressedEmbedding
from vocabpress.hf.fit import EVEN, fit, put
from vocabpress.hf.maps import find_maps, put_map, set_weight, weight_of, write_counts
from vocabpress.hf.original import Original
from vocabpress.hf.quantizer import attach
from vocabpress.hf.request import Request
from vocabpress.methods.ldlq import LDLQ

METHOD = LDLQ(memory=8, feedback="none")
BITS = 4


def rounded(model: nn.Module) -> None:
    """Round to what float16 represents: so is stored what is not coded."""
    for each in model.state_dict().values():
        if each.dtype == torch.float32:
            each.copy_(each.half())


def codable(model: PreTrainedModel, inputs: Inputs) -> set[str]:
    """The maps of any size that a forward pass calls and does not write to, like those that `Body` codes.

    RWKV writes once, so a fresh model is run.
    """
    fresh, seen = type(model)(copy.deepcopy(model.config)).eval(), set[str]()
    maps = find_maps(fresh, least=1)
    before = {name: write_counts(module) for name, module in maps.items()}
    for name, module in maps.items():
        module.register_forward_pre_hook(lambda *_, name=name: seen.add(name))
    outputs(fresh, inputs)
    return {name for name in seen if write_counts(maps[name]) == before[name]}


@torch.no_grad()
def compress_whole(
    model: PreTrainedModel, original: PreTrainedModel, inputs: Inputs
) -> tuple[CompressedEmbedding, int]:
    """Compress the table and all maps of a model; its ``original`` gets the decoded maps.

    Returns:
        The table, and how many maps were coded.
    """
    known, linears = Original.of(model), dict[str, Any]()
    chosen = codable(model, inputs)
    for name, module in find_maps(model, least=1).items():
        if name not in chosen:
            continue
        weight = weight_of(module).float().clone()
        form = METHOD.fit(weight, torch.eye(weight.shape[1]), None, BITS)
        set_weight(original.base_model.get_submodule(name), form.dense(), None)
        put_map(model, name, form, None)
        linears[name] = form.config()
    fitted = fit(known, Request(TCQ(8), Budget.ratio(4)))
    done = put(known, fitted, EVEN, (linears, []))
    attach(model, VocabpressConfig(**done.stored, rest="float16"))
    return done.table, len(linears)
