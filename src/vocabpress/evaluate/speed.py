"""Timing of several calls that are to be compared."""

import statistics
import time
from collections.abc import Callable, Sequence


def interleaved_milliseconds(calls: Sequence[Callable[[], object]], repeats: int = 15) -> list[float]:
    """Median wall time of each call in milliseconds, after one warm-up run; calls alternate, so that drift is equal."""
    for call in calls:
        call()
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for index, call in enumerate(calls):
            start = time.perf_counter()
            call()
            times[index].append((time.perf_counter() - start) * 1000)
    return [statistics.median(series) for series in times]
