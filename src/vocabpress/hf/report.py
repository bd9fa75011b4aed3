"""The report of a compression: the data that the command line prints and that the model card is rendered from."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from vocabpress.budget import Budget
from vocabpress.hf.linears import LinearOutcome
from vocabpress.hf.request import LinearShapes
from vocabpress.hf.sizes import REPORT, Folder
from vocabpress.hub import hub_id, split
from vocabpress.methods import Method, method_name, method_settings


@dataclass(frozen=True)
class Change:
    """How much of what a model is for is left, measured on text that calibration did not use.

    Attributes:
        of: ``"sentences"``: `quality` is 100 times the mean cosine of sentence embeddings with the original's.
            ``"predictions"``: it is 100 exp(-KL(original || model)) of the distributions of the next token, or of
            masked ones; the KL is in nats, the mean over `places`.
        quality: 100 if nothing changed.
        text: Where the text comes from.
        places: Sentences, or predicted tokens.
        perplexity_before: Of the original, at those tokens; None for sentences, and where float64 overflows.
        perplexity_after: The same of the compressed model.
        same_choice: Share of the predictions whose most likely token is that of the original; None for sentences.
    """

    of: Literal["sentences", "predictions"]
    quality: float
    text: str
    places: int
    perplexity_before: float | None = None
    perplexity_after: float | None = None
    same_choice: float | None = None

    @property
    def loss(self) -> float:
        """How much is gone, 0 to 100."""
        return max(0.0, 100 - self.quality)

    def rows(self) -> list[tuple[str, str]]:
        """Name and value of each figure, for people."""
        what = "sentence embeddings, 100 x mean cosine" if self.of == "sentences" else "predictions, 100 exp(-KL)"
        found = [(f"quality: {what}", f"{self.quality:.2f}")]
        if self.perplexity_before is not None and self.perplexity_after is not None:
            found += [("perplexity", f"{self.perplexity_before:.2f} -> {self.perplexity_after:.2f}")]
        if self.same_choice is not None:
            found += [("same most likely token", f"{self.same_choice:.1%}")]
        places = "sentences" if self.of == "sentences" else "tokens"
        return [*found, ("measured on", f"{self.places:,} {places} of {self.text}")]


@dataclass(frozen=True)
class Recovered:
    """Training after a compression, for the card."""

    task: str | None  # with labelled rows that it was trained on; None if it was trained on text
    mode: str  # ``"table"`` or ``"model"``
    steps: int
    training_sequences: int  # or rows
    held_out_sequences: int
    figures: dict[str, tuple[float, float]]  # name of a loss or a metric -> its values before and after


@dataclass(frozen=True)
class Report:
    """Sizes and errors of a compression, and how it was made. Sizes are bytes of saved tensors and files.

    `body` names the library that quantised the body, in the same step or before. `base_model` is the original's id on
    the hub, or None if unknown. `recovered` lists later training; errors of rows are those after it. `asked_quality`
    is what the size was searched for, in `fits` fits; None if the size was given. `change` is None if it was not
    measured; `change_unrecovered` is that before the training. `folder` is None in reports of earlier versions.
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
    asked_quality: float | None = None
    fits: int = 1
    change: Change | None = None
    change_unrecovered: Change | None = None
    recovered: list[Recovered] = field(default_factory=list)
    folder: Folder | None = None

    def sizes(self) -> list[tuple[str, int, int]]:
        """Name, and bytes before and after, of all that was compressed, and of the whole model."""
        maps = [(f"linear maps of {part.role}", part.bytes_before, part.bytes_after) for part in self.linears]
        table = ("token table", self.table_bytes_before, self.table_bytes_after)
        return [table, *maps, ("whole model, on disk", self.model_bytes_before, self.model_bytes_after)]

    def sized(self) -> str:
        """How the size of the table was chosen."""
        if self.asked_quality is None:
            return str(self.budget)
        fits = "1 fit" if self.fits == 1 else f"{self.fits} fits"
        return f"quality {self.asked_quality:g}: {self.budget}, after {fits}"

    def measured(self) -> list[tuple[str, str]]:
        """Name and value of what the compression changed, after a training and before it."""
        rows = [("quality", "not measured")] if self.change is None else self.change.rows()
        if self.change_unrecovered is not None:
            rows += [("quality before the training", f"{self.change_unrecovered.quality:.2f}")]
        return rows


def save_report(report: Report, folder: Path) -> None:
    """Write a report into the folder of its checkpoint."""
    (folder / REPORT).write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")


def load_report(folder: Path) -> Report | None:
    """The report of a compressed checkpoint; None if there is none, or it is of another version."""
    try:
        data: dict[str, Any] = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        linears = [LinearOutcome(**part) for part in data.pop("linears")]
        recovered = [Recovered(**part) for part in data.pop("recovered")]
        data["budget"] = Budget.read(data["budget"])
        for name, kind in {"change": Change, "change_unrecovered": Change, "folder": Folder}.items():
            data[name] = kind(**data[name]) if data.get(name) else None
        return Report(**data, linears=linears, recovered=recovered)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def as_command(
    model: str | Path,
    output: str | Path,
    *,
    method: str | Method | None,
    budget: Budget | None,
    linears: LinearShapes | None,
    **more: Any,
) -> str:
    """The command line that equals a call of `compress`. Absolute paths become names, and tensors ``...``.

    Other options, ``more``, go by their names on the command line; None, 0 and empty values are left out.
    """
    name, revision = split(model) if hub_id(model) is not None and not Path(model).is_dir() else (model, None)
    parts = ["vocabpress", "compress", hub_id(model) or _short(name), "-o", _short(output)]
    parts += [] if revision is None else ["--revision", revision]
    if isinstance(method, str):
        parts += ["--method", method]
    elif method is not None:
        parts += ["--method", method_name(method)]
        parts += [part for name, value in _changed_settings(method).items() for part in ("--set", f"{name}={value}")]
    if budget is not None:
        parts += budget.options()
    if linears is not None:
        parts += [part for name, value in linears.to_dict().items() for part in ("--linears", f"{name}={value}")]
    for name, value in more.items():
        values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        for each in values:
            if each is True:
                parts.append(f"--{name.replace('_', '-')}")
            elif isinstance(each, Tensor) or (each is not None and each != 0):
                parts += [f"--{name.replace('_', '-')}", _short(each)]
    return shlex.join(parts)


def _changed_settings(method: Method) -> Mapping[str, Any]:
    """The settings of a method that differ from their defaults."""
    try:
        defaults = method_settings(type(method)())
    except TypeError:  # a method made of other methods has no defaults
        return method_settings(method)
    return {name: value for name, value in method_settings(method).items() if defaults[name] != value}


def _short(value: Any) -> str:
    if isinstance(value, Tensor):
        return "..."
    return Path(value).name if isinstance(value, str | Path) and Path(value).is_absolute() else str(value)
