"""The contract with transformers: what happens at load and at save.

Importing this module registers ``"vocabpress"`` with transformers. On disk one tensor of each table, the largest whose
shape is not (V, d), takes the table's original key ``<embedding>.weight``: a transformers that has not imported
vocabpress skips the unknown quantization_config with a warning, and would then run on a random table; so it meets a
shape that does not fit, and refuses.
"""

from collections.abc import Iterable
from functools import partial
from importlib.metadata import version
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import WeightConverter, WeightRenaming, WeightTransform
from transformers.quantizers import auto
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING, register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer

from vocabpress.budget import DTYPES
from vocabpress.embeddings import CompressedEmbedding, build
from vocabpress.hf.config import QUANT_METHOD, VocabpressConfig
from vocabpress.hf.linears import compress_linears
from vocabpress.hf.modules import owned_tables
from vocabpress.hf.resize import resize_token_embeddings
from vocabpress.hf.stored import check_digests, check_maps, check_places, check_size, check_table, digests, read_headers
from vocabpress.hf.swap import install, install_linear, uninstall
from vocabpress.hf.tables import base_prefix, has_input_table, input_table, settle_ties, tied_head
from vocabpress.methods import TCQ, FastScan, Method, method_name, method_settings


def resolve(model: PreTrainedModel, name: str) -> str | None:
    """The full name in this model of a module named relative to the base model; None in a model without token table.

    Raises:
        ValueError: If the model has a token table, but no such module.
    """
    names = {module for module, _ in model.named_modules()}
    # Some heads name another prefix than the one under which their base model stands; the base model knows it.
    for candidate in (base_prefix(model) + name, name, name.removeprefix(f"{model.base_model_prefix}.")):
        if candidate in names:
            return candidate
    if has_input_table(model):
        raise ValueError(f"the checkpoint's compressed {name!r} is not a module of {type(model).__name__}")
    return None  # such as the vision part of CLIP, loaded from a checkpoint of the whole


def anchor(table: CompressedEmbedding) -> str | None:
    """The stored tensor that takes the original key: the largest whose shape is not the table's.

    None for a lone `Dense` form: plain transformers reads that rightly.
    """
    shape = (table.num_embeddings, table.embedding_dim)
    misfits = [item for item in table.storage() if item.shape != shape]
    return max(misfits, key=lambda item: item.bits).name if misfits else None


def without_converters(conversions: list[WeightTransform], tables: Iterable[str]) -> list[WeightTransform]:
    """Conversions of checkpoints, but for those that put the weight of a table together from several tensors (Molmo 2).

    A compressed table is stored as it is.
    """
    keys = [f"{name}.weight" for name in tables]
    return [
        conversion
        for conversion in conversions
        if not isinstance(conversion, WeightConverter)
        or not any(key.endswith(target) for key in keys for target in conversion.target_patterns)
    ]


def default_method(model: PreTrainedModel) -> Method:
    """Where an output head shares the table, `FastScan`, whose logits need no row decoded; `TCQ` elsewhere."""
    return TCQ() if tied_head(model) is None else FastScan()


