"""The processes that torchrun started, as one job."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import typer
from torch.distributed.rendezvous import rendezvous

from vocabpress.fitting.shards import ALONE, Shards

PATIENCE = timedelta(days=1)  # for the others: one of them may measure and write while they wait
USAGE_ERROR = 2


def started_together() -> bool:
    """Whether torchrun started this process, and others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "MASTER_ADDR" in os.environ and dist.is_available()


@contextmanager
def together(device: str) -> Iterator[Shards]:
    """Join the other processes, if there are any; each on a CUDA device of its own.

    What ends one of them ends all, with one line and exit code 2: the first to fail says it, the others find their
    connections closed and say nothing.

    Args:
        device: Where to fit; its type picks the backend, gloo or nccl.
    """
    if not started_together():
        yield ALONE
        return
    on_cuda = torch.device(device).type == "cuda"
    if on_cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    store, rank, world = next(iter(rendezvous("env://")))
    backend = "nccl" if on_cuda else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE, store=store, rank=rank, world_size=world)
    try:
        yield Shards(rank, world)
    except (ValueError, OSError, RuntimeError) as error:
        if _told(store):
            raise typer.Exit(USAGE_ERROR) from None
        if isinstance(error, RuntimeError):
            raise
        raise ValueError(f"process {rank} of {world}: {error}") from error
    dist.destroy_process_group()


def _told(store: Any) -> bool:
    """Whether another process has failed before this one."""
    try:
        return store.add("vocabpress failed", 1) > 1
    except RuntimeError:  # the one that held the store is gone
        return True
