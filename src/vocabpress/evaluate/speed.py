"""Timing of several calls that are to be compared."""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

T = TypeVar("T")


def in_turn(calls: Sequence[Callable[[], T]], repeats: int) -> list[list[T]]:
    """What each call returns, ``repeats`` times after one warm-up run; calls alternate, so that drift is equal."""
    for call in calls:
        call()
    rounds = [[call() for call in calls] for _ in range(repeats)]
    return [list(series) for series in zip(*rounds, strict=True)]


def interleaved_milliseconds(calls: Sequence[Callable[[], object]], repeats: int = 15) -> list[float]:
    """Median wall time of each call in milliseconds, measured by `in_turn`."""
    return [statistics.median(times) for times in in_turn([partial(_milliseconds, call) for call in calls], repeats)]


def _milliseconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1000
