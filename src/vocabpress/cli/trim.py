"""`vocabpress trim`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from vocabpress.cli.later import Later
from vocabpress.cli.options import TEXT, JsonOption, ModelArgument, RevisionOption, located, print_json

printing, library = Later("vocabpress.cli.printing"), Later("vocabpress.trim")


def trim(
    model: ModelArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to make; must not exist, or be empty.")],
    text: Annotated[
        list[str] | None, typer.Option("--text", help=f"{TEXT}; its tokens are kept. May be repeated.")
    ] = None,
    script: Annotated[
        list[str] | None,
        typer.Option(help="Unicode script whose tokens are kept, such as Latin or Cyrillic; may be repeated."),
    ] = None,
    min_count: Annotated[int, typer.Option(help="How often a token has to occur in the text.")] = 1,
    revision: RevisionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Leave tokens out that the languages of the texts, or the scripts, do not need; the rows of the others stay.

    What comes out is an ordinary checkpoint, for compress or for use as it is.
    """
    model = located(model, revision)
    report = library.trim(model, output, text=text or (), scripts=script or (), min_count=min_count, progress=True)
    printing.print_trim(report)
    if as_json:
        print_json(asdict(report))
