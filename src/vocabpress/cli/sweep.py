"""`vocabpress sweep`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from vocabpress.cli import options
from vocabpress.cli.later import Later

cells_of, plans = Later("vocabpress.sweep.expand"), Later("vocabpress.sweep.plan")
running = Later("vocabpress.sweep.run")
printing, collecting = Later("vocabpress.cli.printing"), Later("vocabpress.report.collect")
frames, tables = Later("vocabpress.report.frame"), Later("vocabpress.report.tables")

SOME_FAILED = 1


def sweep(
    plan: Annotated[Path, typer.Argument(help="A TOML file; docs/sweep.md lists its keys.")],
    slurm: Annotated[bool, typer.Option("--slurm", help="Run the cells as SLURM jobs, through submitit.")] = False,
    workers: Annotated[int | None, typer.Option(help="Local processes at a time; instead of the plan's.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the cells, and run none.")] = False,
    cluster: Annotated[str | None, typer.Option(hidden=True, help="Cluster of submitit; local for tests.")] = None,
    as_json: options.JsonOption = False,
) -> None:
    """Run a plan of methods, ratios, tasks and seeds; finished cells are not run again.

    Exit code 1 means that some cells failed; the others are done.
    """
    if workers is not None and (slurm or cluster):
        raise ValueError("--workers is for local processes; with --slurm set slurm_array_parallelism in the plan")
    if not plan.is_file():
        raise ValueError(f"can't read the plan {plan}: it is no file; docs/sweep.md says what is in one")
    checked = plans.read_plan(plan)
    if dry_run:
        show_cells(checked, as_json)
        return
    report = running.run_sweep(checked, workers=workers, cluster=cluster or ("slurm" if slurm else None), progress=True)
    show_report(report)
    if as_json:
        options.print_json(asdict(report))
    if report.failed:
        raise typer.Exit(SOME_FAILED)


def show_cells(plan: Any, as_json: bool) -> None:
    """What `--dry-run` prints."""
    cells = cells_of.expand(plan)
    names = {cell.name for cell in running.cells_to_run(cells, running.folders_of(plan))}
    rows = [(cell.name, cell.stage, "to run" if cell.name in names else "done") for cell in cells]
    printing.print_table(["cell", "stage", "state"], rows, f"{len(cells)} cells, {len(names)} to run")
    if as_json:
        options.print_json({"cells": [dict(zip(("name", "stage", "state"), row, strict=True)) for row in rows]})


def show_report(report: Any) -> None:
    """Print the state of each cell, then the results: a line for each table, a column for each task."""
    rows = [(name, "there already") for name in report.reused] + [(name, "done") for name in report.done]
    title = f"{len(report.done)} cells done, {len(report.reused)} there already, {len(report.failed)} failed"
    printing.print_table(["cell", "state"], rows + [(name, "failed") for name, _ in report.failed], title)
    for name, reason in report.failed:
        print(f"{name}: {reason}")
    try:
        models = frames.group(collecting.collect([Path(report.results)]).results) if rows else ()
    except ValueError as missing:  # pandas is not installed; the results are complete
        models = ()
        print(missing)
    for model in models:
        sheet = tables.overview(model)
        body = [[" ".join(filter(None, (entry.text, entry.remark))) for entry in line] for line in sheet.rows]
        printing.print_table(sheet.heads, body, model.title)
    print(f"{report.seconds:.0f} s; results in {report.results}")
