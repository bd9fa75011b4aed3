"""What `vocabpress evaluate` found, on stdout."""

import statistics
from collections.abc import Sequence

from vocabpress.report.console import print_table, size
from vocabpress.report.names import metric, short
from vocabpress.results import Result


def print_results(results: Sequence[Result], before: Sequence[Result] = ()) -> None:
    """A table for each task: each metric, over several seeds its mean and sample standard deviation.

    Args:
        results: Of one model; those of one task differ in the seed alone.
        before: Of the original; where a task was run on it, the table has before, after and the difference.
    """
    originals = _by_task(before)
    for task, runs in _by_task(results).items():
        spread = ["spread"] if len(runs) > 1 else []
        if task in originals:
            headers = [task, "before", "after", "difference", *spread]
            rows = [_compared(name, runs, originals[task]) for name in runs[0].metrics]
        else:
            headers = [task, "mean" if spread else "", *spread]
            rows = [_row(name, _values(runs, name)) for name in runs[0].metrics]
        print_table(headers, rows, _title(runs))


def _by_task(results: Sequence[Result]) -> dict[str, list[Result]]:
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result.task, []).append(result)
    return found


def _values(runs: Sequence[Result], name: str) -> list[float]:
    return [run.metrics[name] for run in runs if name in run.metrics]


def _row(name: str, values: Sequence[float]) -> tuple[str, ...]:
    if len(values) == 1:
        return _label(name), short(values[0])
    return _label(name), short(statistics.fmean(values)), short(statistics.stdev(values))


def _compared(name: str, runs: Sequence[Result], originals: Sequence[Result]) -> tuple[str, ...]:
    values, before = _values(runs, name), _values(originals, name)
    spread = [short(statistics.stdev(values))] if len(values) > 1 else []
    after = statistics.fmean(values)
    if not before:
        return _label(name), "", short(after), "", *spread
    difference = after - statistics.fmean(before)
    return _label(name), short(statistics.fmean(before)), short(after), f"{difference:+.4g}", *spread


def _label(name: str) -> str:
    shown = metric(name)
    return f"{shown.label}{shown.arrow}"


def _title(runs: Sequence[Result]) -> str:
    first = runs[0]
    title = f"{first.settings.get('model')}, {first.variant}"
    if "table" in first.bytes:
        title += f", table {size(first.bytes['table'])}"
    return f"{title}, {len(runs)} seeds" if len(runs) > 1 else title
