"""Loops over many rows, shared out among as many threads as torch has; they hold no lock of Python's.

Torch's own threads wait for work awake, so others would have to fight them for the processor after every product.
Where they are GNU OpenMP's, as in the wheels for Linux, a loop is therefore run by them; elsewhere by threads of ours.
"""

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import numpy
import torch

Work = Callable[[int, int], object]

# A child of `fork` has none of its parent's threads, and GNU's runtime would wait for them for ever.
_PROCESS = os.getpid()
_team = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def in_threads(work: Work, rows: int, least: int) -> None:
    """Call ``work(first, last)`` for parts of ``range(rows)``, all at once.

    Args:
        work: Is safe beside itself, and shares out nothing in its turn.
        rows: In all.
        least: Rows that are worth a thread.
    """

    def quiet(first: int, last: int) -> None:
        with numpy.errstate(all="ignore"):  # numbers beyond their dtype are as quiet as in torch, in every thread
            work(first, last)

    count = min(torch.get_num_threads(), rows // least)
    if count < 2:
        quiet(0, rows)
    elif os.getpid() == _PROCESS and (runtime := _openmp()) is not None:
        _by_torch(runtime, quiet, rows, count)
    else:
        _by_ours(quiet, rows, count)


@cache
def _openmp() -> ctypes.CDLL | None:
    """GNU's OpenMP runtime, if torch has loaded it, and shares its work out by it."""
    if "parallel backend: OpenMP" not in torch.__config__.parallel_info():
        return None
    try:
        runtime = ctypes.CDLL(None)  # all that this process has loaded
        parallel, _, _ = runtime.GOMP_parallel, runtime.omp_get_thread_num, runtime.omp_get_num_threads
    except (AttributeError, OSError, TypeError):
        return None
    parallel.argtypes, parallel.restype = [_team, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    return runtime


def _by_torch(runtime: ctypes.CDLL, work: Work, rows: int, count: int) -> None:
    failed: list[BaseException] = []

    def member(_: int | None) -> None:
        own, team = runtime.omp_get_thread_num(), runtime.omp_get_num_threads()  # fewer where a loop runs in a loop
        try:
            work(rows * own // team, rows * (own + 1) // team)
        except BaseException as error:  # the caller's to see
            failed.append(error)

    runtime.GOMP_parallel(_team(member), None, count, 0)
    if failed:
        raise failed[0]


@cache
def _pool(process: int, count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="vocabpress")


def _by_ours(work: Work, rows: int, count: int) -> None:
    ends, pool = [rows * part // count for part in range(count + 1)], _pool(os.getpid(), count - 1)
    others = [pool.submit(work, *span) for span in pairwise(ends[1:])]
    work(ends[0], ends[1])
    for other in others:
        other.result()
