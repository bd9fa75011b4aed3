"""TOML tables into typed values: each key that is read is checked, and a key that nobody reads is an error."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from vocabpress.evaluate import TASKS, Task, make_task
from vocabpress.methods import METHODS, Method, make_method
from vocabpress.recover.settings import Recovery
from vocabpress.settings import read_settings

REQUIRED: Any = object()
WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", dict: "a table"}
Made = TypeVar("Made")


class Section:
    """One table of a plan file.

    Args:
        where: For messages, such as ``"plan.toml, [methods.svd]"``.
        table: Its keys and values.
    """

    def __init__(self, where: str, table: Mapping[str, Any]) -> None:
        self.where = where
        self._left = dict(table)
        self._known: list[str] = []

    def take(self, key: str, hint: Any, default: Any = REQUIRED) -> Any:
        """The value of a key, which must be as ``hint`` says; lists come as tuples.

        Raises:
            ValueError: If the value is of another type, or is missing and there is no default.
        """
        self._known.append(key)
        if key not in self._left:
            if default is REQUIRED:
                raise ValueError(f"{self.where}: {key} is missing; it is {_words(hint)}")
            return default
        return typed(self.where, key, self._left.pop(key), hint)

    def sections(self, key: str) -> dict[str, "Section"]:
        """The tables inside a table, ``[key.name]``, by name."""
        tables = self.take(key, dict, {})
        parent = self.where.split(", [")[0]
        return {name: Section(f"{parent}, [{key}.{name}]", _table(parent, key, name, tables[name])) for name in tables}

    def section(self, key: str) -> "Section | None":
        """The table ``[key]``, if there is one."""
        table = self.take(key, dict, None)
        return None if table is None else Section(f"{self.where}, [{key}]", table)

    def rest(self) -> dict[str, Any]:
        """What was not taken, for whoever knows these keys."""
        left, self._left = self._left, {}
        return left

    def close(self) -> None:
        """Refuse what was not taken.

        Raises:
            ValueError: With the first unknown key, and those that are known.
        """
        if self._left:
            raise ValueError(
                f"{self.where}: unknown key {next(iter(self._left))!r}; known are {', '.join(self._known)}"
            )


def read_method(where: str, name: str, values: Mapping[str, Any]) -> Method:
    """A method with its fields, types checked.

    Raises:
        ValueError: If the name, a field or a value is none of the method's.
    """
    return _read(where, METHODS.get(name), values, lambda **given: make_method(name, **given))


def read_task(where: str, name: str, values: Mapping[str, Any]) -> Task:
    """A task with its fields, types checked.

    Raises:
        ValueError: If the name, a field or a value is none of the task's.
    """
    cls = type(TASKS[name]) if name in TASKS else None
    return _read(where, cls, values, lambda **given: make_task(name, **given))


def read_recovery(where: str, values: Mapping[str, Any]) -> Recovery:
    """The settings of a recovery, types checked.

    Raises:
        ValueError: If a field or a value is none of `Recovery`'s.
    """
    defaults = {field.name: field.default for field in fields(Recovery)}
    return _read(where, Recovery, values, lambda **given: Recovery(**read_settings("recover", defaults, given)))


def _read(where: str, cls: type | None, values: Mapping[str, Any], make: Callable[..., Made]) -> Made:
    hints = {} if cls is None else get_type_hints(cls)
    known = set() if cls is None else {field.name for field in fields(cls)}
    given = {key: typed(where, key, value, hints[key]) if key in known else value for key, value in values.items()}
    try:
        return make(**given)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def typed(where: str, key: str, value: Any, hint: Any) -> Any:
    """The value if it is of the type; whole numbers become floats where those are wanted, lists become tuples.

    Raises:
        ValueError: If it is of another type.
    """
    if not _fits(value, hint):
        raise ValueError(f"{where}: {key} is {_words(hint)}, got {value!r}")
    if isinstance(value, list | tuple):
        inner = next((option for option in _options(hint) if get_origin(option) in (list, tuple)), list[Any])
        return tuple(typed(where, key, item, get_args(inner)[0]) for item in value)
    whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if whole and float in _options(hint) and int not in _options(hint) else value


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _fits(value: Any, hint: Any) -> bool:
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    if origin is Literal:
        return value in get_args(hint)
    if origin in (list, tuple):
        return isinstance(value, list | tuple) and all(_fits(item, get_args(hint)[0]) for item in value)
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return not isinstance(hint, type) or isinstance(value, hint)


def _words(hint: Any) -> str:
    """A type in words, for messages."""
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return " or ".join(_words(option) for option in get_args(hint) if option is not type(None))
    if origin is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    if origin in (list, tuple):
        return f"a list, each {_words(get_args(hint)[0])}"
    return WORDS.get(hint, "something else")


def _table(parent: str, key: str, name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{parent}: {key}.{name} is a table, got {value!r}; write [{key}.{name}]")
    return value
