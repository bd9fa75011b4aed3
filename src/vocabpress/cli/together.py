"""Join the processes that torchrun started into one job."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import typer
from torch.distributed.rendezvous import rendezvous

from vocabpress.cli.options import USAGE_ERROR
from vocabpress.fitting.shards import ALONE, Shards

TIMEOUT = timedelta(days=1)  # the first process may measure and write for long while the others wait


@contextmanager
def together(device: str) -> Iterator[Shards]:
    """Join the other processes, if there are any, each with its own CUDA device if the ``device`` to fit on is one.

    An error in one process ends all, with one line and exit code 2. The first to fail prints the error; the others find
    their connections closed and print nothing.
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1 and "MASTER_ADDR" in os.environ and dist.is_available()
    if not several:
        yield ALONE
        return
    on_cuda = torch.device(device).type == "cuda"
    if on_cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    store, rank, world = next(iter(rendezvous("env://")))
    backend = "nccl" if on_cuda else "gloo"
    dist.init_process_group(backend, timeout=TIMEOUT, store=store, rank=rank, world_size=world)
    try:
        yield Shards(rank, world)
    except (ValueError, OSError, RuntimeError) as error:
        if _another_failed(store):
            raise typer.Exit(USAGE_ERROR) from None
        if isinstance(error, RuntimeError):
            raise
        raise ValueError(f"process {rank} of {world}: {error}") from error
    dist.destroy_process_group()


def _another_failed(store: Any) -> bool:
    try:
        return store.add("vocabpress failed", 1) > 1
    except RuntimeError:  # the process with the store has ended
        return True
