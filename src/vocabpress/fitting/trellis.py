"""Encoding for the `Trellis` form: the streams of least weighted error, by Viterbi's algorithm around a ring."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from vocabpress.embeddings.trellis import Run
from vocabpress.fitting.table import Table
from vocabpress.fitting.viterbi import Steps, best_path
from vocabpress.packing import pack

CHUNK_ENTRIES = 2**18  # states times rows at a time: a step's 1 MiB of costs stays in the cache
CLOSING_BITS = 5  # bits over the memory, on each side of the ring's seam, from which the state at the seam is found


def encode(
    rows: Table,
    codes: Tensor,
    runs: Sequence[Run],
    scales: Tensor,
    importance: Tensor,
    memory: int,
    done: Callable[[int], object] = lambda rows: None,
) -> None:
    """Write the streams with the least ``sum_j importance_j (x_j - x^_j)**2``, except around the ring's seam.

    The state at the seam is found first, by a search over the steps on both sides of it; then the best path from that
    state to itself. Time is linear in the rows; memory is bounded by chunks.

    Args:
        rows: (V, columns of the runs).
        codes: Receives the packed bits, (V, bytes of a row).
        runs: Rates of the columns, from left to right.
        scales: (runs).
        importance: (columns), above zero where a run has bits.
        memory: Bits of a state.
        done: Called with the number of rows coded since the last call.
    """
    encoder = Encoder.of(runs, scales, memory)

    def encoded(part: Tensor) -> Tensor:
        return encoder.codes(part, importance)

    with chunk_by_chunk(rows.device) as each:

        def all_encoded(_: slice, chunk: Tensor) -> list[Tensor]:
            found = []
            for packed in each(encoded, chunk.split(encoder.at_once)):
                found.append(packed)
                done(len(packed))
            return [torch.cat(found)]

        rows.fill([codes], all_encoded)


@dataclass(frozen=True)
class Encoder:
    """The search for the streams of some rows, set up once.

    Attributes:
        steps: The steps of a row.
        around: Those on both sides of the ring's seam.
        before: How many of ``around`` lie before the seam.
    """

    steps: Steps
    around: Steps
    before: int

    @classmethod
    def of(cls, runs: Sequence[Run], scales: Tensor, memory: int) -> Self:
        """For rows of these runs, with scales of shape (runs)."""
        steps = Steps.of(runs, scales, memory)
        return cls(steps, *_around_the_seam(steps))

    @property
    def at_once(self) -> int:
        """Rows whose costs stay in the cache."""
        return max(1, CHUNK_ENTRIES >> self.steps.memory)

    def codes(self, rows: Tensor, importance: Tensor) -> Tensor:
        """Packed bits, uint8, (n, bytes of a row), for rows, (n, columns)."""
        _, seam = best_path(rows, self.around, importance, None, self.before)
        return pack(best_path(rows, self.steps, importance, seam)[0], 1)


@contextmanager
def chunk_by_chunk(device: torch.device) -> Iterator[Callable[..., Iterable[Tensor]]]:
    """A `map` that gives each core a chunk.

    Threads inside an operation wait for each other after every one, a tenth of a millisecond long: a third of the speed
    where waiting threads sleep (``OMP_WAIT_POLICY=PASSIVE``). On a GPU there is one chunk at a time.
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
            torch.set_num_threads(cores)  # one part of torch has a single number for all threads


def _around_the_seam(steps: Steps) -> tuple[Steps, int]:
    """The steps on both sides of the ring's seam, and the number of those before it."""
    ends, head, tail = CLOSING_BITS * steps.memory, [], []
    for side, order in ((head, steps.each), (tail, steps.each[::-1])):
        for step in order:
            if sum(taken.bits for taken in side) >= ends:
                break
            side.append(step)
    return replace(steps, each=tail[::-1] + head), len(tail)
