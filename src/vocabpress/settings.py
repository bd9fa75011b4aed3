"""Settings of methods, tasks and trainings, checked against the types of their dataclass's fields by pydantic."""

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")  # a key that TOML takes without quotes


def read_settings(what: str, kind: type, settings: Mapping[str, Any], *, strict: bool = False) -> dict[str, Any]:
    """The settings with their values as the fields of a dataclass are typed.

    Args:
        what: For messages, such as ``"method svd"``.
        kind: The dataclass.
        settings: Field -> value. Text is converted: ``"3"``, ``"1e-4"``, ``"true"``. Other values must be of the type.
        strict: Whether text must be of the type, too.

    Raises:
        ValueError: If a field is unknown or a value does not fit.
    """
    known = {field.name for field in fields(kind)}
    unknown = sorted(set(settings) - known)
    if unknown:
        names = ", ".join(field.name for field in fields(kind)) or "no fields"
        raise ValueError(f"{what} has no field {unknown[0]!r}; it has {names}")
    hints, typed = get_type_hints(kind), {}
    for key, value in settings.items():
        try:
            typed[key] = TypeAdapter(hints[key]).validate_python(value, strict=strict or not isinstance(value, str))
        except ValidationError as error:
            raise ValueError(f"{key}: {one_line(error)}") from None
    return typed


def check_least(settings: object, **least: float) -> None:
    """Refuse fields below their least value; None is no value.

    Raises:
        ValueError: With the field, the limit and the value.
    """
    for field, limit in least.items():
        value = getattr(settings, field)
        if value is not None and value < limit:
            raise ValueError(f"{field} is at least {limit}, got {value}")


def one_line(error: ValidationError) -> str:
    """The first of pydantic's errors in one line: the key, what a value must be, and what it is.

    Args:
        error: Keys of tables inside tables are written as TOML writes them, ``methods.svd.factors``.
    """
    first = error.errors()[0]
    key = ".".join(part if BARE_KEY.fullmatch(part) else f'"{part}"' for part in map(str, first["loc"]))
    if first["type"] == "value_error":  # ours
        message = str(first.get("ctx", {})["error"])
    else:
        got = "" if first["type"] == "missing" else f", got {first['input']!r}"
        message = f"{first['msg'][0].lower()}{first['msg'][1:]}{got}"
    return f"{key}: {message}" if key else message
