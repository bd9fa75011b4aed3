"""How a table is fitted: one file per published method."""

from dataclasses import fields
from typing import Any

from vocabpress.methods.autoencoder import Autoencoder
from vocabpress.methods.base import Family, Method, Plan
from vocabpress.methods.binary import Binary
from vocabpress.methods.compositional import Compositional
from vocabpress.methods.lighttoken import LightToken
from vocabpress.methods.product import Product
from vocabpress.methods.residual import Residual
from vocabpress.methods.svd import SVD
from vocabpress.methods.uniform import Uniform
from vocabpress.settings import read_settings

METHODS: dict[str, type[Method]] = {
    "svd": SVD,
    "autoencoder": Autoencoder,
    "lighttoken": LightToken,
    "uniform": Uniform,
    "product": Product,
    "residual": Residual,
    "compositional": Compositional,
    "binary": Binary,
}


def make_method(name: str, **settings: Any) -> Method:
    """A method by name, for command lines and config files; Python code makes the class itself.

    Args:
        name: A key of METHODS.
        settings: Values of its fields; text is read as the field's default is typed.

    Raises:
        ValueError: If the name, a field or a value is none of the method's.
    """
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; choose from {', '.join(METHODS)}")
    known = {field.name: field.default for field in fields(METHODS[name])}
    return METHODS[name](**read_settings(f"method {name}", known, settings))


def method_name(method: Method) -> str:
    """The name under which a method's class is registered; its class name if it is not."""
    names = {cls: name for name, cls in METHODS.items()}
    return names.get(type(method), type(method).__name__)


__all__ = [
    "METHODS",
    "SVD",
    "Autoencoder",
    "Binary",
    "Compositional",
    "Family",
    "LightToken",
    "Method",
    "Plan",
    "Product",
    "Residual",
    "Uniform",
    "make_method",
    "method_name",
]
