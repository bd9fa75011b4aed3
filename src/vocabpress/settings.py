"""Settings of methods, tasks and trainings, checked against the types of their dataclass's fields by pydantic."""

import re
import reprlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Annotated, Any, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError

AtLeast0 = Annotated[int, Field(ge=0)]
AtLeast1 = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
CodeBits = Annotated[int, Field(ge=1, le=8)]
BlockCount = Annotated[int, Field(ge=1, le=256)]  # a block's number takes at most a byte
BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")  # a key that TOML takes without quotes


def read_settings(what: str, kind: type, settings: Mapping[str, Any], *, strict: bool = False) -> dict[str, Any]:
    """The settings, converted to the types of a dataclass's fields.

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
    return {key: _typed(kind, key, value, strict or not isinstance(value, str)) for key, value in settings.items()}


def check_settings(settings: Any) -> None:
    """Check the fields of a dataclass that Python code made: their types, and the limits in their annotations.

    Raises:
        ValueError: With the first field that does not fit.
    """
    for field in fields(settings):
        value = getattr(settings, field.name)
        if not is_dataclass(value):
            _typed(type(settings), field.name, value, strict=isinstance(value, str))


def _typed(kind: type, key: str, value: Any, strict: bool) -> Any:
    try:
        return _adapter(kind, key).validate_python(value, strict=strict)
    except ValidationError as error:
        raise ValueError(one_line(error, key)) from None


@cache
def _adapter(kind: type, key: str) -> TypeAdapter[Any]:
    return TypeAdapter(get_type_hints(kind, include_extras=True)[key])


def one_line(error: ValidationError, key: str = "") -> str:
    """The first of pydantic's errors in one line: the key, what a value must be, and what it is.

    Keys of tables inside tables are written as in TOML, ``methods.svd.factors``; ``key`` is for errors without one.
    """
    first = error.errors()[0]
    key = key or ".".join(part if BARE_KEY.fullmatch(part) else f'"{part}"' for part in map(str, first["loc"]))
    if first["type"] == "value_error":  # ours
        return f"{key}: {first.get('ctx', {})['error']}".removeprefix(": ")
    if first["type"] == "missing":
        return f"{key} is missing"
    message = first["msg"].removeprefix("Input ")
    return f"{key} {message[0].lower()}{message[1:]}, got {reprlib.repr(first['input'])}"
