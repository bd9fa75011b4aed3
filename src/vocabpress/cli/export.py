"""`vocabpress export`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from vocabpress.cli import options
from vocabpress.cli.later import Later

printing, library = Later("vocabpress.cli.printing"), Later("vocabpress.export")


def export(
    model: options.ModelArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="New or empty folder.")],
    to: Annotated[str, typer.Option(help="Format: onnx.")] = "onnx",
    text: Annotated[
        list[str] | None, typer.Option("--text", help=f"{options.TEXT}; used to check the result. May be repeated.")
    ] = None,
    operators: Annotated[
        str,
        typer.Option(help="onnxruntime: use its own operator for tables of uniform codes. standard: only ONNX's own."),
    ] = "onnxruntime",
    revision: options.RevisionOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Export a model for other runtimes, with its table still compressed.

    The ONNX file is first run on text and compared with torch. The folder also gets the config and the tokenizer, in
    the layout of transformers.js.
    """
    model = options.located(model, revision)
    report = library.export(model, output, to=to, text=text or (), operators=operators, progress=True)
    printing.print_export(report)
    if as_json:
        options.print_json(asdict(report))
