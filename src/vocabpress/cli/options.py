"""Options that several commands share. Nothing here imports torch."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from vocabpress import hub
from vocabpress.cli.names import DTYPES, GLUE

ModelArgument = Annotated[str, typer.Argument(help="A hub id, or a folder with config.json and weights.")]
RevisionOption = Annotated[str | None, typer.Option(help="Branch, tag or commit of a model on the hub. [main]")]
TEXT = "UTF-8 text: files, .gz, .jsonl (or .jsonl:FIELD), folders, pipes, - for standard input"
TextOption = Annotated[
    list[str] | None,
    typer.Option("--text", help=f"{TEXT}; used to count token frequencies. May be repeated."),
]
LessonText = Annotated[
    list[str] | None, typer.Option("--text", help=f"{TEXT}; each line is a sequence. May be repeated.")
]
LessonTask = Annotated[
    str | None, typer.Option("--task", help=f"Instead of --text: the labelled rows of one of {', '.join(GLUE)}.")
]
LessonData = Annotated[
    Path | None,
    typer.Option("--data", help="Folder of the data sets, laid out as in docs/finetune.md. [from the hub]"),
]
SettingsOption = Annotated[
    list[str] | None, typer.Option("--set", help="field=value of the method or task; may be repeated.")
]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code", help="Run code beside the weights if the model needs it; read pickled weights."
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else; tables go to stderr.")
]
RatioOption = Annotated[float | None, typer.Option(help="Or: the table at most 1/RATIO of its size in --reference.")]
BitsOption = Annotated[float | None, typer.Option(help="Or: at most this many bits per entry of the table.")]
SizeOption = Annotated[str | None, typer.Option(help="Or: at most this many bytes, such as 2MB or 800kB.")]
ReferenceOption = Annotated[str | None, typer.Option(help=f"Dtype for --ratio: {', '.join(DTYPES)}. [float32]")]

USAGE_ERROR = 2  # exit code

_stdout: list[TextIO] = []


def located(model: str, revision: str | None = None) -> str:
    """A model with its revision, checked to exist before anything large is imported."""
    found = hub.at(model, revision)
    hub.check(found)
    return found


def parse_settings(settings: list[str] | None, option: str = "--set") -> dict[str, str]:
    """Parse ``["epochs=3"]`` to ``{"epochs": "3"}``."""
    pairs = [entry.partition("=") for entry in settings or ()]
    for name, equals, _ in pairs:
        if not equals or not name:
            example = "epochs=10" if option == "--set" else "attention=48x384"
            raise ValueError(f"{option} takes field=value, got {name!r}; for example {option} {example}")
    return {name.strip(): value.lstrip() for name, _, value in pairs}  # a prefix, "query: ", ends with a blank


@contextmanager
def only_json_on_stdout(wanted: bool) -> Iterator[None]:
    """Print to stderr instead of stdout, except in `print_json`."""
    if not wanted:
        yield
        return
    _stdout.append(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _stdout.pop()


def print_json(data: dict[str, Any]) -> None:
    """Print one JSON object on one line of stdout."""
    print(json.dumps(data, allow_nan=False), file=_stdout[-1] if _stdout else sys.stdout)
