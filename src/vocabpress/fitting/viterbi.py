"""Viterbi's algorithm (1967): the path through a trellis whose words are nearest to a row, for many rows at once.

In plain torch here, for any device; on the processor, where numba is installed, by the loops in `viterbi_loops.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy
import torch
from torch import Tensor

from vocabpress.embeddings.kernels.compiling import HAVE_NUMBA
from vocabpress.embeddings.trellis import Run, words
from vocabpress.fitting.viterbi_loops import find_paths


class Step(NamedTuple):
    """One step of a row: its first column, its new bits, its columns, and where its words begin among all words."""

    column: int
    bits: int
    width: int
    first: int


@dataclass(frozen=True)
class Steps:
    """Steps of a row in the order of time, and the words of their states.

    Attributes:
        each: The steps.
        words: Words of all runs, scaled; for each run ``width`` times ``2**memory`` of them, column by column.
        memory: Bits of a state.
    """

    each: Sequence[Step]
    words: Tensor
    memory: int

    @classmethod
    def of(cls, runs: Sequence[Run], scales: Tensor, memory: int) -> Self:
        """All steps, left to right; runs without bits have none."""
        states, tables = torch.arange(2**memory, device=scales.device), [scales.new_zeros(0)]
        each, column = [], 0
        for run, scale in zip(runs, scales, strict=True):
            if run.bits:
                first = sum(map(len, tables))
                columns = range(column, column + run.columns, run.width)
                each += [Step(start, run.bits, run.width, first) for start in columns]
                tables.append((words(states, run.width).to(scale.dtype) * scale).T.flatten())
            column += run.columns
        return cls(each, torch.cat(tables), memory)

    def words_of(self, step: Step) -> Tensor:
        """(width, 2**memory)."""
        return self.words[step.first : step.first + (step.width << self.memory)].view(step.width, -1)


def best_path(
    rows: Tensor, steps: Steps, importance: Tensor, seam: Tensor | None, at: int = 0
) -> tuple[Tensor, Tensor]:
    """The new bits of the best path, (V, bits), and the state after its first ``at`` steps, (V).

    ``seam`` is the state before the first and after the last step, (V); None leaves both free. Rows are (V, columns),
    their importance (columns).
    """
    if not (HAVE_NUMBA and rows.device.type == "cpu" and rows.dtype == torch.float32):
        return plain_path(rows, steps, importance, seam, at)
    seams = torch.full((len(rows),), -1) if seam is None else seam
    streams = torch.empty(len(rows), sum(step.bits for step in steps.each), dtype=torch.uint8)
    states = torch.empty_like(seams)
    given = (rows, steps.words, importance, seams, streams, states)
    arrays = [tensor.detach().contiguous().numpy() for tensor in given]
    find_paths(numpy.array(steps.each, numpy.int64).reshape(-1, 4), steps.memory, at, *arrays)
    return streams, states


def plain_path(
    rows: Tensor, steps: Steps, importance: Tensor, seam: Tensor | None, at: int = 0
) -> tuple[Tensor, Tensor]:
    """As :func:`best_path`, in plain torch."""
    memory = steps.memory
    states = 2**memory
    costs = rows.new_zeros(len(rows), states)
    if seam is not None:
        costs = costs.fill_(torch.inf).scatter_(1, seam[:, None], 0.0)
    knock_outs = []
    for step in steps.each:
        # A state's predecessors are those that differ in the bits that fall out of the window, its lowest ones.
        least, rounds = _least(costs, step.bits)
        knock_outs.append(rounds)
        costs = _errors(rows[:, step.column :], steps.words_of(step), importance[step.column :])
        costs = costs.view(len(rows), 1 << step.bits, -1).add_(least[:, None]).view(len(rows), states)
    state = costs.argmin(1) if seam is None else seam
    streams, wanted, every = [], state, torch.arange(len(rows), device=rows.device)
    for number in range(len(steps.each) - 1, -1, -1):
        step = steps.each[number]
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


def _errors(rows: Tensor, words: Tensor, importance: Tensor) -> Tensor:
    """Weighted squared errors of all words in the first columns, less what all have in common; (V, 2**memory)."""
    weights = importance[: len(words)]
    costs = weights @ words.square()
    targets = rows[:, : len(words)] * weights
    for column, values in enumerate(words):  # a matrix product of so few columns is several times slower
        costs = torch.addcmul(costs, targets[:, column, None], values, value=-2)
    return costs
