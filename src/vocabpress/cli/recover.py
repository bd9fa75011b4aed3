"""`vocabpress recover`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from vocabpress.cli import options
from vocabpress.cli.later import Later
from vocabpress.cli.names import OBJECTIVES

typed = Later("vocabpress.settings")
library, printing = Later("vocabpress.recover"), Later("vocabpress.cli.printing")


def recover(
    model: Annotated[Path, typer.Argument(help="Folder of a compressed model.")],
    teacher: Annotated[str, typer.Option(help="The original: a hub id or a folder; with --task, fine-tuned for it.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to make; must not exist, or be empty.")],
    text: options.LessonText = None,
    task: options.LessonTask = None,
    data: options.LessonData = None,
    objective: Annotated[
        str,
        typer.Option(help="relative: errors relative to the teacher's values. kroneckerbert: plain, as published."),
    ] = "relative",
    mode: Annotated[str, typer.Option(help="table: train only the table. model: train the body, too.")] = "table",
    steps: Annotated[int, typer.Option(help="Steps of the optimiser, at most.")] = 400,
    minutes: Annotated[float | None, typer.Option(help="Minutes of training, at most. [no limit]")] = None,
    settings: options.SettingsOption = None,
    seed: Annotated[int, typer.Option(help="Decides which sequences are held out, and the order of the others.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu uses no GPU.")] = None,
    as_json: options.JsonOption = False,
) -> None:
    """Train a compressed model against its original, on text or on a task's rows; bytes and codes do not change.

    With --task the teacher is a model that `vocabpress evaluate --task … --keep DIR` fine-tuned; the student gets its
    prediction layer, and is written as a classifier.

    The same command resumes an interrupted run from its last checkpoint. On several devices:
    accelerate launch -m vocabpress.cli recover …
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"unknown objective {objective!r}; choose from {', '.join(OBJECTIVES)}")
    model, teacher = Path(options.located(str(model))), options.located(teacher)
    chosen = library.OBJECTIVES[objective] | {"mode": mode, "steps": steps, "minutes": minutes}
    chosen |= options.parse_settings(settings)
    report = library.recover(
        model,
        output,
        teacher=teacher,
        text=text or (),
        task=task,
        data=data,
        settings=library.Recovery(**typed.read_settings("recover", library.Recovery, chosen)),
        seed=seed,
        device=device,
        progress=True,
    )
    printing.print_recovery(report)
    if as_json:
        options.print_json(asdict(report))
