"""Trellis-coded quantisation on the principal axes, with bits shared out by one slope over axes and blocks of tokens.

Trellis-coded quantisation: Marcellin and Fischer, 1990; the bit-shift trellis with computed words: Tseng et al., QTIP,
NeurIPS 2024. The combination for token tables is ours; `transformed.py` has its steps. Here each row is one path
through a trellis (`fitting/trellis.py`), with rates of 0, 1/4, 1/2, 1, 2, … bits an entry.

Neither frequencies nor training are needed; with token weights, frequent tokens get more bits.

Stored: ``Projected(Rows(Trellis, …), Scalar)``.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from vocabpress.embeddings import Run, Trellis
from vocabpress.fitting.rates import Ladder
from vocabpress.fitting.table import Table
from vocabpress.fitting.trellis import encode
from vocabpress.methods.transformed import TransformMethod, coded
from vocabpress.progress import Bar

# Bits and columns of a step: the scale of the words at which normal numbers are coded best, in their deviations, and
# the error left then over the rate-distortion bound, with a memory of 12 (`benchmarks/words.py`). At few bits a
# decoded row is shorter than the row by the error; at many bits words must reach beyond the numbers.
WORDS = {
    (0, 1): (0.0, 1.0),
    (1, 4): (0.52, 1.25),
    (1, 2): (0.69, 1.17),
    (3, 4): (0.79, 1.20),
    (1, 1): (0.88, 1.16),
    (3, 2): (0.96, 1.32),
    (2, 1): (1.04, 1.24),
    (3, 1): (1.09, 1.30),
    (4, 1): (1.17, 1.37),
    (5, 1): (1.22, 1.46),
    (6, 1): (1.29, 1.66),
    (7, 1): (1.38, 1.93),
    (8, 1): (1.42, 2.20),
}


@dataclass(frozen=True)
class TCQ(TransformMethod):
    """Trellis-coded quantisation, rates by axis and by block of tokens.

    Attributes:
        memory: Bits of the trellis' state: each one more doubles the time of a fit and reduces the error.
        blocks: Blocks of tokens by weight times energy of the row, at most; the search may take fewer.
        min_bits: Bits for each entry of a row, at least, however small the weight of its token; protects rare tokens.
        unbiased: Whether rows are coded twice, so that they lose no length; None is yes where a head is tied.
    """

    paper: ClassVar[str] = "Marcellin and Fischer, 1990; Tseng et al., NeurIPS 2024"
    ladder: ClassVar[Ladder] = Ladder(
        4, tuple(WORDS), tuple(loss * 4 ** -(bits / width) for (bits, width), (_, loss) in WORDS.items())
    )

    memory: Annotated[int, Field(ge=8, le=16)] = 12  # each bit more doubles the time

    def first_bits(self) -> int:
        return self.memory

    def block(self, size: int, runs: Sequence[Run]) -> Trellis:
        return Trellis(size, runs, self.memory)

    def code(
        self, rows: Table, runs: Sequence[Run], importance: Tensor, generator: torch.Generator, bar: Bar
    ) -> Trellis:
        scales = run_scales(rows, runs).half().to(rows.dtype)
        form = self.block(len(rows), runs).to(rows.device)
        form.scales.data.copy_(scales)
        row = self.work(1, runs)
        encode(rows, form.codes, runs, scales, importance, self.memory, lambda coded: bar.update(coded * row))
        return form

    def pace(self, rows: Table, runs: Sequence[Run], generator: torch.Generator) -> float:
        for count in (2, 64 * torch.get_num_threads()):  # the first call also compiles the loops; it is not measured
            some, start = rows.some(torch.arange(min(count, len(rows)))), time.perf_counter()
            self.code(some, runs, torch.ones(rows.shape[1]), generator, Bar(disable=True))
        return (time.perf_counter() - start) / max(1.0, self.work(len(some), runs))

    def work(self, size: int, runs: Sequence[Run]) -> float:
        """Steps through the trellis, of all rows."""
        return size * sum(run.columns / run.width for run in coded(runs))


def run_scales(rows: Table, runs: Sequence[Run]) -> Tensor:
    """The scale of each run, (runs), from the deviation of what is coded."""
    (squares,) = rows.sum(lambda _, part: (part.double().square().sum(0),))
    sizes = [(part.mean() / len(rows)).sqrt() for part in squares.split([run.columns for run in runs])]
    shares = [WORDS[run.bits, run.width][0] for run in runs]
    return torch.stack(sizes).to(rows.dtype) * torch.tensor(shares, device=rows.device)
