"""`vocabpress metric`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from vocabpress.cli.later import Later
from vocabpress.cli.options import JsonOption, LessonText, ModelArgument, RevisionOption, located, print_json

printing, library = Later("vocabpress.cli.printing"), Later("vocabpress.recover")


def metric(
    model: ModelArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write, for compress --metric.")],
    text: LessonText = None,
    sequences: Annotated[int, typer.Option(help="Drawn from the text, at most.")] = 3000,
    max_length: Annotated[int, typer.Option(help="Tokens of a sequence.")] = 128,
    seed: Annotated[int, typer.Option(help="Of the draw, and of the projections.")] = 0,
    device: Annotated[str, typer.Option(help="Where to run: cpu, cuda, cuda:1.")] = "cpu",
    revision: RevisionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure in which directions an error of an embedded token matters to a model, from text without labels.

    What is looked at is the sentence embedding of a sentence encoder, the predictions of a language model, the last
    hidden states of others.
    """
    model = located(model, revision)
    report = library.measure_metric(
        model,
        output,
        text=text or (),
        sequences=sequences,
        max_length=max_length,
        seed=seed,
        device=device,
        progress=True,
    )
    printing.print_metric(report)
    if as_json:
        print_json(asdict(report))
