"""Options that several commands share, and how they are read."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from vocabpress.evaluate import GLUE

ModelArgument = Annotated[str, typer.Argument(help="A hub id, or a folder with config.json and weights.")]
TextOption = Annotated[
    list[Path] | None, typer.Option("--text", help="UTF-8 text file to count token frequencies in; may be repeated.")
]
LessonText = Annotated[
    list[Path] | None, typer.Option("--text", help="UTF-8 text file, a sequence a line; may be repeated.")
]
LessonTask = Annotated[
    str | None, typer.Option("--task", help=f"Instead of --text: the labelled rows of one of {', '.join(GLUE)}.")
]
LessonData = Annotated[
    Path | None,
    typer.Option("--data", help="Folder of the data sets, laid out as docs/finetune.md says; else the hub's."),
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
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")]


def parse_settings(settings: list[str], option: str = "--set") -> dict[str, str]:
    """``["epochs=3"]`` -> ``{"epochs": "3"}``.

    Raises:
        ValueError: If an entry has no ``=``.
    """
    pairs = [entry.partition("=") for entry in settings]
    for name, equals, _ in pairs:
        if not equals or not name:
            example = "epochs=10" if option == "--set" else "attention=48x384"
            raise ValueError(f"{option} takes field=value, got {name!r}; for example {option} {example}")
    return {name.strip(): value.strip() for name, _, value in pairs}


def print_json(data: dict[str, Any]) -> None:
    """One JSON object on one line of stdout."""
    print(json.dumps(data, allow_nan=False))
