"""`vocabpress calibrate`."""

from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from vocabpress.cli.later import Later
from vocabpress.cli.options import (
    JsonOption,
    LessonData,
    LessonTask,
    LessonText,
    ModelArgument,
    RevisionOption,
    located,
    parse_settings,
    print_json,
)
from vocabpress.settings import read_settings

budgets, files, library = Later("vocabpress.budget"), Later("vocabpress.files"), Later("vocabpress.calibrate")
printing = Later("vocabpress.cli.printing")


def calibrate(
    model: ModelArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write, for compress --calibration.")],
    text: LessonText = None,
    start: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            help="A calibration to begin with, uniform or vocabulary-order, or a file of counts, weights or a metric "
            "of an earlier version; what it holds is not made again. May be repeated.",
        ),
    ] = None,
    weights_from: Annotated[
        str,
        typer.Option(
            help="counts: a power of the tokens' counts in the text. tfidf: their TF-IDF. gates: learned, as "
            "DiscBlock-D does, in epochs of training."
        ),
    ] = "counts",
    exponent: Annotated[
        float | None, typer.Option(help="Of the counts, 0 to 2; 0 counts every token alike. [0.5]")
    ] = None,
    metric: Annotated[
        bool | None,
        typer.Option(
            help="Measure in which directions errors matter: a forward and a backward pass over --sequences, minutes, "
            "where counting takes seconds. [--metric with text]"
        ),
    ] = None,
    metric_strength: Annotated[
        float | None, typer.Option(help="Exponent of the metric in a fit, 0 to 2; 0 leaves it out. [0.5]")
    ] = None,
    sequences: Annotated[int, typer.Option(help="Read for the metric at most, drawn from the text.")] = 3000,
    max_length: Annotated[int, typer.Option(help="Tokens of a sequence.")] = 128,
    task: LessonTask = None,
    data: LessonData = None,
    ratio: Annotated[float, typer.Option(help="Of the tables by which an epoch of gates is judged, to float32.")] = 25,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="field=value of the training of gates; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of all randomness.")] = 0,
    device: Annotated[str, typer.Option(help="Where to run: cpu, cuda, cuda:1.")] = "cpu",
    revision: RevisionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find out which errors of a model's table matter, from text without labels, and write it to one file.

    Tokens are weighted by how often the text holds them, without text by the vocabulary's order. Directions are
    weighted by how an error changes a sentence encoder's embeddings, a language model's predictions, or the last hidden
    states of other models. With --weights-from gates, token weights are learned, from text or, with --task, from the
    rows of a task, of a model that `vocabpress evaluate --task … --keep DIR` made.
    """
    model, gates = located(model, revision), weights_from == "gates"
    if not gates and (task or data or settings):
        raise ValueError("--task, --data and --set are of gates; add --weights-from gates")
    if gates and (start or metric or exponent is not None):
        raise ValueError("gates are learned alone; add what else is wanted afterwards, by calibrate --from their file")
    files.check_place(output, "the calibration to ")
    if gates:
        given = {"max_length": max_length, **parse_settings(settings or [])}
        known = {field.name: field.default for field in fields(library.GateSettings)}
        report = library.learn_gates(
            model,
            output,
            text=text or (),
            task=task,
            data=data,
            budget=budgets.Budget.ratio(ratio),
            settings=library.GateSettings(**read_settings("gates", known, given)),
            seed=seed,
            device=device,
            progress=True,
        )
        printing.print_gates(report)
        told: dict[str, Any] = asdict(report)
    else:
        found = library.calibrate(
            model,
            text=text or (),
            start=start or (),
            exponent=exponent,
            weights_from=weights_from,
            metric=metric,
            metric_strength=metric_strength,
            sequences=sequences,
            max_length=max_length,
            seed=seed,
            device=device,
            progress=True,
        )
        found.save(output)
        printing.print_calibration(found, output)
        told = {"output": str(output), **found.provenance(), "effective_rank": found.effective_rank}
    if as_json:
        print_json(told)
