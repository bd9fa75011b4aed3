"""The contribution of each part of trellis-coded quantisation to the table and STS-B dev: writes results/tcq.json.

python benchmarks/tcq.py --data DIR

The base counts tokens in text of several kinds (corpus.py; about 4 million words), adds 1, takes the square root, uses
eight blocks, and has a memory of 10 bits (12, the default, takes four times as long). Every other variant differs from
it as its name describes. `default weights` are those of the library for the same counts: long texts scaled down.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import safe_open
from torch import Tensor

from bench import CACHE, CORPUS, prepare
from common import SAMPLE, Variant, parse, references, run_all, sts_dev, sts_judge
from vocabpress import TCQ, Calibration, FastScan
from vocabpress.calibrate import calibrate
from vocabpress.embeddings import Codebooks, Columns, CompressedEmbedding, Dense, Kronecker, Projected, Run
from vocabpress.fitting.fold import power
from vocabpress.fitting.kmeans import kmeans, nearest_words
from vocabpress.fitting.lowrank import weighted_mean
from vocabpress.fitting.rates import Axes, Ladder
from vocabpress.fitting.table import Table
from vocabpress.methods.base import Method, Plan
from vocabpress.methods.transformed import TransformMethod
from vocabpress.progress import Bar

RATIOS = (25, 103, 50, 206)
IN_FULL = (25, 103)  # the other ratios with some variants only
FLOORS = (0.5, 0.75)
WHITENING = (0.25, 0.5, 1.0)
TABLE = "embeddings.word_embeddings.weight"
WORDS = (10_000, 100_000, 1_000_000)
SCALAR_RUNGS = ((0, 1), *((bits, 1) for bits in range(1, 9)))
SCALAR_GAP, SAMPLE_ENTRIES = 1.8, 50000  # Max's codes over the bound: 1.45 times at one bit, nearly 2.7 at many


def excerpt(words: int) -> Path:
    """Evenly spread lines of the corpus with about that many words in total."""
    file = CACHE / "text" / f"{words}-words.txt"
    if not file.exists():
        lines = CORPUS.read_text(encoding="utf-8").splitlines()
        total = sum(len(line.split()) for line in lines)
        file.write_text("\n".join(lines[:: max(1, total // words)]) + "\n", encoding="utf-8")
    return file


def metric() -> Path:
    """The metric of the sample model, measured once."""
    file = CACHE / "metric" / "all-MiniLM-L6-v2.safetensors"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        calibrate(SAMPLE, text=[CACHE / "text" / "wikipedia-sentences.txt"], progress=True).save(file)
    return file


def counted(text: Path) -> Path:
    """Counts of a text's tokens and their square roots, made once."""
    file = CACHE / "counts" / f"{text.stem}.safetensors"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        calibrate(SAMPLE, text=[text], metric=False, progress=True).save(file)
    return file


def plain(text: Path, power: float = 0.5) -> Calibration:
    """Counts of a text, and a power of counts + 1 as weights."""
    counts = Calibration.load(counted(text)).counts
    assert counts is not None
    return Calibration((counts + 1) ** power, counts)


def dense_table() -> Tensor:
    """The table of the sample model, (V, d)."""
    with safe_open(SAMPLE / "model.safetensors", "pt") as file:
        return file.get_tensor(TABLE)


def over_length(known: Calibration, strength: float) -> Calibration:
    """Weights under which errors count relative to the length of the row.

    A row's squared error over its squared length is about twice what its direction loses in cosine ("Direction is what
    you need", RepL4NLP 2021, asks for the direction first), so that strength 1 minimises that; 0 leaves the weights.
    Lengths are at least a fifth of the root mean square: a very short row has no meaningful direction.
    """
    squares = dense_table().square().sum(1)
    shorter = squares.clamp(min=0.04 * float(squares.mean())) ** -strength
    weights = shorter if known.weights is None else known.weights * shorter
    return replace(known, weights=weights / weights.mean())


@dataclass(frozen=True)
class ScalarCodes(TransformMethod):
    """The same axes, blocks and rates with a scalar code of its own for each run: k-means words (Max, 1960)."""

    paper: ClassVar[str] = "Max, 1960"
    ladder: ClassVar[Ladder] = Ladder(
        4, SCALAR_RUNGS, (1.0, *(SCALAR_GAP * 4.0**-bits for bits, _ in SCALAR_RUNGS[1:]))
    )

    def first_bits(self) -> int:
        return 4

    def block(self, size: int, runs: Sequence[Run]) -> Columns:
        parts = [
            Codebooks(size, Dense(1 << run.bits, 1), run.bits, run.columns, shared=True) for run in runs if run.bits
        ]
        return Columns(parts, sum(run.columns for run in runs))

    def pace(self, rows: Table, runs: Sequence[Run], generator: torch.Generator) -> float:
        raise NotImplementedError  # used only by forecasts

    def code(
        self, rows: Table, runs: Sequence[Run], importance: Tensor, generator: torch.Generator, bar: Bar
    ) -> Columns:
        parts, pieces = [], rows.dense().split([run.columns for run in runs], 1)
        for run, piece in zip(runs, pieces, strict=True):
            if run.bits:
                points = piece.reshape(1, -1, 1)
                some = points[:, torch.randperm(points.shape[1], generator=generator)[:SAMPLE_ENTRIES]]
                words = kmeans(some, torch.ones(some.shape[1]), 1 << run.bits, 20, generator).half().float()
                codes = nearest_words(points, words).view(len(rows), 1, run.columns)
                parts.append(Codebooks.of(codes, Dense.of(words[0]), run.bits, shared=True))
        return Columns(parts, rows.shape[1])


