"""`vocabpress report`."""

from pathlib import Path
from typing import Annotated

import typer

from vocabpress.cli.later import Later
from vocabpress.cli.options import JsonOption, print_json

collection, console = Later("vocabpress.report.collect"), Later("vocabpress.report.console")
markdowns, pages = Later("vocabpress.report.markdown"), Later("vocabpress.report.page")
files = Later("vocabpress.files")
speed = Later("vocabpress.report.speed.section")


def report(
    results: Annotated[list[Path], typer.Argument(help="Result files, or folders that are searched for *.json.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="HTML file to write.")] = Path("report.html"),
    markdown: Annotated[Path | None, typer.Option(help="Also write the tables as Markdown to this file.")] = None,
    title: Annotated[str, typer.Option(help="Of the page.")] = "Compressed vocabulary tables",
    as_json: JsonOption = False,
) -> None:
    """Show results as one HTML page that opens anywhere: charts, tables, how to repeat them."""
    for path in filter(None, (output, markdown)):
        if path.is_dir():
            raise ValueError(f"{path} is a folder; give a file to write, such as {path / 'report.html'}")
        if path.resolve() in {source.resolve() for source in results}:
            raise ValueError(f"{path} is one of the results; give another file to write")
        files.check_place(path, made=True)
    found = collection.collect(results)
    page = pages.to_page(found, title, progress=True)
    tables = markdowns.to_markdown(found.models, title, found.timings) if markdown is not None else ""
    pages.write_whole(output, page)
    if markdown is not None:
        pages.write_whole(markdown, tables)
    rows = [(model.name, len(model.names), len(model.tasks), len(model.rows)) for model in found.models]
    if found.timings:
        tasks = {row.task for row in found.timings}
        rows.append((speed.TITLE.lower(), len({row.name for row in found.timings}), len(tasks), len(found.timings)))
    console.print_table(["model", "variants", "tasks", "rows"], rows)
    skipped = f"; {found.skipped} JSON files hold no results" if found.skipped else ""
    print(f"{len(found.results)} results from {found.files} files{skipped}. Written to {output}.")
    if as_json:
        print_json(
            {
                "output": str(output),
                "markdown": None if markdown is None else str(markdown),
                "results": len(found.results),
                "files": found.files,
                "skipped": found.skipped,
                "timings": len(found.timings),
                "models": [model.name for model in found.models],
            }
        )
