"""`vocabpress report`."""

from pathlib import Path
from typing import Annotated

import typer

from vocabpress.cli import options
from vocabpress.cli.later import Later

collecting, pages = Later("vocabpress.report.collect"), Later("vocabpress.report.page")
frames, tables = Later("vocabpress.report.frame"), Later("vocabpress.report.tables")
files, results_of = Later("vocabpress.files"), Later("vocabpress.results")
printing = Later("vocabpress.cli.printing")


def report(
    results: Annotated[list[Path], typer.Argument(help="Result files, or folders that are searched for *.json.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="HTML file to write.")] = Path("report.html"),
    markdown: Annotated[Path | None, typer.Option(help="Also write the tables as Markdown to this file.")] = None,
    title: Annotated[str, typer.Option(help="Title of the page.")] = "Compressed vocabulary tables",
    as_json: options.JsonOption = False,
) -> None:
    """Show results as one HTML page that needs no network: charts, tables, commands to repeat them."""
    for path in filter(None, (output, markdown)):
        if path.is_dir():
            raise ValueError(f"{path} is a folder; give a file to write, such as {path / 'report.html'}")
        if path.resolve() in {source.resolve() for source in results}:
            raise ValueError(f"{path} is one of the results; give another file to write")
        files.check_place(path, made=True)
    found = collecting.collect(results)
    page, models = pages.to_page(found, title, progress=True), frames.group(found.results)
    results_of.write_whole(output, page)
    if markdown is not None:
        results_of.write_whole(markdown, tables.to_markdown(models, title))
    rows = [(model.title, len(set(model.rows["name"])), len(model.tasks), len(model.rows)) for model in models]
    printing.print_table(["model", "variants", "tasks", "rows"], rows)
    skipped = f"; {found.skipped} JSON files hold no results" if found.skipped else ""
    print(f"{len(found.results)} results from {found.files} files{skipped}. Written to {output}.")
    if as_json:
        options.print_json(
            {
                "output": str(output),
                "markdown": None if markdown is None else str(markdown),
                "results": len(found.results),
                "files": found.files,
                "skipped": found.skipped,
                "models": [model.name for model in models],
            }
        )
