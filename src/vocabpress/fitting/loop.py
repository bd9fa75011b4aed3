"""The one training loop: Adam over random batches of rows."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

RowBatchLoss = Callable[[Tensor, float], Tensor]
"""(row ids of the batch, how far training has come from 0 to 1) -> a scalar loss."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast.

    Attributes:
        epochs: Passes over the rows.
        batch_size: Rows a step.
        learning_rate: Of Adam, at the start.
        decay: (epoch) -> the factor on the learning rate in that epoch.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    decay: Callable[[int], float]


def minimise(
    parameters: Sequence[Tensor],
    loss: RowBatchLoss,
    num_rows: int,
    schedule: Schedule,
    generator: torch.Generator,
    after_epoch: Callable[[int], bool],
    title: str = "",
    progress: bool = False,
) -> None:
    """Minimise ``loss`` over batches of rows; stop early when ``after_epoch(epoch)`` says so.

    Args:
        parameters: Leaf tensors; changed in place.
        loss: Of a batch.
        num_rows: Rows there are; ids are drawn without replacement, anew in each epoch.
        schedule: How long and how fast.
        generator: Draws the batches; its device is where the ids are.
        after_epoch: Called with the epoch that ended, counted from 0; True stops.
        title: What the progress bar says.
        progress: Whether there is a progress bar, on stderr.
    """
    with _threads_for(schedule.batch_size):
        _minimise(parameters, loss, num_rows, schedule, generator, after_epoch, title, progress)


SMALL_BATCH = 128


@contextmanager
def _threads_for(batch_size: int) -> Iterator[None]:
    """One thread for small batches: a step is microseconds of arithmetic, and where another process holds a core,
    two threads that wait for each other at every operation were seen to be a hundred times slower.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1 if batch_size <= SMALL_BATCH else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _minimise(
    parameters: Sequence[Tensor],
    loss: RowBatchLoss,
    num_rows: int,
    schedule: Schedule,
    generator: torch.Generator,
    after_epoch: Callable[[int], bool],
    title: str,
    progress: bool,
) -> None:
    optimiser = torch.optim.Adam(parameters, lr=schedule.learning_rate, fused=True)
    steps_per_epoch = -(-num_rows // schedule.batch_size)
    total = schedule.epochs * steps_per_epoch
    with tqdm(total=total, desc=title, unit="step", disable=not progress, mininterval=0.5) as bar:
        for epoch in range(schedule.epochs):
            for group in optimiser.param_groups:
                group["lr"] = schedule.learning_rate * schedule.decay(epoch)
            order = torch.randperm(num_rows, generator=generator, device=generator.device)
            summed = torch.zeros((), device=generator.device)
            for step, ids in enumerate(order.split(schedule.batch_size)):
                optimiser.zero_grad()
                value = loss(ids, (epoch * steps_per_epoch + step) / total)
                value.backward()
                optimiser.step()
                summed += value.detach()
                bar.update()
            bar.set_postfix(loss=f"{float(summed) / steps_per_epoch:.4g}", epoch=f"{epoch + 1}/{schedule.epochs}")
            if after_epoch(epoch):
                break
