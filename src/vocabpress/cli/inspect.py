"""`vocabpress inspect`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from vocabpress.cli.later import Later
from vocabpress.cli.options import (
    JsonOption,
    ModelArgument,
    RevisionOption,
    TextOption,
    TrustOption,
    located,
    print_json,
)

files = Later("vocabpress.files")
printing, inspection = Later("vocabpress.cli.printing"), Later("vocabpress.hf.inspect")


def inspect(
    model: ModelArgument,
    text: TextOption = None,
    plot: Annotated[Path | None, typer.Option(help="Write the spectrum as a PNG to this file.")] = None,
    save_counts: Annotated[
        Path | None, typer.Option(help="Write the counts of --text, for compress --calibration.")
    ] = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the spectrum and the plans, too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show the vocabulary tables of a model, and what each method would make of the input table."""
    model = located(model, revision)
    for path, what in ((plot, "the picture "), (save_counts, "the counts to ")):
        if path is not None:
            files.check_place(path, what)
    found = inspection.inspect_compressed(model)
    if found is not None:
        if text or plot or save_counts:
            raise ValueError(f"{model} is compressed already; --text, --plot and --save-counts need the original")
        printing.print_compressed(found)
    else:
        options = {"progress": True, "trust_remote_code": trust_remote_code}
        found = inspection.inspect(model, text or (), save_counts, **options)
        if plot is not None:
            printing.plot_spectrum(found, plot)
        printing.print_inspection(found, verbose)
    if as_json:
        print_json(asdict(found))
