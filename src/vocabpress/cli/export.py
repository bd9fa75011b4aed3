"""`vocabpress export`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from vocabpress.cli.options import JsonOption, ModelArgument, print_json
from vocabpress.export import export as export_checkpoint
from vocabpress.report.console import print_export


def export(
    model: ModelArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to make; must not exist, or be empty.")],
    to: Annotated[str, typer.Option(help="onnx.")] = "onnx",
    text: Annotated[
        list[Path] | None, typer.Option("--text", help="UTF-8 text file to check the result on; may be repeated.")
    ] = None,
    operators: Annotated[
        str,
        typer.Option(help="onnxruntime: its own operator reads tables of uniform codes; standard: for other runtimes."),
    ] = "onnxruntime",
    as_json: JsonOption = False,
) -> None:
    """Write a model for other runtimes, its table as small as in the checkpoint.

    The ONNX file is run on text and compared with torch before it appears. Config and tokenizer lie beside it, as
    transformers.js reads them.
    """
    report = export_checkpoint(model, output, to=to, text=text or (), operators=operators, progress=True)
    print_export(report)
    if as_json:
        print_json(asdict(report))
