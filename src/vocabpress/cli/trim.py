"""`vocabpress trim`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from vocabpress.cli import options
from vocabpress.cli.later import Later

printing, library = Later("vocabpress.cli.printing"), Later("vocabpress.trim")


def trim(
    model: options.ModelArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="New or empty folder.")],
    text: Annotated[
        list[str] | None, typer.Option("--text", help=f"{options.TEXT}; keep its tokens. May be repeated.")
    ] = None,
    script: Annotated[
        list[str] | None,
        typer.Option(help="Keep the tokens of this Unicode script, such as Latin or Cyrillic. May be repeated."),
    ] = None,
    min_count: Annotated[int, typer.Option(help="Keep a token if it occurs at least this often in the text.")] = 1,
    revision: options.RevisionOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Remove the tokens that the given texts or scripts do not need; the rows of the others are unchanged.

    The result is an ordinary checkpoint, which can be used or compressed.
    """
    model = options.located(model, revision)
    report = library.trim(model, output, text=text or (), scripts=script or (), min_count=min_count, progress=True)
    printing.print_trim(report)
    if as_json:
        options.print_json(asdict(report))
