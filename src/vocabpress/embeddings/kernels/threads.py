"""Loops over many rows, shared out among as many threads as torch has; they hold no lock of Python's."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import torch

_pools: dict[int, ThreadPoolExecutor] = {}
os.register_at_fork(after_in_child=_pools.clear)  # a child has none of its parent's threads


def in_threads(work: Callable[[int, int], object], rows: int, least: int = 4096) -> None:
    """Call ``work(first, last)`` for parts of ``range(rows)``, all at once.

    Args:
        work: Is safe beside itself.
        rows: In all.
        least: Rows that are worth a thread.
    """
    count = min(torch.get_num_threads(), rows // least)
    if count < 2:
        work(0, rows)
        return
    pool = _pools.setdefault(count, ThreadPoolExecutor(count - 1, thread_name_prefix="vocabpress"))
    ends = [rows * part // count for part in range(count + 1)]
    others = [pool.submit(work, *span) for span in pairwise(ends[1:])]
    work(ends[0], ends[1])
    for other in others:
        other.result()
