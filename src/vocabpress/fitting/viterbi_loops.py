"""Viterbi's algorithm as compiled loops, by numba, where that is installed (the `fast` extra): a row at a time.

The plain form is `plain_path` in `viterbi.py`. Here the costs of all states of one row stay in the nearest cache from
step to step, and no step waits for an operation to be called. Sums are taken in the order in which they are written, so
that a row's path depends neither on the rows beside it nor on the processor.
"""

from typing import Any

import numpy

from vocabpress.embeddings.kernels.compiling import compiled


@compiled
def halve(costs: Any, least: Any, second_won: Any) -> None:
    """The lesser of each two neighbours, and whether it was the second: (2 n) to (n) and (n)."""
    for pair in range(len(least)):
        first, second = costs[2 * pair], costs[2 * pair + 1]
        second_won[pair] = second < first
        least[pair] = second if second < first else first


@compiled
def add_errors(least: Any, words: Any, value: Any, weight: Any, costs: Any) -> None:
    """Write the costs of the states, (states): ``least`` before the step, plus the weighted errors of their words.

    ``least`` is (n); state s has the entry s mod n.
    """
    count = len(least)
    for first in range(0, len(costs), count):
        own, out = words[first : first + count], costs[first : first + count]
        for state in range(count):
            error = own[state] - value
            out[state] = least[state] + weight * (error * error)


@compiled
def add_more_errors(words: Any, value: Any, weight: Any, costs: Any) -> None:
    """The weighted squared error of one more column of a step, on top of the costs; shapes as in `add_errors`."""
    for state in range(len(costs)):
        error = words[state] - value
        costs[state] += weight * (error * error)


@compiled
def find_paths(
    steps: Any, memory: int, at: int, rows: Any, words: Any, importance: Any, seams: Any, streams: Any, ends: Any
) -> None:
    """Write the bits of the best path of each row, and the state after its first ``at`` steps.

    Args:
        steps: First column, bits, width and first word of each, in the order of time, (steps, 4).
        memory: Bits of a state.
        at: Which state to return.
        rows: (n, columns), float32.
        words: Words of all runs, scaled; those of a column are neighbours, one for each state.
        importance: (columns), float32.
        seams: The state before the first and after the last step, (n); -1 leaves both free.
        streams: (n, bits of all steps), is written.
        ends: (n), is written.
    """
    costs = numpy.empty(1 << memory, numpy.float32)
    least = numpy.empty(len(costs), numpy.float32)
    won = numpy.empty(len(steps) << memory, numpy.bool_)
    for row in range(len(rows)):
        costs[:] = 0.0 if seams[row] < 0 else numpy.inf
        if seams[row] >= 0:
            costs[seams[row]] = 0.0
        marks = walk(steps, rows[row], words, importance, costs, least, won)
        last = costs.argmin() if seams[row] < 0 else seams[row]
        ends[row] = trace_back(steps, len(costs), last, at, won, marks, streams[row])


@compiled
def walk(steps: Any, row: Any, words: Any, importance: Any, costs: Any, least: Any, won: Any) -> int:
    """Write the costs of all states after the last step and the marks on the way to them; returns the number of marks.

    A mark is true where the second of two states won, for each step one round after the other. ``least`` is scratch
    space, (states); see `find_paths` for the rest.
    """
    states, end = len(costs), 0
    for column, bits, width, first in steps:
        before, start = costs, 0
        for done in range(bits):  # a knock-out among the states that differ in the bits that fall out of the window
            count = states >> (done + 1)
            after = least[start : start + count]
            halve(before, after, won[end : end + count])
            before, start, end = after, start + count, end + count
        for more in range(width):
            own = words[first + more * states : first + (more + 1) * states]
            if more == 0:
                add_errors(before, own, row[column], importance[column], costs)
            else:
                add_more_errors(own, row[column + more], importance[column + more], costs)
    return end


@compiled
def trace_back(steps: Any, states: int, state: int, at: int, won: Any, end: int, stream: Any) -> int:
    """Write the bits of the path that led to ``state``, and return the state after its first ``at`` steps.

    ``won`` has the ``end`` marks of `walk`; ``states`` counts all states.
    """
    wanted, place = state, len(stream)
    for number in range(len(steps) - 1, -1, -1):
        if number + 1 == at:
            wanted = state
        bits = steps[number, 1]
        remaining = states >> bits
        fresh, state = state // remaining, state % remaining
        place -= bits
        for bit in range(bits):
            stream[place + bit] = fresh >> bit & 1
        for done in range(bits, 0, -1):
            end -= states >> done
            state = state << 1 | won[end + state]
    return state if at == 0 else wanted
