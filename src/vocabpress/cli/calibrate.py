"""`vocabpress calibrate`."""

from pathlib import Path
from typing import Annotated

import typer

from vocabpress.cli import options
from vocabpress.cli.later import Later

budgets, files, library = Later("vocabpress.budget"), Later("vocabpress.files"), Later("vocabpress.calibrate")
printing, typed = Later("vocabpress.cli.printing"), Later("vocabpress.settings")


def calibrate(
    model: options.ModelArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write, for compress --calibration.")],
    text: options.LessonText = None,
    start: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            help="A calibration to start from, uniform or vocabulary-order, or a file of counts, weights or a metric "
            "of an earlier version; what it holds is not computed again. May be repeated.",
        ),
    ] = None,
    weights_from: Annotated[
        str,
        typer.Option(
            help="counts: a power of the tokens' counts in the text. tfidf: their TF-IDF. gates: learned in epochs "
            "of training, as in DiscBlock-D."
        ),
    ] = "counts",
    exponent: Annotated[
        float | None,
        typer.Option(help="Power of the counts, 0 to 2; 0 weights tokens equally. [0.5]"),
    ] = None,
    metric: Annotated[
        bool | None,
        typer.Option(
            help="Measure in which directions errors matter: a forward and a backward pass over --sequences, minutes, "
            "where counting takes seconds. [--metric with text]"
        ),
    ] = None,
    metric_strength: Annotated[
        float | None,
        typer.Option(help="Exponent of the metric in a fit, 0 to 2; 0 leaves it out. [0.5, with a tied head 1]"),
    ] = None,
    own_tokens: Annotated[
        int | None,
        typer.Option(help="Tokens that a causal language model writes for the metric. [8192 without text, else 0]"),
    ] = None,
    sequences: Annotated[int, typer.Option(help="Sequences for the metric at most, drawn from the text.")] = 3000,
    max_length: Annotated[int, typer.Option(help="Tokens of a sequence.")] = 128,
    task: options.LessonTask = None,
    data: options.LessonData = None,
    ratio: Annotated[float, typer.Option(help="Ratio to float32 of the tables that evaluate gates.")] = 25,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="field=value for learning gates; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random generator.")] = 0,
    device: Annotated[str, typer.Option(help="Device: cpu, cuda, cuda:1.")] = "cpu",
    revision: options.RevisionOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Find which errors of a model's table matter, from text without labels, and write them to one file.

    Tokens are weighted by their frequency in the text, without text by the vocabulary's order. Directions are weighted
    by the effect of an error on a sentence encoder's embeddings, a language model's predictions, or the last hidden
    states of other models. With --weights-from gates, token weights are learned from text or, with --task, from the
    rows of a task, with a model that `vocabpress evaluate --task … --keep DIR` fine-tuned.
    """
    model, learned = options.located(model, revision), weights_from == "gates"
    if settings and not learned:
        raise ValueError("--set is for the training of gates; add --weights-from gates")
    files.check_place(output, "the calibration to ")
    gates = None
    if learned:
        given = {"max_length": max_length, **options.parse_settings(settings)}
        gates = library.GateSettings(**typed.read_settings("gates", library.GateSettings, given))
    found = library.calibrate(
        model,
        text=text or (),
        start=start or (),
        exponent=exponent,
        weights_from=weights_from,
        gates=gates,
        task=task,
        data=data,
        budget=budgets.Budget.ratio(ratio),
        metric=metric,
        metric_strength=metric_strength,
        own_tokens=own_tokens,
        sequences=sequences,
        max_length=max_length,
        seed=seed,
        device=device,
        progress=True,
    )
    found.save(output)
    printing.print_calibration(found, output)
    if as_json:
        options.print_json({"output": str(output), **found.provenance(), "effective_rank": found.effective_rank})
