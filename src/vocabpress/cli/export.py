"""`vocabpress export`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from vocabpress.cli.later import Later
from vocabpress.cli.options import TEXT, JsonOption, ModelArgument, RevisionOption, located, print_json

printing, library = Later("vocabpress.cli.printing"), Later("vocabpress.export")


def export(
    model: ModelArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to make; must not exist, or be empty.")],
    to: Annotated[str, typer.Option(help="onnx.")] = "onnx",
    text: Annotated[
        list[str] | None, typer.Option("--text", help=f"{TEXT}; the result is checked on it. May be repeated.")
    ] = None,
    operators: Annotated[
        str,
        typer.Option(help="onnxruntime: its own operator reads tables of uniform codes; standard: for other runtimes."),
    ] = "onnxruntime",
    revision: RevisionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a model for other runtimes, its table as small as in the checkpoint.

    The ONNX file is run on text and compared with torch before it appears. Config and tokenizer lie beside it, as
    transformers.js reads them.
    """
    model = located(model, revision)
    report = library.export(model, output, to=to, text=text or (), operators=operators, progress=True)
    printing.print_export(report)
    if as_json:
        print_json(asdict(report))
