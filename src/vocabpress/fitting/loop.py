"""The training loop of fits: Adam over random batches of rows.

Where several processes have a table's rows, each draws the same batches, sees those rows of a batch that are its own,
and gradients are added up: the same training but for the order of sums.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from vocabpress.fitting.shards import Shards
from vocabpress.fitting.table import Table
from vocabpress.progress import Bar


class RowBatch(NamedTuple):
    """Rows of a step.

    Attributes:
        ids: Ids of this process' own rows of the batch.
        among: Places of these rows in the batch, for what is drawn for all of it; all of them if one process has it.
        size: Rows of the batch in all processes.
        done: How far training has come, 0 to 1.
    """

    ids: Tensor
    among: Tensor | slice
    size: int
    done: float


RowLosses = Callable[[RowBatch], Tensor]
"""A batch -> the loss of each of its own rows; what is minimised is their mean over the batch."""

Module = TypeVar("Module", bound=nn.Module)
SMALL_BATCH = 128


@dataclass(frozen=True)
class Schedule:
    """How long and how fast; ``decay`` maps progress, 0 to 1, to a factor on the initial learning rate of Adam."""

    epochs: int
    batch_size: int
    learning_rate: float
    decay: Callable[[float], float]


def cosine_decay(done: float, least: float = 0.0) -> float:
    """A factor on the learning rate that falls from 1 to ``least`` along a cosine."""
    return least + (1 - least) * 0.5 * (1 + math.cos(math.pi * done))


def minimise(
    parameters: Sequence[Tensor],
    loss: RowLosses,
    schedule: Schedule,
    table: Table,
    generator: torch.Generator,
    title: str = "",
    progress: bool = False,
    after_epoch: Callable[[int], object] = lambda _: None,
    among: Tensor | None = None,
) -> None:
    """Change leaf tensors in place by Adam, over batches of a table's rows, all or those ``among``.

    The generator draws the batches; its device is where the ids are. Training stops early if ``after_epoch(epoch)``,
    counted from 0, is true.
    """
    device = generator.device
    optimiser = torch.optim.Adam(parameters, lr=schedule.learning_rate, fused=True)
    num_rows = len(table) if among is None else len(among)
    steps_per_epoch = -(-num_rows // schedule.batch_size)
    total = schedule.epochs * steps_per_epoch
    bar = Bar(total=total, desc=title, disable=not progress)
    with bar, torch.enable_grad(), _threads_for(schedule.batch_size):
        for epoch in range(schedule.epochs):
            summed = torch.zeros((), device=device)
            order = torch.randperm(num_rows, generator=generator, device=device)
            order = order if among is None else among[order]
            for step, ids in enumerate(order.split(schedule.batch_size), start=epoch * steps_per_epoch):
                optimiser.param_groups[0]["lr"] = schedule.learning_rate * schedule.decay(step / total)
                optimiser.zero_grad()
                batch = _batch(ids, table, step / total)
                value = loss(batch).sum() / batch.size
                value.backward()
                _add_gradients(parameters, table.shards)
                optimiser.step()
                summed += value.detach()
                bar.update()
            bar.set_note(loss=f"{float(summed) / steps_per_epoch:.4g}", epoch=f"{epoch + 1}/{schedule.epochs}")
            if after_epoch(epoch):
                break


def best_epoch(
    network: Module,
    judge: Callable[[], float],
    loss: RowLosses,
    schedule: Schedule,
    table: Table,
    generator: torch.Generator,
    title: str,
    progress: bool,
    least: float = math.inf,
) -> Module:
    """Train a network by `minimise`; returns it as it was after the epoch that was judged best.

    ``least`` is what the network is judged to be at the start; with infinity the first epoch is better in any case.
    """
    best = copy.deepcopy(network)

    def look(_: int) -> None:
        nonlocal best, least
        found = judge()
        if found < least:
            best, least = copy.deepcopy(network), found

    minimise(list(network.parameters()), loss, schedule, table, generator, title, progress, look)
    return best.requires_grad_(False)


def _add_gradients(parameters: Sequence[Tensor], shards: Shards) -> None:
    """The gradients of the whole batch, from those of each process' rows; one message for all parameters."""
    if shards.world > 1:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        joined = shards.add(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, part in zip(gradients, joined.split([each.numel() for each in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


def _batch(ids: Tensor, table: Table, done: float) -> RowBatch:
    if table.shards.world == 1:
        return RowBatch(ids, slice(None), len(ids), done)
    first, end = table.own
    own = ((ids >= first) & (ids < end)).nonzero()[:, 0]
    return RowBatch(ids[own], own, len(ids), done)


@contextmanager
def _threads_for(batch_size: int) -> Iterator[None]:
    """One thread for small batches.

    One step takes microseconds of arithmetic; where another process uses a core, two threads that wait for each other
    at every operation were measured to be a hundred times slower than one.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1 if batch_size <= SMALL_BATCH else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
