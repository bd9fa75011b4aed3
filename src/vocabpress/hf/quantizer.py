"""The quantizer that transformers calls at load and at save.

Importing this module registers ``"vocabpress"`` with transformers. On disk one tensor of each table, the largest whose
shape is not (V, d), has the table's original key ``<embedding>.weight``. The reason: without vocabpress, transformers
ignores an unknown quantization_config with a warning, and would run on a random table. The wrong shape makes it stop.
"""

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.core_model_loading import WeightRenaming, WeightTransform
from transformers.quantizers import auto
from transformers.quantizers.base import HfQuantizer

from vocabpress.budget import DTYPES
from vocabpress.embeddings import CompressedEmbedding, build
from vocabpress.hf.config import VocabpressConfig
from vocabpress.hf.fit import EVEN, fit, put, without_converters
from vocabpress.hf.inner import HOOKS, Unquantised, as_bool, make_quantizer, without_deserialisers
from vocabpress.hf.linears import compress_linears
from vocabpress.hf.modules import TiedHead, TokenEmbedding, check_readers, keep_in_memory, owned_tables, read_with
from vocabpress.hf.original import Original
from vocabpress.hf.overrides import override
from vocabpress.hf.states import SIGN, all_shortened, anchor, with_stored
from vocabpress.hf.stored import check_digests, check_places, check_size, check_stored_table, digests, read_headers
from vocabpress.hf.swap import install, install_linear, uninstall
from vocabpress.hf.tables import base_prefix, module_name, resolve, text_config
from vocabpress.registration import QUANT_METHOD


def attach(model: PreTrainedModel, config: VocabpressConfig) -> None:
    """Give a model that was compressed in memory its quantizer, which `save_pretrained` and `dequantize` use.

    If its body is quantised, our quantizer wraps that of the body, and ``config`` gets its config as ``inner``.
    """
    body: HfQuantizer | None = getattr(model, "hf_quantizer", None)
    config.inner = None if body is None else body.quantization_config.to_dict()
    quantizer = VocabpressQuantizer(config, pre_quantized=True, inner=body)
    if body is None:
        vars(model).update(is_quantized=True, quantization_method=QUANT_METHOD)  # as `from_pretrained` does
        quantizer.inner.postprocess_model(model)
    vars(model)["hf_quantizer"] = quantizer
    quantizer.settle(model)


