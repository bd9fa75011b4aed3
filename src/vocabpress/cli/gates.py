"""`vocabpress gates`."""

from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated

import typer

from vocabpress.budget import Budget
from vocabpress.cli.options import (
    JsonOption,
    LessonData,
    LessonTask,
    LessonText,
    ModelArgument,
    SettingsOption,
    parse_settings,
    print_json,
)
from vocabpress.recover import GateSettings, learn_gates
from vocabpress.report.console import print_gates
from vocabpress.settings import read_settings

FIELDS = {field.name: field.default for field in fields(GateSettings)}


def gates(
    model: ModelArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write, for compress --weights.")],
    text: LessonText = None,
    task: LessonTask = None,
    data: LessonData = None,
    ratio: Annotated[float, typer.Option(help="Of the tables by which an epoch is judged, to float32.")] = 25,
    epochs: Annotated[int, typer.Option(help="Passes over the text or the rows.")] = GateSettings.epochs,
    settings: SettingsOption = None,
    seed: Annotated[int, typer.Option(help="Of what is held out, the order of the text, and the noise.")] = 0,
    device: Annotated[str, typer.Option(help="Where to run: cpu, cuda, cuda:1.")] = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Learn how much each token matters to a model (DiscBlock-D); writes token weights.

    From text without labels, by the model's hidden states; from text by a language model's own loss, with --set
    language_model=true; or from the rows of a task, of a model that `vocabpress evaluate --task … --keep DIR` made.
    """
    report = learn_gates(
        model,
        output,
        text=text or (),
        task=task,
        data=data,
        budget=Budget.ratio(ratio),
        settings=GateSettings(**read_settings("gates", FIELDS, {"epochs": epochs, **parse_settings(settings or [])})),
        seed=seed,
        device=device,
        progress=True,
    )
    print_gates(report)
    if as_json:
        print_json(asdict(report))
