"""`vocabpress gates`."""

from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated

import typer

from vocabpress.budget import Budget
from vocabpress.cli.options import JsonOption, ModelArgument, SettingsOption, parse_settings, print_json
from vocabpress.recover import GateSettings, learn_gates
from vocabpress.report.console import print_gates
from vocabpress.settings import read_settings

FIELDS = {field.name: field.default for field in fields(GateSettings)}


def gates(
    model: ModelArgument,
    text: Annotated[list[Path], typer.Option("--text", help="UTF-8 text file, a sequence a line; may be repeated.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write, for compress --weights.")],
    ratio: Annotated[float, typer.Option(help="Of the tables by which an epoch is judged, to float32.")] = 25,
    epochs: Annotated[int, typer.Option(help="Passes over the text.")] = GateSettings.epochs,
    settings: SettingsOption = None,
    seed: Annotated[int, typer.Option(help="Of what is held out, the order of the text, and the noise.")] = 0,
    device: Annotated[str, typer.Option(help="Where to run: cpu, cuda, cuda:1.")] = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Learn how much each token matters to a model (DiscBlock-D), from text without labels; writes token weights."""
    report = learn_gates(
        model,
        output,
        text=text,
        budget=Budget.ratio(ratio),
        settings=GateSettings(**read_settings("gates", FIELDS, {"epochs": epochs, **parse_settings(settings or [])})),
        seed=seed,
        device=device,
        progress=True,
    )
    print_gates(report)
    if as_json:
        print_json(asdict(report))
