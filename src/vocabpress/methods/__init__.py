"""How a table is fitted: one file per published method."""

from dataclasses import fields
from typing import Any

from vocabpress.methods.autoencoder import Autoencoder
from vocabpress.methods.base import Family, Method, Plan
from vocabpress.methods.lighttoken import LightToken
from vocabpress.methods.svd import SVD

METHODS: dict[str, type[Method]] = {"svd": SVD, "autoencoder": Autoencoder, "lighttoken": LightToken}


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
    unknown = sorted(set(settings) - set(known))
    if unknown:
        has = ", ".join(known) or "no fields"
        raise ValueError(f"method {name} has no field {unknown[0]!r}; it has {has}")
    return METHODS[name](**{key: _read(key, value, known[key]) for key, value in settings.items()})


def method_name(method: Method) -> str:
    """The name under which a method's class is registered; its class name if it is not."""
    names = {cls: name for name, cls in METHODS.items()}
    return names.get(type(method), type(method).__name__)


def _read(field: str, value: Any, default: Any) -> Any:
    """Text as the type of the field's default; other values as they are."""
    if default is None:
        default = 0
    if not isinstance(value, str) or isinstance(default, str):
        return value
    if isinstance(default, bool):
        truth = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if value.lower() not in truth:
            raise ValueError(f"{field} is true or false, got {value!r}")
        return truth[value.lower()]
    try:
        return type(default)(value)
    except ValueError:
        raise ValueError(f"{field} takes a number such as {default!r}, got {value!r}") from None


__all__ = ["METHODS", "SVD", "Autoencoder", "Family", "LightToken", "Method", "Plan", "make_method", "method_name"]
