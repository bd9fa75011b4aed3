"""The contract with transformers: what happens at load and at save.

Importing this module registers ``"vocabpress"`` with transformers. On disk one tensor of each table, the largest whose
shape is not (V, d), takes the table's original key ``<embedding>.weight``: a transformers that has not imported
vocabpress skips the unknown quantization_config with a warning, and would then run on a random table; so it meets a
shape that does not fit, and refuses.
"""

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.core_model_loading import WeightRenaming, WeightTransform
from transformers.quantizers import auto
from transformers.quantizers.auto import (
    AUTO_QUANTIZATION_CONFIG_MAPPING,
    AUTO_QUANTIZER_MAPPING,
    register_quantization_config,
    register_quantizer,
)
from transformers.quantizers.base import HfQuantizer

from vocabpress.budget import DTYPES
from vocabpress.embeddings import CompressedEmbedding, build
from vocabpress.hf.config import QUANT_METHOD, VocabpressConfig
from vocabpress.hf.devices import keep_in_memory
from vocabpress.hf.fit import fit, without_converters
from vocabpress.hf.inner import HOOKS, Unquantised, holds, make_quantizer, without_deserialisers
from vocabpress.hf.modules import TokenEmbedding, check_readers, owned_tables
from vocabpress.hf.original import Original
from vocabpress.hf.overrides import override
from vocabpress.hf.reading import read_with
from vocabpress.hf.states import SIGN, anchor, with_stored
from vocabpress.hf.stored import check_digests, check_places, check_size, check_table, digests, read_headers
from vocabpress.hf.swap import install, install_linear, uninstall
from vocabpress.hf.tables import base_prefix, module_name, resolve, text_config


def attach(model: PreTrainedModel, config: VocabpressConfig) -> None:
    """Mark a model that was compressed in memory, so that `save_pretrained` and `dequantize` know of it.

    A model whose body is quantised keeps its quantizer: ours asks it, and ``config`` gets its config as ``inner``.
    """
    body: HfQuantizer | None = getattr(model, "hf_quantizer", None)
    config.inner = None if body is None else body.quantization_config.to_dict()
    quantizer = VocabpressQuantizer(config, pre_quantized=True, inner=body)
    if body is None:
        marks = {"is_quantized": True, "quantization_method": QUANT_METHOD}
        for name, value in marks.items():  # what `from_pretrained` sets
            setattr(model, name, value)
        quantizer.inner.postprocess_model(model)
    setattr(model, "hf_quantizer", quantizer)  # noqa: B010
    quantizer.settle(model)