def compress_input_table(
    model: PreTrainedModel,
    config: VocabpressConfig,
    device: str | None = None,
    weighted_by: str = "uniform",
    **fit: Any,
) -> CompressedEmbedding:
    """Fit the input table of a loaded model, install the result, and note it in ``config``.

    Args:
        model: Changed in place.
        config: Says method, budget and seed; gets the table's config and where its numbers come from.
        device: Where to fit; None is where the table is.
        weighted_by: A word for where the token weights come from.
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
    table = method.fit(weight.detach().to(place), budget=config.budget, generator=generator, **fit)
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
        "budget": str(config.budget),
        "seed": config.seed,
        "token_weights": weighted_by,
        "vocabpress": version("vocabpress"),
        "torch": str(torch.__version__),
        **(config.fitted_by or {}),
    }
    return table


def attach(model: PreTrainedModel, config: VocabpressConfig) -> None:
    """Mark a model that was compressed in memory, so that `save_pretrained` and `dequantize` know of it."""
    quantizer = VocabpressQuantizer(config, pre_quantized=True)
    marks = {"hf_quantizer": quantizer, "is_quantized": True, "quantization_method": QUANT_METHOD}
    for name, value in marks.items():  # what `from_pretrained` sets
        setattr(model, name, value)
    quantizer.postprocess_model(model)


class VocabpressQuantizer(HfQuantizer):
    """Builds the compressed modules before a checkpoint loads, and names their tensors when it is saved."""

    requires_calibration = False
    quantization_config: VocabpressConfig

    def __init__(self, quantization_config: VocabpressConfig, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        self._renamings: dict[str, str] = {}  # key in the file -> key in the model, both relative to the base model
        self._dtype: torch.dtype | None = None  # of the model, while it is loaded from a compressed checkpoint

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        if not self.pre_quantized:
            return
        self._dtype = torch.get_default_dtype()  # transformers builds the model under its own dtype
        config = self.quantization_config
        files = kwargs.get("checkpoint_files") or []  # none where the tensors are given
        check_places(files, model)
        entries, metadata = read_headers(files)
        separate = [f"{prefix}{name}" for name in config.separate for prefix in {"", base_prefix(model)}]
        for put, stored in ((partial(install, separate=separate), config.tables), (install_linear, config.linears)):
            for name, form in stored.items():
                place, table = resolve(model, name), build(form)
                if place is None:
                    continue
                put(model, place, table)
                key = anchor(table)
                if key is not None:
                    self._renamings[f"{name}.weight"] = f"{name}.table.{key}"
                if files:
                    check_table(name, key, table, entries)
                    check_maps(name, key, table, entries)
        if files:
            check_size(model, files)
            if config.verify:
                check_digests(entries, metadata, config.to_dict())

    def update_weight_conversions(
        self, weight_conversions: list[WeightTransform], model: PreTrainedModel | None = None
    ) -> list[WeightTransform]:
        """Add the renaming of each table's anchor. Older versions of transformers don't pass the model."""
        # The pattern is searched for in the key, so that the base model's prefix may come before it.
        renamings = [WeightRenaming(rf"(?<!\w){key}", target) for key, target in self._renamings.items()]
        return [*without_converters(weight_conversions, self.quantization_config.tables), *renamings]

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        config = self.quantization_config
        if not self.pre_quantized and not config.tables:
            compress_linears(model, config)
            compress_input_table(model, config)
        elif self._dtype is not None:
            for table in owned_tables(model).values():
                for parameter in table.parameters():  # some versions leave renamed tensors in the dtype of the file
                    parameter.data = parameter.data.to(self._dtype)
                table.check_numbers()
        vars(model)[resize_token_embeddings.__name__] = MethodType(resize_token_embeddings, model)
        return model

    def get_state_dict_and_metadata(  # pyright: ignore[reportIncompatibleMethodOverride]: the base returns None
        self, model: PreTrainedModel
    ) -> tuple[dict[str, Tensor], dict[str, str]]:
        """The tensors as they are stored: each in its form's own dtype, the anchor under the original key."""
        state = model.state_dict()
        for name, table in owned_tables(model).items():
            key = anchor(table)
            for part, tensor in table.stored_tensors().items():
                del state[f"{name}.table.{part}"]
                state[f"{name}.weight" if part == key else f"{name}.table.{part}"] = tensor
        config = self.quantization_config
        version = {"vocabpress_format_version": str(config.format_version)}
        return state, version | digests(model, state, config.to_dict())

    def _dequantize(self, model: PreTrainedModel, dtype: torch.dtype | str | None = None) -> PreTrainedModel:
        # A save leaves config.dtype as text, which transformers passes on here.
        uninstall(model, DTYPES[dtype] if isinstance(dtype, str) else dtype or model.dtype)
        return model

    def is_serializable(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Saving works."""
        return True

    @property
    def is_trainable(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride, reportIncompatibleMethodOverride]
        """Adapters train on top."""
        return True

    @property
    def is_qat_trainable(self) -> bool:
        """The continuous parts train; the codes stay."""
        return True

    @property
    def is_compileable(self) -> bool:
        """No shape depends on data."""
        return True


if QUANT_METHOD not in AUTO_QUANTIZER_MAPPING:  # a second import of the module must not register twice
    register_quantization_config(QUANT_METHOD)(VocabpressConfig)
    register_quantizer(QUANT_METHOD)(VocabpressQuantizer)
    # Of a config given at load, only those of these types have a say beside the one in the checkpoint.
    auto.LOADING_ATTRIBUTES_CONFIG_TYPES = (*auto.LOADING_ATTRIBUTES_CONFIG_TYPES, VocabpressConfig)
