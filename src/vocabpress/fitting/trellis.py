"""Encoding for the `Trellis` form: the path of least weighted error through the trellis, by Viterbi's algorithm."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor
from tqdm import tqdm

from vocabpress.embeddings.trellis import Run, words
from vocabpress.fitting.table import Table
from vocabpress.packing import pack

CHUNK_ENTRIES = 2**18  # states times rows that a step holds at a time: 1 MiB of costs stays in the cache
CLOSING_BITS = 5  # times the memory: how far around the seam of the ring is looked at to find the state there


class Step:
    """One step of a row: where its columns begin, its bits, and the words of all states, scaled."""

    def __init__(self, column: int, run: Run, table: Tensor) -> None:
        self.column, self.bits, self.width = column, run.bits, run.width
        self.words = table  # (width, 2**memory), times the run's scale
        self.columns = slice(column, column + run.width)


def make_steps(runs: Sequence[Run], scales: Tensor, memory: int) -> list[Step]:
    """All steps of a row, left to right; runs without bits have none."""
    states = torch.arange(2**memory, device=scales.device)
    steps, column = [], 0
    for run, scale in zip(runs, scales, strict=True):
        if run.bits:
            table = (words(states, run.width).to(scale.dtype) * scale).T.contiguous()
            steps += [Step(first, run, table) for first in range(column, column + run.columns, run.width)]
        column += run.columns
    return steps


def encode(
    rows: Table,
    codes: Tensor,
    runs: Sequence[Run],
    scales: Tensor,
    importance: Tensor,
    memory: int,
    title: str = "",
) -> None:
    """The streams whose decoded rows have the least ``sum_j importance_j (x_j - x^_j)**2``, but for the ring's seam.

    The state at the seam is found first, by a search over the steps on both sides of it; then the best path from that
    state to itself. Time is linear in the rows; memory is bounded by chunks.

    Args:
        rows: (V, columns of the runs).
        codes: Where the packed bits go, as the form has them, (V, bytes of a row).
        runs: As the form has them.
        scales: (runs).
        importance: (columns), above zero where a run has bits.
        memory: Bits of a state.
        title: Of the progress bar; none without.
    """
    steps = make_steps(runs, scales, memory)
    size = max(1, CHUNK_ENTRIES >> memory)
    bar = tqdm(desc=title, total=len(rows), unit="rows", unit_scale=True, disable=not title)

    def encoded(few: Tensor) -> Tensor:
        return pack(_path(few, steps, importance, memory, _seam(few, steps, importance, memory))[0], 1)

    with bar, chunk_by_chunk(rows.device) as each:

        def all_encoded(_: slice, chunk: Tensor) -> list[Tensor]:
            found = []
            for packed in each(encoded, chunk.split(size)):
                found.append(packed)
                bar.update(len(packed))
            return [torch.cat(found)]

        rows.fill([codes], all_encoded)


@contextmanager
def chunk_by_chunk(device: torch.device) -> Iterator[Callable[..., Iterable[Tensor]]]:
    """A `map` that gives each core a chunk of its own.

    Threads inside an operation wait for each other after every one, a tenth of a millisecond long: a third of the speed
    where waiting threads sleep (``OMP_WAIT_POLICY=PASSIVE``). On a GPU one chunk is at work at a time.
    """
    cores = torch.get_num_threads() if device.type == "cpu" else 1
    if cores == 1:
        yield map
        return
    with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield pool.map
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(cores)  # a part of torch keeps one number for all threads


def _seam(rows: Tensor, steps: list[Step], importance: Tensor, memory: int) -> Tensor:
    """The state at the end of each row, (V): that of the best open path over the steps around the seam."""
    ends, head, tail = CLOSING_BITS * memory, [], []
    for side, order in ((head, steps), (tail, steps[::-1])):
        for step in order:
            if sum(taken.bits for taken in side) >= ends:
                break
            side.append(step)
    return _path(rows, tail[::-1] + head, importance, memory, None, len(tail))[1]


def _path(
    rows: Tensor, steps: list[Step], importance: Tensor, memory: int, ring: Tensor | None, at: int = 0
) -> tuple[Tensor, Tensor]:
    """The new bits of the best path, (V, bits), and the state after its first ``at`` steps, (V).

    Args:
        rows: (V, columns).
        steps: In the order of time.
        importance: (columns).
        memory: Bits of a state.
        ring: The state before the first and after the last step, (V); None leaves both free.
        at: Which state to return.
    """
    states = 2**memory
    costs = rows.new_zeros(len(rows), states)
    if ring is not None:
        costs = costs.fill_(torch.inf).scatter_(1, ring[:, None], 0.0)
    knock_outs = []
    for step in steps:
        # A state's predecessors are those that differ in the bits that fall out of the window, its lowest ones.
        least, rounds = _least(costs, step.bits)
        knock_outs.append(rounds)
        costs = _errors(rows, step, importance).view(len(rows), 1 << step.bits, -1)
        costs = costs.add_(least[:, None]).view(len(rows), states)
    state = costs.argmin(1) if ring is None else ring
    streams, wanted, every = [], state, torch.arange(len(rows), device=rows.device)
    for number in range(len(steps) - 1, -1, -1):
        step = steps[number]
        wanted = state if number + 1 == at else wanted
        fresh = state >> (memory - step.bits)
        streams.append((fresh[:, None] >> torch.arange(step.bits, device=rows.device) & 1).to(torch.uint8))
        state = state & ((states >> step.bits) - 1)
        for second_won in reversed(knock_outs[number]):
            state = state << 1 | second_won[every, state]
    return torch.cat(streams[::-1], 1), state if at == 0 else wanted


def _least(costs: Tensor, bits: int) -> tuple[Tensor, list[Tensor]]:
    """The least of each ``2**bits`` neighbours, (V, states >> bits), and who won each pair on the way to it.

    A knock-out of ``bits`` rounds, each with a table that is true where the second won: several times faster than
    torch's minimum over a short axis with indices.
    """
    rounds = []
    for _ in range(bits):
        even, odd = costs[:, 0::2], costs[:, 1::2]
        rounds.append(odd < even)
        costs = torch.minimum(even, odd)
    return costs, rounds


def _errors(rows: Tensor, step: Step, importance: Tensor) -> Tensor:
    """Weighted squared errors of all words at a step, less what all have in common; (V, 2**memory)."""
    weights = importance[step.columns]
    costs = weights @ step.words.square()
    targets = rows[:, step.columns] * weights
    for column, values in enumerate(step.words):  # a matrix product of so few columns is several times slower
        costs = torch.addcmul(costs, targets[:, column, None], values, value=-2)
    return costs
