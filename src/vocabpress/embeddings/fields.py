"""The fields of a stored config. Files can come from anywhere, so all is checked before anything is built."""

import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from vocabpress.budget import DTYPES, dtype_name

MAX_ROWS, MAX_COLUMNS = 2**32, 2**24  # of a form; larger sizes would overflow
MAX_DEPTH = 16  # of forms inside forms; methods store at most 6 levels
ADVICE = "the file is broken, or made by a newer vocabpress"


@dataclass(frozen=True)
class Field:
    """One entry of a form's config.

    Attributes:
        description: Allowed values, for messages: "a number from 1 to 8".
        allows: Whether a JSON value is allowed.
        forms: The configs of forms inside a value.
        write: The JSON value of a form's attribute.
        read: The constructor's argument of a JSON value; the second argument builds the forms inside.
    """

    description: str
    allows: Callable[[Any], bool]
    forms: Callable[[Any], Iterable[Any]] = lambda value: ()
    write: Callable[[Any], Any] = lambda value: value
    read: Callable[[Any, Callable[[Any], Any]], Any] = lambda value, build: value


def integer(low: int, high: int) -> Field:
    """A whole number in a range that includes both ends; ``true`` is not one."""
    return Field(f"a whole number from {low} to {high:,}", lambda value: _is_integer(value, low, high))


def one_of(*values: str | None) -> Field:
    """One of these words, or null."""
    words = ", ".join("null" if value is None else value for value in values)
    return Field(f"one of {words}", lambda value: (value is None or isinstance(value, str)) and value in values)


def either(*fields: Field) -> Field:
    """A value that one of the fields allows."""
    description = " or ".join(field.description for field in fields)
    return Field(description, lambda value: any(field.allows(value) for field in fields))


def rows_of_integers(*ranges: tuple[int, int]) -> Field:
    """A non-empty list of lists of whole numbers, with a range for each position."""

    def allows(value: Any) -> bool:
        return _is_list(value) and all(
            _is_list(row)
            and len(row) == len(ranges)
            and all(_is_integer(entry, *bounds) for entry, bounds in zip(row, ranges, strict=True))
            for row in value
        )

    description = f"a list of lists of {len(ranges)} whole numbers in {list(ranges)}"
    return Field(description, allows, write=lambda rows: [list(row) for row in rows])


NULL = one_of(None)
BOOLEAN = Field(
    "true or false",
    lambda value: isinstance(value, bool),
    write=lambda value: value if isinstance(value, bool) else value is not None,  # whether a tensor is there
)
DTYPE = replace(one_of(*DTYPES), write=dtype_name, read=lambda name, build: DTYPES[name])
ROWS, COLUMNS = integer(0, MAX_ROWS), integer(0, MAX_COLUMNS)
FORM = Field(
    "the config of a form",
    lambda value: isinstance(value, dict),
    lambda value: (value,),
    write=lambda form: form.config(),
    read=lambda config, build: build(config),
)
FORMS = Field(
    "a list of configs of forms",
    lambda value: _is_list(value),
    lambda value: value,
    write=lambda forms: [form.config() for form in forms],
    read=lambda configs, build: [build(config) for config in configs],
)


def check_config(config: Any, known: Mapping[str, Mapping[str, Field]], place: str = "form", depth: int = 1) -> None:
    """Check that a config describes a form, including the forms inside it.

    Args:
        config: A config read from JSON.
        known: Name of a form -> its fields.
        place: Path of this config, for messages.
        depth: Depth of this config.

    Raises:
        ValueError: If a form or a field is unknown, a field is missing or invalid, or forms are nested too deep.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"forms are nested more than {MAX_DEPTH} deep; {ADVICE}")
    form = config.get("form") if isinstance(config, dict) else config
    if not isinstance(config, dict) or not isinstance(form, str) or form not in known:
        raise ValueError(
            f"{place}: unknown form {reprlib.repr(form)}; this version reads {list(known)}; try a newer vocabpress"
        )
    fields = known[form]
    for word, names in (("unknown", config.keys() - fields.keys() - {"form"}), ("no", fields.keys() - config.keys())):
        if names:
            raise ValueError(f"{place}: {word} field {reprlib.repr(min(names, key=str))} in {form!r}; {ADVICE}")
    for name, field in fields.items():
        value = config[name]
        if not field.allows(value):
            raise ValueError(f"{place}.{name} is {field.description}, got {reprlib.repr(value)}; {ADVICE}")
        for part in field.forms(value):
            check_config(part, known, f"{place}.{name}", depth + 1)


def _is_integer(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0
