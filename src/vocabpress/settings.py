"""Fields of a method or a task from text, for command lines and plan files."""

from collections.abc import Mapping
from typing import Any


def read_settings(what: str, defaults: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, each value that is text read as its field's default is typed.

    Args:
        what: For messages, such as ``"method svd"``.
        defaults: Field -> its default.
        settings: Field -> value.

    Raises:
        ValueError: If a field is unknown or a value does not fit.
    """
    unknown = sorted(set(settings) - set(defaults))
    if unknown:
        has = ", ".join(defaults) or "no fields"
        raise ValueError(f"{what} has no field {unknown[0]!r}; it has {has}")
    return {key: _read(key, value, defaults[key]) for key, value in settings.items()}


def _read(field: str, value: Any, default: Any) -> Any:
    """Text as the type of the field's default; other values as they are.

    A field without a default is a number, or is true or false.
    """
    if not isinstance(value, str) or isinstance(default, str):
        return value
    truth = {"true": True, "yes": True, "false": False, "no": False}
    if default is None:
        if value.lower() in truth:
            return truth[value.lower()]
        default = 0
    if isinstance(default, bool):
        truth |= {"1": True, "0": False}
        if value.lower() not in truth:
            raise ValueError(f"{field} is true or false, got {value!r}")
        return truth[value.lower()]
    try:
        return type(default)(value)
    except ValueError:
        raise ValueError(f"{field} takes a number such as {default!r}, got {value!r}") from None
