"""`quantization_config`: the layout of a compressed checkpoint, or what to do with an original at load."""

import copy
import re
import reprlib
from typing import Any, Literal

from transformers.utils.quantization_config import QuantizationConfigMixin

from vocabpress.budget import Budget
from vocabpress.embeddings.caching import Kept, reader_for
from vocabpress.hf.inner import make_config, method_of
from vocabpress.hf.request import LinearShapes, Request
from vocabpress.methods import Method, make_method
from vocabpress.registration import QUANT_METHOD

FORMAT_VERSION = 1
STORED = {"quant_method", "format_version", "tables", "linears", "separate", "inner", "fitted_by", "rest"}
"""The fields that config.json may have; `verify` and the like are left to the user who loads it."""


class VocabpressConfig(QuantizationConfigMixin):
    """The layout of a compressed checkpoint, as in config.json, or how to compress an original at load.

    Compression at load weights all tokens alike, because a model does not know its tokenizer. `compress` does better.

    Args:
        method: Name of a method, or a `Method`, for compression at load. None is
            `TCQ`.
        budget: Size of the table, for compression at load.
        seed: Seed of the fit.
        shapes: Linear maps to store as Kronecker products, for compression at load.
        tables: Module name, relative to the base model -> config of its form; filled in by the fit.
        linears: The same for linear maps; the form holds the weight (out_features, in_features).
        separate: Modules that have weights of their own although the model's config ties them to a table.
        inner: Config of a body that another library quantises, as a dict or an object of transformers. When an
            original is loaded, its body is quantised with it.
        fitted_by: How the weights were computed; not needed to load them.
        format_version: Version of the layout on disk.
        rest: ``"float16"`` if all else is stored in it where it is float32 in memory; None stores it as it is.
        verify: Whether to compare tensors with the digests saved beside them. A file can't set this;
            ``from_pretrained`` takes it in its ``quantization_config``.
        hot_rows: Passed to `vocabpress.read_with` after loading; a file can't set this either.
        resident: The same.
        kwargs: ``quant_method``, as transformers passes it.

    Raises:
        ValueError: If the format version is unknown, or an argument is.

    Example:
        >>> config = VocabpressConfig("svd", Budget.ratio(10))
        >>> model = AutoModel.from_pretrained(folder, quantization_config=config)
    """

    def __init__(
        self,
        method: str | Method | None = None,
        budget: Budget | None = None,
        seed: int = 0,
        shapes: LinearShapes | None = None,
        tables: dict[str, dict[str, Any]] | None = None,
        linears: dict[str, dict[str, Any]] | None = None,
        separate: list[str] | None = None,
        inner: QuantizationConfigMixin | dict[str, Any] | None = None,
        fitted_by: dict[str, Any] | None = None,
        rest: Literal["float16"] | None = None,
        format_version: int = FORMAT_VERSION,
        verify: bool = True,
        hot_rows: str | int | None = None,
        resident: Kept | None = None,
        **kwargs: Any,
    ) -> None:
        unknown = set(kwargs) - {"quant_method"}
        if unknown:
            raise ValueError(f"unknown fields {sorted(unknown)} in quantization_config; try a newer vocabpress")
        if isinstance(format_version, bool) or format_version != FORMAT_VERSION:
            raise ValueError(
                f"this checkpoint has format version {format_version}, this vocabpress reads {FORMAT_VERSION}; "
                "try a newer vocabpress"
            )
        if inner is not None and method_of(inner) == QUANT_METHOD:
            raise ValueError(
                f"inner is the config of a quantised body, but {QUANT_METHOD} stores tables; name another method"
            )
        self.quant_method: Any = QUANT_METHOD
        method = make_method(method) if isinstance(method, str) else method
        self.request = Request(method, budget or Budget.ratio(25), seed, shapes)
        self.tables = tables if tables is not None else {}
        self.linears = linears if linears is not None else {}
        self.separate = separate if separate is not None else []
        self.inner = inner.to_dict() if isinstance(inner, QuantizationConfigMixin) else inner
        self.fitted_by = fitted_by
        self.rest = rest
        self.format_version = format_version
        reader_for(hot_rows, resident)  # refuses what it can't make
        self.verify, self.hot_rows = verify, hot_rows
        self.resident: Kept | None = resident

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """Make the object from a config.json. The configs of forms are checked later, by `build`."""
        _check_stored(config_dict)
        return super().from_dict(config_dict, return_unused_kwargs, **kwargs)

    def get(self, name: str, default: Any = None) -> Any:
        """A field, or the default: transformers reads the config of a loaded model as if it were a dict."""
        return getattr(self, name, default)

    def get_loading_attributes(self) -> dict[str, Any]:
        """The fields of a config given to ``from_pretrained`` that override those of the checkpoint."""
        return {"verify": self.verify, "hot_rows": self.hot_rows, "resident": self.resident}

    def to_dict(self) -> dict[str, Any]:
        """The entry in config.json: the layout, and how it was fitted."""
        optional = {name: getattr(self, name) for name in ("linears", "separate", "inner", "rest")}
        stored = {
            "quant_method": QUANT_METHOD,
            "format_version": self.format_version,
            "tables": self.tables,
            **{name: value for name, value in optional.items() if value},
            "fitted_by": self.fitted_by,
        }
        return copy.deepcopy(stored)

    @property
    def get_apply_tensor_subclass(self) -> Any:
        """PEFT reads this when it merges an adapter into a body quantised by torchao."""
        if self.inner is None:
            raise AttributeError("the body is not quantised")
        body: Any = make_config(self.inner)
        return body.get_apply_tensor_subclass


def _check_stored(config: dict[str, Any]) -> None:
    """Check the fields of a ``quantization_config``, their types, and the names of modules in it."""
    unknown = config.keys() - STORED
    if unknown:
        raise ValueError(f"unknown fields {sorted(unknown)} in quantization_config; try a newer vocabpress")
    kinds = {"tables": dict, "linears": dict, "separate": list, "inner": dict, "fitted_by": dict}
    for field, kind in kinds.items():
        value = config.get(field)
        if value is not None and not isinstance(value, kind):
            raise ValueError(f"{field} in quantization_config is a {kind.__name__}, got {reprlib.repr(value)}")
    if config.get("rest") not in (None, "float16"):
        raise ValueError(f"rest in quantization_config is float16 or null, got {reprlib.repr(config['rest'])}")
    for field in ("tables", "linears", "separate"):
        for name in config.get(field) or ():
            if not isinstance(name, str) or not re.fullmatch(r"\w+(\.\w+)*", name):
                raise ValueError(f"{field} in quantization_config name modules, got {reprlib.repr(name)}")