class VocabpressQuantizer(HfQuantizer):
    """Builds the compressed modules before a checkpoint loads, and names their tensors when it is saved.

    Args:
        quantization_config: Of the checkpoint, or of what is to be done at load.
        inner: The quantizer of the body, where it has done its work already; None makes the one that the config names.
        kwargs: ``pre_quantized``, as transformers passes it.
    """

    requires_calibration = False
    quantization_config: VocabpressConfig

    def __init__(self, quantization_config: VocabpressConfig, inner: HfQuantizer | None = None, **kwargs: Any) -> None:
        quantization_config = copy.deepcopy(quantization_config)  # a model's own: another may be loaded by the same
        super().__init__(quantization_config, **kwargs)
        self._renamings: dict[str, str] = {}  # key in the file -> key in the model, both relative to the base model
        self._tied = False  # as the model's config said when its tables were in
        self._dtype: torch.dtype | None = None  # of the model, while it is loaded from a compressed checkpoint
        named = quantization_config.inner
        if inner is None and named is not None:
            inner = make_quantizer(named, self.pre_quantized)
        self._entrust(inner or Unquantised(quantization_config, pre_quantized=self.pre_quantized))

    def _entrust(self, inner: HfQuantizer) -> None:
        """Let a quantizer answer for the body. The table has no part that any of these hooks is meant for."""
        self.inner = inner
        for hook in HOOKS:
            if hasattr(inner, hook):
                setattr(self, hook, getattr(inner, hook))

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        if self.pre_quantized:
            ignored = model._keys_to_ignore_on_load_unexpected or ()
            model._keys_to_ignore_on_load_unexpected = {*ignored, rf"\.{SIGN}$"}
            files = kwargs.get("checkpoint_files") or []  # none where the tensors are given
            check_places(files, model)
            placed = self._place(model)
            if files:
                self._check_files(model, files, placed)
        # After the tables are in: what stands there now is no `nn.Linear` or `nn.Embedding`, so nothing quantises it.
        self.inner.preprocess_model(model, **kwargs)

    def _place(self, model: PreTrainedModel) -> list[tuple[str, str | None, CompressedEmbedding]]:
        """Put the config's tables in, without numbers; each with what its keys in the files end in, and its anchor."""
        self._dtype = torch.get_default_dtype()  # transformers builds the model under its own dtype
        config, placed = self.quantization_config, []
        separate = [f"{prefix}{name}" for name in config.separate for prefix in {"", base_prefix(model)}]
        for put, stored in ((partial(install, separate=separate), config.tables), (install_linear, config.linears)):
            for name, form in stored.items():
                place, table = resolve(model, name), build(form)
                if place is None:
                    continue
                put(model, place, table)
                known, key = name if place.endswith(name) else place, anchor(table)
                if key is not None:
                    self._renamings[f"{known}.weight"] = f"{known}.table.{key}"
                placed.append((known, key, table))
        return placed

    def _check_files(
        self, model: PreTrainedModel, files: list[str], placed: list[tuple[str, str | None, CompressedEmbedding]]
    ) -> None:
        """See that files hold what the config says, before memory is taken for it.

        Raises:
            ValueError: If not.
        """
        config, (entries, metadata) = self.quantization_config, read_headers(files)
        for known, key, table in placed:
            check_table(known, key, table, entries)
        check_size(model, files)
        if config.verify:
            check_digests(entries, metadata, config.to_dict())

    def update_weight_conversions(
        self, weight_conversions: list[WeightTransform], model: PreTrainedModel | None = None
    ) -> list[WeightTransform]:
        """Add the renaming of each table's anchor, and the body's. Older versions of transformers pass no model."""
        # The pattern is searched for in the key, so that the base model's prefix may come before it.
        renamings = [WeightRenaming(rf"(?<!\w){key}", target) for key, target in self._renamings.items()]
        kept = without_converters(weight_conversions, list(self.quantization_config.tables))
        rest: Any = () if model is None else (model,)
        return [*self.inner.update_weight_conversions(kept, *rest), *renamings]

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        config = self.quantization_config
        self.inner.postprocess_model(model, **kwargs)
        if getattr(self.inner.quantization_config, "dequantize", False):  # transformers has unpacked the body
            config.inner = None
            self._entrust(Unquantised(config))
            self.inner.preprocess_model(model)
            self.inner.postprocess_model(model)
        setattr(model, "hf_quantizer", self)  # noqa: B010
        if not self.pre_quantized and not config.tables:
            vars(config).update(fit(Original.of(model), config.request).stored)
        elif self._dtype is not None:
            for name, table in owned_tables(model).items():
                _check_read(name, table, model)
                keep_in_memory(table)
                for parameter in table.parameters():  # some versions leave renamed tensors in the dtype of the file
                    parameter.data = parameter.data.to(self._dtype)
                table.check_numbers()
        self.settle(model)
        return model

    def settle(self, model: PreTrainedModel) -> None:
        """Let a model whose tables are in save them, and grow them."""
        _say(model, self.quantization_config)
        self._tied = bool(getattr(model.config, "tie_word_embeddings", False))
        without_deserialisers(model)
        override(model, plain_body=self.quantization_config.inner is None)
        read_with(model, hot_rows=self.quantization_config.hot_rows, resident=self.quantization_config.resident)

    def get_state_dict_and_metadata(  # pyright: ignore[reportIncompatibleMethodOverride]: the base returns None
        self, model: PreTrainedModel
    ) -> tuple[dict[str, Tensor], dict[str, str]]:
        """The tensors as they are stored: each in its form's own dtype, the anchor under the original key.

        Raises:
            ValueError: If a tied head and its embedding no longer read the same table.
        """
        config = self.quantization_config
        if config.inner is not None:  # what is said of a body changes where its first run unpacks it
            config.inner = self.inner.quantization_config.to_dict()
        self._describe(model)
        body, metadata = self.inner.get_state_dict_and_metadata(model)
        state, tables = model.state_dict() if body is None else body, owned_tables(model)
        if not tables:
            return state, metadata
        state = with_stored(state, tables)
        version = {"vocabpress_format_version": str(config.format_version)}
        return state, metadata | version | digests(model, state, config.to_dict())

    def _describe(self, model: PreTrainedModel) -> None:
        """Let the configs say which modules are compressed now; some may have been exchanged since the model was made.

        Raises:
            ValueError: If a tied head and its embedding no longer read the same table.
        """
        check_readers(model)
        config, tables, linears = self.quantization_config, {}, {}
        known = {resolve(model, name): name for name in (*config.tables, *config.linears)}
        for name, table in owned_tables(model).items():
            found = tables if isinstance(model.get_submodule(name), TokenEmbedding) else linears
            found[known.get(name, name.removeprefix(base_prefix(model)))] = table.config()
        config.tables, config.linears = tables, linears
        body = None if config.inner is None else self.inner.quantization_config
        _say(model, config if tables or linears else body)
        if self._tied and tables:  # PEFT compares addresses of dense weights when it merges, and takes ours for untied
            head = model.get_output_embeddings()
            model.config.tie_word_embeddings = not isinstance(head, nn.Linear)
            if isinstance(head, nn.Linear):
                own = module_name(model, head).removeprefix(base_prefix(model))
                config.separate = sorted({*config.separate, own})

    def _dequantize(self, model: PreTrainedModel, dtype: torch.dtype | str | None = None) -> PreTrainedModel:
        # A save leaves config.dtype as text, which transformers passes on here.
        wanted = DTYPES[dtype] if isinstance(dtype, str) else dtype or model.dtype
        if self.quantization_config.inner is not None:
            self.inner._dequantize(model, dtype=wanted)
        uninstall(model, wanted)
        _say(model, None)
        return model

    def is_serializable(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Whether the body can be saved; the table can."""
        return holds(self.inner.is_serializable)

    @property
    def is_trainable(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride, reportIncompatibleMethodOverride]
        """Whether adapters train on top of the body; of the table they do."""
        return holds(self.inner.is_trainable)

    @property
    def is_qat_trainable(self) -> bool:
        """Whether the body trains; of the table the continuous parts do, the codes stay."""
        return holds(self.inner.is_qat_trainable)

    @property
    def is_compileable(self) -> bool:
        """Whether the body compiles; of the table no shape depends on data."""
        return holds(self.inner.is_compileable)


def _say(model: PreTrainedModel, quantized_by: Any) -> None:
    """Let the config of a model say how it is quantised, or nothing; that of its text part, too, to be loaded alone."""
    for config in (model.config, text_config(model)):
        if config is not None and quantized_by is not None:
            config.quantization_config = quantized_by
        elif config is not None:
            vars(config).pop("quantization_config", None)


def _check_read(name: str, table: CompressedEmbedding, model: PreTrainedModel) -> None:
    """See that a table got its numbers: transformers only warns of missing keys, and would go on with random memory."""
    tensors = (*table.parameters(), *table.buffers())
    if not any(tensor.is_meta or getattr(tensor, "_is_hf_initialized", False) for tensor in tensors):
        raise ValueError(
            f"the checkpoint has no numbers for {name} of {type(model).__name__} under a name that fits; load it with "
            "the class that its config names"
        )


if AUTO_QUANTIZER_MAPPING.get(QUANT_METHOD) is not VocabpressQuantizer:
    for mapping in (AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING):
        mapping.pop(QUANT_METHOD, None)  # what stood there until now, see `registration`
    register_quantization_config(QUANT_METHOD)(VocabpressConfig)
    register_quantizer(QUANT_METHOD)(VocabpressQuantizer)
    # Of a config given at load, only those of these types have a say beside the one in the checkpoint.
    auto.LOADING_ATTRIBUTES_CONFIG_TYPES = (*auto.LOADING_ATTRIBUTES_CONFIG_TYPES, VocabpressConfig)
