"""The one training loop: Adam over random batches of rows."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

RowBatchLoss = Callable[[Tensor, float], Tensor]
"""(row ids of the batch, how far training has come from 0 to 1) -> a scalar loss."""

SMALL_BATCH = 128


@dataclass(frozen=True)
class Schedule:
    """How long and how fast.

    Attributes:
        epochs: Passes over the rows.
        batch_size: Rows a step.
        learning_rate: Of Adam, at the start.
        decay: (how far training has come, 0 to 1) -> the factor on the learning rate.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    decay: Callable[[float], float]


@dataclass
class Minimiser:
    """Adam over batches of rows drawn without replacement, anew in each epoch.

    Attributes:
        parameters: Leaf tensors; changed in place.
        loss: Of a batch.
        schedule: How long and how fast.
        generator: Draws the batches; its device is where the ids are.
        title: What the progress bar says.
        progress: Whether there is a progress bar, on stderr.
    """

    parameters: Sequence[Tensor]
    loss: RowBatchLoss
    schedule: Schedule
    generator: torch.Generator
    title: str = ""
    progress: bool = False

    def run(self, num_rows: int, after_epoch: Callable[[int], bool]) -> None:
        """Train; stop early when ``after_epoch(epoch)``, the epoch counted from 0, says so."""
        schedule, device = self.schedule, self.generator.device
        optimiser = torch.optim.Adam(self.parameters, lr=schedule.learning_rate, fused=True)
        steps_per_epoch = -(-num_rows // schedule.batch_size)
        total = schedule.epochs * steps_per_epoch
        bar = tqdm(total=total, desc=self.title, unit="step", disable=not self.progress, mininterval=0.5)
        with bar, torch.enable_grad(), _threads_for(schedule.batch_size):
            for epoch in range(schedule.epochs):
                summed = torch.zeros((), device=device)
                order = torch.randperm(num_rows, generator=self.generator, device=device)
                for step, ids in enumerate(order.split(schedule.batch_size), start=epoch * steps_per_epoch):
                    optimiser.param_groups[0]["lr"] = schedule.learning_rate * schedule.decay(step / total)
                    optimiser.zero_grad()
                    value = self.loss(ids, step / total)
                    value.backward()
                    optimiser.step()
                    summed += value.detach()
                    bar.update()
                bar.set_postfix(loss=f"{float(summed) / steps_per_epoch:.4g}", epoch=f"{epoch + 1}/{schedule.epochs}")
                if after_epoch(epoch):
                    break


@contextmanager
def _threads_for(batch_size: int) -> Iterator[None]:
    """One thread for small batches.

    A step of theirs is microseconds of arithmetic; where another process holds a core, two threads that wait for each
    other at every operation were seen to be a hundred times slower than one.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1 if batch_size <= SMALL_BATCH else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
