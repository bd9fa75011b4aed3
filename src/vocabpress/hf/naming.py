"""What a model is called, and the command line that does what a call of the library did."""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from vocabpress.budget import Budget
from vocabpress.hf.shapes import LinearShapes
from vocabpress.hub import split
from vocabpress.methods import Method, method_name, method_settings

TITLE = re.compile(r"\A\s*#\s+([\w.-]*[-_.\d][\w.-]*)\s*$", re.MULTILINE)  # a name, not a sentence
SNAPSHOT = re.compile(r"models--(?:(?P<owner>[^/]+?)--)?(?P<name>[^/]+)/snapshots/")  # in the hub's cache


def hub_id(model: str | Path) -> str | None:
    """The id on the hub of what a user called a model by; None of a folder, unless it is one of the hub's cache."""
    if not Path(model).is_dir():
        return split(model)[0]
    found = SNAPSHOT.search(f"{os.path.realpath(model)}/")
    if found is None:
        return None
    return "/".join(filter(None, (found["owner"], found["name"])))


def model_name(model: str | Path) -> str:
    """The name of a model, without its owner or the folders above it; ``.`` has one, too."""
    known = hub_id(model)
    return Path(os.path.realpath(model)).name if known is None else known.rpartition("/")[2]


def named_by(page: str) -> tuple[str | None, str | None]:
    """The name that a model's own page gives it as its title, and its id on the hub, if the page has that, too.

    Args:
        page: Its text, such as ``# some-name`` and below it ``Model.from_pretrained("some-org/some-name")``.
    """
    title = TITLE.search(page)
    if title is None:
        return None, None
    known = re.search(rf"[\"'`/]([\w.-]+/{re.escape(title[1])})[\"'`)\s]", page)
    return title[1], known[1] if known is not None else None


def as_command(
    model: str | Path,
    output: str | Path,
    *,
    method: str | Method | None,
    budget: Budget | None,
    linears: LinearShapes | None,
    **more: Any,
) -> str:
    """The call of `compress` that a command line makes. Absolute paths are shortened to names, tensors to ``...``.

    Args:
        model: As `compress` got it.
        output: The same.
        method: The same.
        budget: The same.
        linears: As read.
        more: Options by their names on the command line; None and what is empty are left out.
    """
    name, revision = split(model) if hub_id(model) is not None and not Path(model).is_dir() else (model, None)
    parts = ["vocabpress", "compress", hub_id(model) or _short(name), "-o", _short(output)]
    parts += [] if revision is None else ["--revision", revision]
    if isinstance(method, str):
        parts += ["--method", method]
    elif method is not None:
        parts += ["--method", method_name(method)]
        parts += [part for name, value in _set(method).items() for part in ("--set", f"{name}={value}")]
    if budget is not None:
        option = {"ratio": "--ratio", "bits_per_weight": "--bits-per-weight", "bytes": "--size"}[budget.unit]
        parts += [option, f"{budget.amount:g}" if budget.unit != "bytes" else str(int(budget.amount))]
        parts += ["--reference", budget.reference] if budget.reference != Budget.reference else []
    if linears is not None:
        parts += [part for name, value in linears.told().items() for part in ("--linears", f"{name}={value}")]
    for name, value in more.items():
        several = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        for each in several:
            if each is True:
                parts.append(f"--{name}")
            elif isinstance(each, Tensor) or (each is not None and each != 0):
                parts += [f"--{name.replace('_', '-')}", _short(each)]
    return shlex.join(parts)


def _set(method: Method) -> Mapping[str, Any]:
    """The settings of a method that are not its defaults."""
    try:
        usual = method_settings(type(method)())
    except TypeError:  # of methods inside
        usual = {}
    return {name: value for name, value in method_settings(method).items() if usual.get(name, usual) != value}


def _short(value: Any) -> str:
    if isinstance(value, Tensor):
        return "..."
    return Path(value).name if isinstance(value, str | Path) and Path(value).is_absolute() else str(value)
