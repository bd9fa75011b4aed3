"""Rows as streams of bits read through a sliding window: trellis-coded quantisation at a fixed rate.

Trellis-coded quantisation is from Marcellin and Fischer (1990). From QTIP (Tseng et al., NeurIPS 2024, section 3) are
the bit-shift trellis, whose state is the last bits of the stream, and words that are computed instead of stored.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from vocabpress.embeddings.configured import Configured
from vocabpress.embeddings.fields import DTYPE, MAX_COLUMNS, ROWS, integer, rows_of_integers
from vocabpress.packing import MAX_BITS, pack, packed_bytes

MIN_MEMORY, MAX_MEMORY = 8, 16  # bits; a window then fits into three bytes
MAX_WIDTH = 16  # of the words; lookups have a table of all of them in memory
MULTIPLIER, INCREMENT = 34038481, 76625530  # of the linear congruential generator, mod 2**32


class Run(NamedTuple):
    """Neighbouring columns with the same rate: ``bits`` new bits for each ``width`` of them; 0 bits means zeros."""

    columns: int
    bits: int
    width: int = 1


def words(states: Tensor, width: int, dtype: torch.dtype | None = None) -> Tensor:
    """The ``width`` values of each state, approximately standard normal; shape (*states.shape, width).

    A linear congruential generator gives a number mod 2**32, and its four bytes are added up. This needs no table.
    """
    numbers = states[..., None] * width + torch.arange(width, device=states.device)
    mixed = (numbers * MULTIPLIER + INCREMENT) & 0xFFFFFFFF
    total = (mixed & 255) + (mixed >> 8 & 255) + (mixed >> 16 & 255) + (mixed >> 24)
    return (total - 510).to(dtype or torch.get_default_dtype()) / 147.8


def all_words(memory: int, width: int, like: Tensor) -> Tensor:
    """The words of all states, (2**memory, width), in the dtype and on the device of ``like``; cached.

    There are fewer of them than in a thousand rows, and reading them is faster than computing them.
    """
    make = _all_words.__wrapped__ if torch.compiler.is_compiling() or like.is_meta else _all_words
    return make(memory, width, like.dtype, like.device)


@lru_cache(maxsize=32)
def _all_words(memory: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # training could not use a cached inference tensor
        exact = torch.promote_types(dtype, torch.float32)
        return words(torch.arange(2**memory, device=device), width, exact).to(dtype)


class Trellis(Configured):
    """Entry (i, j) is a word of the state at column j, times the scale of its run.

    A row is a stream of bits whose end is joined to its beginning. Each step appends the bits of its run. The last
    ``memory`` bits, the first of them the lowest, are the state, and :func:`words` gives its values. A column costs a
    fraction of a bit, one bit, or several, but its value also depends on the bits of the columns before it. This is why
    codes of one bit come close to the rate-distortion bound. Every row has the same whole number of bytes.

    Args:
        num_embeddings: Number of rows.
        runs: Runs of columns from left to right; ``columns`` must be a multiple of ``width``.
        memory: Bits of a state.
        dtype: Dtype of the scales on disk.

    Raises:
        ValueError: If a run is invalid, the memory is out of range, or a row has fewer bits than the memory.
    """

    codes: Tensor
    fields: ClassVar = {
        "num_embeddings": ROWS,
        "runs": rows_of_integers((1, MAX_COLUMNS), (0, MAX_BITS), (1, MAX_WIDTH)),
        "memory": integer(MIN_MEMORY, MAX_MEMORY),
        "dtype": DTYPE,
    }

    def __init__(
        self, num_embeddings: int, runs: Sequence[Run], memory: int = 12, dtype: torch.dtype = torch.float16
    ) -> None:
        super().__init__()
        self.runs, self.memory, self.stored_dtype = [Run(*run) for run in runs], memory, dtype
        for run in self.runs:
            fits = 0 <= run.bits <= MAX_BITS and 1 <= run.width <= MAX_WIDTH and run.columns >= 1
            if not fits or run.columns % run.width:
                raise ValueError(
                    f"a run has 0 to {MAX_BITS} bits, and columns in multiples of its width, 1 to {MAX_WIDTH}; got "
                    f"{tuple(run)}"
                )
        row_bits = sum(run.columns // run.width * run.bits for run in self.runs)
        if not MIN_MEMORY <= memory <= MAX_MEMORY or row_bits < memory:
            raise ValueError(
                f"the memory is {MIN_MEMORY} to {MAX_MEMORY} bits, at most the {row_bits} of a row; got {memory}"
            )
        self.num_embeddings, self.embedding_dim = num_embeddings, sum(run.columns for run in self.runs)
        self.row_bits = row_bits
        self.scales = nn.Parameter(torch.ones(len(self.runs)))
        self.register_buffer("codes", torch.zeros(num_embeddings, packed_bytes(row_bits, 1), dtype=torch.uint8))

    @classmethod
    def of(cls, streams: Tensor, scales: Tensor, runs: Sequence[Run], memory: int) -> Self:
        """The form with these streams of bits, shape (num_embeddings, row_bits), and scales, shape (runs)."""
        form = cls(len(streams), runs, memory).to(streams.device)
        form.codes.copy_(pack(streams, 1))
        form.scales.data.copy_(scales)
        return form

    def states(self, ids: Tensor) -> Tensor:
        """The state at each step, int32, shape (*ids.shape, steps)."""
        streams = self.codes[ids].to(torch.int32)
        ends = torch.tensor(step_ends(self.runs), device=streams.device, dtype=torch.int32)
        if self.row_bits % 8 == 0:  # then the bytes can be joined to a ring
            lead = -(-self.memory // 8)
            ring = torch.cat((streams[..., -lead:], streams), -1)
            return _window(ring, ends + (8 * lead - self.memory), self.memory)
        # Windows near the beginning start in the last bits of the stream; `inside` of their bits are after the seam.
        inside = ends.clamp(max=self.memory)
        last = torch.tensor([self.row_bits - self.memory], device=streams.device, dtype=torch.int32)
        before, own = (_window(streams, start, self.memory) for start in (last, ends - inside))
        return (before >> inside) | ((own & ((1 << inside) - 1)) << (self.memory - inside))

    def lookup(self, ids: Tensor) -> Tensor:
        states, pieces, step = self.states(ids), [], 0
        for run, scale in zip(self.runs, self.scales, strict=True):
            if not run.bits:
                pieces.append((scale * 0).expand(*ids.shape, run.columns))
                continue
            count = run.columns // run.width
            table = all_words(self.memory, run.width, scale)  # unscaled: an export stores it once for all tables
            pieces.append(nn.functional.embedding(states[..., step : step + count], table).flatten(-2) * scale)
            step += count
        return torch.cat(pieces, -1)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, row_bits={self.row_bits}, memory={self.memory}"


def step_ends(runs: Sequence[Run]) -> list[int]:
    """Bits of the stream up to the end of each step."""
    bits = [run.bits for run in runs if run.bits for _ in range(run.columns // run.width)]
    return list(accumulate(bits))  # not a tensor, which an export would trace


def _window(streams: Tensor, starts: Tensor, size: int) -> Tensor:
    """``size`` bits of each stream from each start, the first the lowest; (*n, bytes) and (s) give (*n, s)."""
    padded = nn.functional.pad(streams, (0, 2))
    three = streams | padded[..., 1:-1] << 8 | padded[..., 2:] << 16  # from each byte on
    value = three.index_select(-1, (starts >> 3).long())
    return value >> (starts & 7) & ((1 << size) - 1)