class Unturned(Axes):
    """The table on its own columns, whose variances hardly differ."""

    def __init__(self, table: Table, weights: Tensor) -> None:
        self.mean = weighted_mean(table, weights)
        (squares,) = table.minus(self.mean).sum(lambda _, rows: (rows.double().square().mean(1).sum(),))
        self.deviations = (squares / len(table)).sqrt().to(table.dtype).expand(table.shape[1])

    def coordinates(self, table: Table, width: int | None = None) -> Table:
        return table.minus(self.mean).map(lambda _, rows: (rows / self.deviations)[:, :width], width)


@dataclass(frozen=True)
class WithoutRotation(TCQ):
    """The columns unrotated and in their order; the basis is an identity of negligible size."""

    def axes(self, table: Table, weights: Tensor) -> Axes:
        return Unturned(table, weights)

    def refit(self, inner: CompressedEmbedding, table: Table, weights: Tensor, bits: int) -> CompressedEmbedding:
        axes = Unturned(table, weights)
        left, right = identity(inner.embedding_dim, table.shape[1])
        basis = Kronecker(Dense.of(left * axes.deviations[0]), Dense.of(right))
        return Projected.of(inner, basis, weighted_mean(table, weights))

    def empty(self, num_embeddings: int, embedding_dim: int, plan: Plan) -> CompressedEmbedding:
        inner: Any = super().empty(num_embeddings, embedding_dim, plan)
        left, right = identity(inner.inner.embedding_dim, embedding_dim)
        return Projected(inner.inner, Kronecker(Dense(len(left), left.shape[1]), Dense(len(right), len(right))))


def whitening(source: Any, strength: float) -> Calibration:
    """A metric without text: directions of small variance count more."""
    covariance = torch.cov(dense_table().double().T)
    return Calibration(source=source, metric=power(covariance, -strength).float(), metric_strength=1.0)


def in_metric(known: Calibration, strength: float) -> Calibration:
    """The calibration with the sample model's metric added."""
    return replace(known, metric=Calibration.load(metric()).metric, metric_strength=strength)


def identity(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Two factors whose Kronecker product is the first rows of the identity, (rows, columns)."""
    factor = math.gcd(rows, 24)
    return torch.eye(rows // factor, columns // factor), torch.eye(factor)


def variants(ratio: int) -> list[Variant]:
    """All variants at one ratio."""
    base, text, default = TCQ(memory=10), plain(CORPUS), Calibration.load(counted(CORPUS))
    by_metric = in_metric(text, 0.5)

    def variant(name: str, method: Method = base, known: Calibration | str = text) -> Variant:
        return Variant(name, method, ratio, {"calibration": known})

    found = [
        variant("base"),
        variant("default weights", known=default),
        variant("default weights, memory 12", TCQ(), default),
        variant("default weights, memory 12, metric ** 0.5", TCQ(), in_metric(default, 0.5)),
        variant("memory 12", TCQ()),
        variant("memory 12, metric ** 0.5", TCQ(), by_metric),
        variant("memory 12, metric ** 0.5, direction ** 0.5", TCQ(), over_length(by_metric, 0.5)),
        variant("metric ** 0.5", known=by_metric),
        variant("no text", known="uniform"),
        variant("no text, memory 12", TCQ(), "uniform"),
        variant("vocabulary order", known="vocabulary-order"),
        variant("vocabulary order, memory 12", TCQ(), "vocabulary-order"),
    ]
    if ratio not in IN_FULL:
        return found
    return [
        *found,
        variant("memory 8", TCQ(memory=8)),
        *(variant(f"blocks {blocks}", replace(base, blocks=blocks)) for blocks in (1, 2, 4, 16)),
        variant("no text, blocks 1", replace(base, blocks=1), "uniform"),
        *(variant(f"counts ** {power}", known=plain(CORPUS, power)) for power in (0.25, 0.75, 1.0)),
        *(variant(f"metric ** {strength}", known=in_metric(text, strength)) for strength in (0.25, 1.0)),
        *(variant(f"direction ** {strength}", known=over_length(text, strength)) for strength in (0.5, 1.0)),
        variant("no text, direction ** 1", known=over_length(Calibration(), 1.0)),
        *(variant(f"{words:,} words", known=plain(excerpt(words))) for words in WORDS),
        *(variant(f"min_bits {part:g} of the mean", replace(base, min_bits=part * 32 / ratio)) for part in FLOORS),
        *(variant(f"no text, covariance ** -{s}", known=whitening("uniform", s)) for s in WHITENING),
        *(variant(f"vocabulary order, covariance ** -{s}", known=whitening("vocabulary-order", s)) for s in WHITENING),
        # Other codes on the same axes, uniform weights.
        variant("no text, fastscan", FastScan(), "uniform"),
        variant("no text, scalar codes", ScalarCodes(), "uniform"),
        variant("no text, columns not rotated", WithoutRotation(memory=10), "uniform"),
    ]


def main() -> int:
    """Measure all variants; about an hour on a core. Existing results are not measured again."""
    arguments = parse(__doc__)
    prepare(arguments.data)
    judge = sts_judge(sts_dev(arguments.data))
    every = [variant for ratio in RATIOS for variant in variants(ratio)]
    run_all("tcq", every, arguments.seed, judge, references("tcq", arguments.seed, judge))
    return 0


if __name__ == "__main__":
    sys.exit(main())
