"""What a compression did, as data: the figures that the command line prints and that the model card is made of.

What a model is called stands here, too, and the command line that does what a call of the library did.
"""

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from vocabpress.budget import Budget
from vocabpress.hf.linears import LinearOutcome
from vocabpress.hf.request import LinearShapes
from vocabpress.hub import split
from vocabpress.methods import Method, method_name, method_settings

REPORT = "vocabpress.json"  # in the folder of a compressed checkpoint
TITLE = re.compile(r"\A\s*#\s+([\w.-]*[-_.\d][\w.-]*)\s*$", re.MULTILINE)  # a name, not a sentence
SNAPSHOT = re.compile(r"models--(?:(?P<owner>[^/]+?)--)?(?P<name>[^/]+)/snapshots/")  # in the hub's cache


@dataclass(frozen=True)
class Recovered:
    """What was trained after a compression, for the card.

    Attributes:
        task: Whose labelled rows it was trained on; None where it was text.
        mode: ``"table"`` or ``"model"``.
        steps: Of training.
        training_sequences: Or rows.
        held_out_sequences: On which it was judged.
        figures: Name of a loss or a metric -> before and after.
    """

    task: str | None
    mode: str
    steps: int
    training_sequences: int
    held_out_sequences: int
    figures: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Report:
    """What a compression did and what it cost. Sizes are bytes of saved tensors and files.

    `body` names what the body is quantised with, in the same step or before; `base_model` is the original's id on the
    hub, where it is known; `recovered` lists what was trained afterwards, and errors of rows are those after it.
    """

    source_name: str
    output: str
    architecture: str
    table: str
    num_embeddings: int
    embedding_dim: int
    dtype: str
    method: str
    settings: dict[str, object]
    budget: Budget
    seed: int
    weighted_by: str
    table_bytes_before: int
    table_bytes_after: int
    model_bytes_before: int
    model_bytes_after: int
    ratio_to_float32: float
    ratio_to_stored: float
    bits_per_weight: float
    relative_error: float
    mean_cosine: float
    weighted_relative_error: float | None
    weighted_mean_cosine: float | None
    linears: list[LinearOutcome]
    seconds: float
    body: str | None = None
    base_model: str | None = None
    command: str = ""
    version: str = ""
    recovered: list[Recovered] = field(default_factory=list)


def save_report(report: Report, folder: Path) -> None:
    """Write a report beside the checkpoint that it is of."""
    (folder / REPORT).write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")


def load_report(folder: Path) -> Report | None:
    """The report of a compressed checkpoint; None where there is none, or one of another version."""
    try:
        data: dict[str, Any] = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        data["budget"] = Budget.read(data["budget"])
        linears = [LinearOutcome(**part) for part in data.pop("linears")]
        recovered = [Recovered(**part) for part in data.pop("recovered")]
        return Report(**data, linears=linears, recovered=recovered)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


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
        parts += [part for name, value in linears.to_dict().items() for part in ("--linears", f"{name}={value}")]
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
