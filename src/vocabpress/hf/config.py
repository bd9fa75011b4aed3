"""`quantization_config` in config.json: the layout of a compressed checkpoint, or what to do to a plain one at load."""

import copy
import re
import reprlib
from typing import Any, Literal

from transformers.utils.quantization_config import QuantizationConfigMixin

from vocabpress.budget import Budget
from vocabpress.hf.inner import make_config, method_of
from vocabpress.hf.reading import check_reading
from vocabpress.hf.request import LinearShapes, Request
from vocabpress.methods import Method, make_method

QUANT_METHOD = "vocabpress"
FORMAT_VERSION = 1
STORED = {"quant_method", "format_version", "tables", "linears", "separate", "inner", "fitted_by"}
"""All that a file may say."""


class VocabpressConfig(QuantizationConfigMixin):
    """What config.json says of a compressed checkpoint, or what is to be done to a plain one at load.

    Compressing at load counts every token alike, since a model does not know its tokenizer; `compress` does better.

    Args:
        method: Name of a method, or a `Method`, for compressing at load; None leaves it to the model, see
            `default_method`.
        budget: For compressing at load.
        seed: Of the fit.
        shapes: Of the linear maps that are to be Kronecker products, too; for compressing at load.
        tables: Module name, relative to the base model -> config of its form; filled by the fit.
        linears: The same of linear maps, the form that of the weight (out_features, in_features).
        separate: Modules with numbers of their own, though the model's config ties them to a table.
        inner: Of a body that another library quantises: its own config, as a dict or an object of transformers. At load
            of a plain checkpoint the body is quantised so, too.
        fitted_by: Where the numbers come from; never needed to load.
        format_version: Of the layout on disk.
        verify: Whether tensors are compared with the digests that were saved with them, at load of a compressed
            checkpoint. A file can't say that; ``from_pretrained`` takes it in its ``quantization_config``.
        hot_rows: As `vocabpress.read_with` takes it, for a model as it is loaded; a file can't say that either.
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
        format_version: int = FORMAT_VERSION,
        verify: bool = True,
        hot_rows: str | int | None = None,
        resident: Literal["dense"] | None = None,
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
                f"inner says how the body is quantised; {QUANT_METHOD} stores tables, so name another method"
            )
        self.quant_method: Any = QUANT_METHOD
        method = make_method(method) if isinstance(method, str) else method
        self.request = Request(method, budget or Budget.ratio(25), seed, shapes)
        self.tables = tables if tables is not None else {}
        self.linears = linears if linears is not None else {}
        self.separate = separate if separate is not None else []
        self.inner = inner.to_dict() if isinstance(inner, QuantizationConfigMixin) else inner
        self.fitted_by = fitted_by
        self.format_version = format_version
        check_reading(hot_rows, resident)
        self.verify, self.hot_rows = verify, hot_rows
        self.resident: Literal["dense"] | None = resident

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """Read what a config.json says; the forms themselves are checked where they are built.

        Raises:
            ValueError: If a field is unknown, or is not what it must be.
        """
        check_stored(config_dict)
        return super().from_dict(config_dict, return_unused_kwargs, **kwargs)

    def get(self, name: str, default: Any = None) -> Any:
        """A field, as of a dict; transformers asks a config like that which a loaded model has."""
        return getattr(self, name, default)

    def get_loading_attributes(self) -> dict[str, Any]:
        """What of a config given to ``from_pretrained`` holds beside the one in the checkpoint."""
        return {"verify": self.verify, "hot_rows": self.hot_rows, "resident": self.resident}

    def to_dict(self) -> dict[str, Any]:
        """What config.json gets: the layout and its provenance."""
        linears = {"linears": copy.deepcopy(self.linears)} if self.linears else {}
        separate = {"separate": list(self.separate)} if self.separate else {}
        inner = {"inner": copy.deepcopy(self.inner)} if self.inner else {}
        return {
            "quant_method": QUANT_METHOD,
            "format_version": self.format_version,
            "tables": copy.deepcopy(self.tables),
            **linears,
            **separate,
            **inner,
            "fitted_by": copy.deepcopy(self.fitted_by),
        }

    @property
    def get_apply_tensor_subclass(self) -> Any:
        """What PEFT asks for where it merges an adapter into a body quantised by torchao.

        Raises:
            AttributeError: If the body is not.
        """
        if self.inner is None:
            raise AttributeError("the body is not quantised")
        body: Any = make_config(self.inner)
        return body.get_apply_tensor_subclass


def check_stored(config: dict[str, Any]) -> None:
    """See that the ``quantization_config`` of a file has known fields, of the right types, and names modules.

    Raises:
        ValueError: If not.
    """
    unknown = config.keys() - STORED
    if unknown:
        raise ValueError(f"unknown fields {sorted(unknown)} in quantization_config; try a newer vocabpress")
    for field, kind in (("tables", dict), ("linears", dict), ("separate", list), ("inner", dict), ("fitted_by", dict)):
        value = config.get(field)
        if value is not None and not isinstance(value, kind):
            raise ValueError(f"{field} in quantization_config is a {kind.__name__}, got {reprlib.repr(value)}")
    for field in ("tables", "linears", "separate"):
        for name in config.get(field) or ():
            if not isinstance(name, str) or not re.fullmatch(r"\w+(\.\w+)*", name):
                raise ValueError(f"{field} in quantization_config name modules, got {reprlib.repr(name)}")
