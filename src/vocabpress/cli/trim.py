"""`vocabpress trim`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from vocabpress.cli.options import JsonOption, ModelArgument, print_json
from vocabpress.report.console import print_trim
from vocabpress.trim import trim as trim_checkpoint


def trim(
    model: ModelArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to make; must not exist, or be empty.")],
    text: Annotated[
        list[Path] | None, typer.Option("--text", help="UTF-8 text file whose tokens are kept; may be repeated.")
    ] = None,
    script: Annotated[
        list[str] | None,
        typer.Option(help="Unicode script whose tokens are kept, such as Latin or Cyrillic; may be repeated."),
    ] = None,
    min_count: Annotated[int, typer.Option(help="How often a token has to occur in the text.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Leave tokens out that the languages of the texts, or the scripts, do not need; the rows of the others stay.

    What comes out is an ordinary checkpoint, for compress or for use as it is.
    """
    report = trim_checkpoint(model, output, text=text or (), scripts=script or (), min_count=min_count, progress=True)
    print_trim(report)
    if as_json:
        print_json(asdict(report))
