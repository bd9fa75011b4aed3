"""`vocabpress gates`."""

from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated

import typer

from vocabpress.cli.later import Later
from vocabpress.cli.options import (
    JsonOption,
    LessonData,
    LessonTask,
    LessonText,
    ModelArgument,
    SettingsOption,
    located,
    parse_settings,
    print_json,
)
from vocabpress.settings import read_settings

budgets, library, printing = Later("vocabpress.budget"), Later("vocabpress.recover"), Later("vocabpress.cli.printing")


def gates(
    model: ModelArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write, for compress --weights.")],
    text: LessonText = None,
    task: LessonTask = None,
    data: LessonData = None,
    ratio: Annotated[float, typer.Option(help="Of the tables by which an epoch is judged, to float32.")] = 25,
    epochs: Annotated[int, typer.Option(help="Passes over the text or the rows.")] = 10,
    settings: SettingsOption = None,
    seed: Annotated[int, typer.Option(help="Of what is held out, the order of the text, and the noise.")] = 0,
    device: Annotated[str, typer.Option(help="Where to run: cpu, cuda, cuda:1.")] = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Learn how much each token matters to a model (DiscBlock-D); writes token weights.

    From text without labels, by the model's hidden states; from text by a language model's own loss, with --set
    language_model=true; or from the rows of a task, of a model that `vocabpress evaluate --task … --keep DIR` made.
    """
    model, settings_class = located(model), library.GateSettings
    known = {field.name: field.default for field in fields(settings_class)}
    chosen = read_settings("gates", known, {"epochs": epochs, **parse_settings(settings or [])})
    report = library.learn_gates(
        model,
        output,
        text=text or (),
        task=task,
        data=data,
        budget=budgets.Budget.ratio(ratio),
        settings=settings_class(**chosen),
        seed=seed,
        device=device,
        progress=True,
    )
    printing.print_gates(report)
    if as_json:
        print_json(asdict(report))
