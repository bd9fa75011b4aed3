"""What `vocabpress evaluate` found, on stdout."""

import statistics
from collections.abc import Sequence

from vocabpress.report.console import print_table, size
from vocabpress.report.names import metric, short
from vocabpress.results import Result


def print_results(results: Sequence[Result]) -> None:
    """A table for each task: each metric, over several seeds its mean and sample standard deviation.

    Args:
        results: Of one model; those of one task differ in the seed alone.
    """
    by_task: dict[str, list[Result]] = {}
    for result in results:
        by_task.setdefault(result.task, []).append(result)
    for task, runs in by_task.items():
        headers = [task, "mean", "spread"] if len(runs) > 1 else [task, ""]
        rows = [_row(name, [run.metrics[name] for run in runs]) for name in runs[0].metrics]
        print_table(headers, rows, _title(runs))


def _row(name: str, values: Sequence[float]) -> tuple[str, ...]:
    shown = metric(name)
    label = f"{shown.label}{shown.arrow}"
    if len(values) == 1:
        return label, short(values[0])
    return label, short(statistics.fmean(values)), short(statistics.stdev(values))


def _title(runs: Sequence[Result]) -> str:
    first = runs[0]
    title = f"{first.settings.get('model')}, {first.variant}"
    if "table" in first.bytes:
        title += f", table {size(first.bytes['table'])}"
    return f"{title}, {len(runs)} seeds" if len(runs) > 1 else title