class VocabpressQuantizer(HfQuantizer):
    """Builds the compressed modules before a checkpoint loads, and names their tensors when it is saved.

    The config is that of the checkpoint, or how to compress at load; ``inner``, the quantizer of a body that is
    quantised already, is made from it if it is None.
    """

    requires_calibration = False
    quantization_config: VocabpressConfig

    def __init__(self, quantization_config: VocabpressConfig, inner: HfQuantizer | None = None, **kwargs: Any) -> None:
        quantization_config = copy.deepcopy(quantization_config)  # the caller may load another model with it
        super().__init__(quantization_config, **kwargs)
        self._renamings: dict[str, str] = {}  # key in the file -> key in the model, both relative to the base model
        self._tied = False  # `tie_word_embeddings` of a tied head, when the tables were installed
        self._dtype: torch.dtype | None = None  # dtype of the model while a compressed checkpoint is loaded
        if inner is None and quantization_config.inner is not None:
            inner = make_quantizer(quantization_config.inner, self.pre_quantized)
        self._delegate_to(inner or Unquantised(quantization_config, pre_quantized=self.pre_quantized))

    def _delegate_to(self, inner: HfQuantizer) -> None:
        """Let the body's quantizer answer the hooks about parameters. None of them concerns a table."""
        self.inner = inner
        for hook in HOOKS:
            if hasattr(inner, hook):
                setattr(self, hook, getattr(inner, hook))

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        if self.pre_quantized:
            ignored = model._keys_to_ignore_on_load_unexpected or ()
            model._keys_to_ignore_on_load_unexpected = {*ignored, rf"\.{SIGN}$"}
            files = kwargs.get("checkpoint_files") or []  # none if the caller passes a state dict
            check_places(files, model)
            placed = self._place(model)
            if files:  # which must match the config before memory is allocated
                entries, metadata = read_headers(files)
                for known, key, table in placed:
                    check_stored_table(known, key, table, entries)
                check_size(model, files)
                if self.quantization_config.verify:
                    check_digests(entries, metadata, self.quantization_config.to_dict())
        # Only now: the installed modules are no `nn.Linear` or `nn.Embedding`, so the body's quantizer skips them.
        self.inner.preprocess_model(model, **kwargs)

    def _place(self, model: PreTrainedModel) -> list[tuple[str, str | None, CompressedEmbedding]]:
        """Install the config's tables on the meta device; returns the end of each one's keys, its anchor, and it."""
        self._dtype = torch.get_default_dtype()  # transformers builds the model under its own dtype
        config, placed = self.quantization_config, []
        separate = [f"{prefix}{name}" for name in config.separate for prefix in {"", base_prefix(model)}]
        kinds = ((partial(install, separate=separate), config.tables), (install_linear, config.linears))
        for install_one, stored in kinds:
            for name, form in stored.items():
                place, table = resolve(model, name), build(form)
                if place is None:
                    continue
                install_one(model, place, table)
                known, key = name if place.endswith(name) else place, anchor(table)
                if key is not None:
                    self._renamings[f"{known}.weight"] = f"{known}.table.{key}"
                placed.append((known, key, table))
        return placed

    def update_weight_conversions(
        self, weight_conversions: list[WeightTransform], model: PreTrainedModel | None = None
    ) -> list[WeightTransform]:
        """Add the renaming of each table's anchor, and the body's conversions. Older transformers pass no model."""
        # The pattern is searched for in the key, so the base model's prefix may precede it.
        renamings = [WeightRenaming(rf"(?<!\w){key}", target) for key, target in self._renamings.items()]
        names = [*self.quantization_config.tables, *self.quantization_config.linears]
        others = without_converters(weight_conversions, names)
        model_argument: Any = () if model is None else (model,)
        return [*self.inner.update_weight_conversions(others, *model_argument), *renamings]

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        config = self.quantization_config
        self.inner.postprocess_model(model, **kwargs)
        if getattr(self.inner.quantization_config, "dequantize", False):  # transformers has unpacked the body
            config.inner = None
            self._delegate_to(Unquantised(config))
            self.inner.preprocess_model(model)
            self.inner.postprocess_model(model)
        vars(model)["hf_quantizer"] = self
        if not self.pre_quantized and not config.tables:
            original, request = Original.of(model), config.request
            maps = compress_linears(model, request.linears)
            vars(config).update(put(original, fit(original, request), EVEN, maps).stored)
        elif self._dtype is not None:
            for name, table in owned_tables(model).items():
                _check_loaded(name, table, model)
                keep_in_memory(table)
                for parameter in table.parameters():  # some versions leave renamed tensors in the file's dtype
                    parameter.data = parameter.data.to(self._dtype)
                table.check_numbers()
        self.settle(model)
        return model

    def settle(self, model: PreTrainedModel) -> None:
        """Prepare a model with installed tables to be read, saved and resized."""
        _set_config(model, self.quantization_config)
        tied = isinstance(model.get_output_embeddings(), TiedHead)  # LUKE's head is not, whatever its config says
        self._tied = tied and bool(getattr(model.config, "tie_word_embeddings", False))
        without_deserialisers(model)
        override(model, plain_body=self.quantization_config.inner is None)
        read_with(model, hot_rows=self.quantization_config.hot_rows, resident=self.quantization_config.resident)

    def get_state_dict_and_metadata(  # pyright: ignore[reportIncompatibleMethodOverride]: the base returns None
        self, model: PreTrainedModel
    ) -> tuple[dict[str, Tensor], dict[str, str]]:
        """The tensors to save: each in its form's stored dtype, the anchor under the original key."""
        config = self.quantization_config
        if config.inner is not None:  # it changes if the first forward pass unpacks the body
            config.inner = self.inner.quantization_config.to_dict()
        self._update_configs(model)
        body, metadata = self.inner.get_state_dict_and_metadata(model)
        state, tables = model.state_dict() if body is None else body, owned_tables(model)
        if not tables:
            return state, metadata
        state = with_stored(state, tables)
        if config.rest == "float16":
            state = all_shortened(state)
        version = {"vocabpress_format_version": str(config.format_version)}
        return state, metadata | version | digests(model, state, config.to_dict())

    def _update_configs(self, model: PreTrainedModel) -> None:
        """Update the configs to the modules that are compressed now; the user may have replaced some."""
        check_readers(model)
        config, tables, linears = self.quantization_config, {}, {}
        known = {resolve(model, name): name for name in (*config.tables, *config.linears)}
        for name, table in owned_tables(model).items():
            found = tables if isinstance(model.get_submodule(name), TokenEmbedding) else linears
            found[known.get(name, name.removeprefix(base_prefix(model)))] = table.config()
        config.tables, config.linears = tables, linears
        body = None if config.inner is None else self.inner.quantization_config
        _set_config(model, config if tables or linears else body)
        # When PEFT merges, it compares the addresses of dense weights, and unties ours in the config.
        if self._tied and tables:
            head = model.get_output_embeddings()
            model.config.tie_word_embeddings = not isinstance(head, nn.Linear)
            if isinstance(head, nn.Linear):
                own = module_name(model, head).removeprefix(base_prefix(model))
                config.separate = sorted({*config.separate, own})

    def _dequantize(self, model: PreTrainedModel, dtype: torch.dtype | str | None = None) -> PreTrainedModel:
        # After a save config.dtype is a string, which transformers passes here.
        dense = DTYPES[dtype] if isinstance(dtype, str) else dtype or model.dtype
        if self.quantization_config.inner is not None:
            self.inner._dequantize(model, dtype=dense)
        uninstall(model, dense)
        _set_config(model, None)
        return model

    def is_serializable(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Whether the body can be saved; tables always can."""
        return as_bool(self.inner.is_serializable)

    @property
    def is_trainable(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride, reportIncompatibleMethodOverride]
        """Whether adapters train on top of the body; on top of tables they always do."""
        return as_bool(self.inner.is_trainable)

    @property
    def is_qat_trainable(self) -> bool:
        """Whether the body trains. A table's continuous tensors always do; its codes are fixed."""
        return as_bool(self.inner.is_qat_trainable)

    @property
    def is_compileable(self) -> bool:
        """Whether the body compiles; tables always do, because no shape depends on data."""
        return as_bool(self.inner.is_compileable)


def _set_config(model: PreTrainedModel, quantization: Any) -> None:
    """Set or remove ``quantization_config`` in the config of a model, and of its text part, which may load alone."""
    for config in (model.config, text_config(model)):
        if config is not None and quantization is not None:
            config.quantization_config = quantization
        elif config is not None:
            vars(config).pop("quantization_config", None)


def _check_loaded(name: str, table: CompressedEmbedding, model: PreTrainedModel) -> None:
    """Check that a table was loaded: transformers only warns about missing keys, and leaves random memory in it."""
    tensors = (*table.parameters(), *table.buffers())
    if not any(tensor.is_meta or getattr(tensor, "_is_hf_initialized", False) for tensor in tensors):
        raise ValueError(
            f"the checkpoint has no numbers for {name} of {type(model).__name__} under a name that fits; load it with "
            "the class that its config names"
        )


if auto.AUTO_QUANTIZER_MAPPING.get(QUANT_METHOD) is not VocabpressQuantizer:
    # In the place of the placeholders, see `registration`.
    auto.AUTO_QUANTIZATION_CONFIG_MAPPING[QUANT_METHOD] = VocabpressConfig
    auto.AUTO_QUANTIZER_MAPPING[QUANT_METHOD] = VocabpressQuantizer
    # A config given at load can override fields of the checkpoint's only if it has one of these types.
    auto.LOADING_ATTRIBUTES_CONFIG_TYPES = (*auto.LOADING_ATTRIBUTES_CONFIG_TYPES, VocabpressConfig)
