"""Compressing the input table of a model in memory."""

from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch
from transformers import PreTrainedModel

from vocabpress.embeddings import CompressedEmbedding
from vocabpress.fitting.shards import ALONE, Shards
from vocabpress.hf.config import VocabpressConfig
from vocabpress.hf.keys import without_converters
from vocabpress.hf.swap import install
from vocabpress.hf.tables import base_prefix, input_table, settle_ties, tied_head
from vocabpress.methods import TCQ, FastScan, Method, method_name, method_settings


def default_method(model: PreTrainedModel) -> Method:
    """Where an output head shares the table, `FastScan`, whose logits need no row decoded; `TCQ` elsewhere."""
    return TCQ() if tied_head(model) is None else FastScan()


def compress_input_table(
    model: PreTrainedModel,
    config: VocabpressConfig,
    device: str | None = None,
    weighted_by: str = "uniform",
    shards: Shards = ALONE,
    **fit: Any,
) -> CompressedEmbedding:
    """Fit the input table of a loaded model, install the result, and note it in ``config``.

    Args:
        model: Changed in place.
        config: Says method, budget and seed; gets the table's config and where its numbers come from.
        device: Where to fit; None is where the table is.
        weighted_by: A word for where the token weights come from.
        shards: The processes that fit it together; each has loaded the model, and reads its own rows of the table.
        fit: ``token_weights``, ``metric`` and ``progress`` of the fit.

    Returns:
        The installed table.

    Raises:
        ValueError: If the table is compressed already, or can't be fitted.
    """
    name, weight = input_table(model)
    place = torch.device(device) if device is not None else weight.device
    generator = torch.Generator(place).manual_seed(config.seed)
    method = config.method or default_method(model)
    own = shards.rows(*weight.shape)
    rows = weight.detach()[own.start : own.stop].to(place)
    table = method.fit(rows, budget=config.budget, generator=generator, shards=shards, **fit)
    conversions: Any = getattr(model, "_weight_conversions", None)
    if conversions:  # what a save would undo
        setattr(model, "_weight_conversions", without_converters(conversions, [name]))  # noqa: B010
    separate = settle_ties(model)
    install(model, name, table.to(weight.device, weight.dtype), separate)
    config.separate = [module.removeprefix(base_prefix(model)) for module in separate]
    config.tables[name.removeprefix(base_prefix(model))] = table.config()
    config.fitted_by = {
        "method": method_name(method),
        "settings": method_settings(method),
        "budget": asdict(config.budget),
        "seed": config.seed,
        "token_weights": weighted_by,
        "vocabpress": version("vocabpress"),
        "torch": str(torch.__version__),
        **(config.fitted_by or {}),
    }
    return table
