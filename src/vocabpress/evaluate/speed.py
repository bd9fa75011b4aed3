"""How long a call takes, for two callables side by side."""

import statistics
import time
from collections.abc import Callable, Sequence


def interleaved_milliseconds(calls: Sequence[Callable[[], object]], repeats: int = 15) -> list[float]:
    """Median wall time of each call in milliseconds, the calls taken in turn so that drift hits all alike.

    Args:
        calls: Each is run once before the clock starts.
        repeats: Timed runs of each.
    """
    for call in calls:
        call()
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for index, call in enumerate(calls):
            start = time.perf_counter()
            call()
            times[index].append((time.perf_counter() - start) * 1000)
    return [statistics.median(series) for series in times]
