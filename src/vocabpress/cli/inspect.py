"""`vocabpress inspect`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from vocabpress.cli import options
from vocabpress.cli.later import Later

files = Later("vocabpress.files")
printing, inspection = Later("vocabpress.cli.printing"), Later("vocabpress.hf.inspect")


def inspect(
    model: options.ModelArgument,
    text: options.TextOption = None,
    plot: Annotated[Path | None, typer.Option(help="PNG file for a plot of the spectrum.")] = None,
    save_counts: Annotated[
        Path | None, typer.Option(help="File for the token counts of --text, for compress --calibration.")
    ] = None,
    revision: options.RevisionOption = None,
    trust_remote_code: options.TrustOption = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the spectrum and the plans, too.")] = False,
    as_json: options.JsonOption = False,
) -> None:
    """Show the vocabulary tables of a model, and the size of the input table by each method."""
    model = options.located(model, revision)
    for path, what in ((plot, "the picture "), (save_counts, "the counts to ")):
        if path is not None:
            files.check_place(path, what)
    found = inspection.inspect_compressed(model)
    if found is not None:
        if text or plot or save_counts:
            raise ValueError(f"{model} is compressed already; --text, --plot and --save-counts need the original")
        printing.print_compressed(found)
    else:
        found = inspection.inspect(model, text or (), save_counts, progress=True, trust_remote_code=trust_remote_code)
        if plot is not None:
            printing.plot_spectrum(found, plot)
        printing.print_inspection(found, verbose)
    if as_json:
        options.print_json(asdict(found))
