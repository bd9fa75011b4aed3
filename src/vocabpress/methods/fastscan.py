"""Fast-scan codes on the principal axes: books of 16 words, read through tables that all tokens share.

Books so small that the tables of their inner products stay in the nearest memory: Andre, Kermarrec and Le Scouarnec,
"Cache locality is not enough: high-performance nearest neighbor search with product quantization fast scan", VLDB 2015;
Blalock and Guttag, "Bolt", KDD 2017. Additive codes (Babenko and Lempitsky, CVPR 2014) with such books are faiss's
`ResidualQuantizerFastScan`. That the number of words of a piece follows its variance, and the token's frequency, is
ours; `transformed.py` has the steps.

    piece j of z_i ~ sum_s the word of book s that code (i, s, j) names,   s up to the number of stages of piece j

For output heads: inner products of a vector with all rows are a table of 16 numbers for each piece and stage, and
sums of these, so that no row is decoded (`Codebooks.logits`). The price is a larger error than that of `tcq`,
whose rows must be decoded; more so where bits are many.

Pieces with equally many stages share books, which are started by k-means stage by stage and refitted together.

Stored: ``Projected(Rows(Columns(Codebooks, …), …), Scalar)``.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vocabpress.embeddings import Codebooks, Columns, CompressedEmbedding, Run, Scalar
from vocabpress.fitting.codes import beam_search, refit, residual_kmeans
from vocabpress.fitting.quantise import quantise
from vocabpress.fitting.rates import Ladder
from vocabpress.fitting.table import Table, draw
from vocabpress.methods.transformed import TransformMethod, coded
from vocabpress.packing import pack
from vocabpress.progress import Bar
from vocabpress.settings import AtLeast0, AtLeast1

BITS, PIECE = 4, 8  # of a code; columns of a piece
STAGES = (0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
# Share of a normal variable's variance that so many stages leave: a fit to measurements, 0.9 to 3.6 dB above the bound.
LOSSES = tuple(1.13 * 1.085**stages * 4.0 ** -(stages * BITS / PIECE) if stages else 1.0 for stages in STAGES)
SAMPLE, KMEANS_ROUNDS = 20000, 8  # pieces from which books are learnt


@dataclass(frozen=True)
class FastScan(TransformMethod):
    """Additive codes of 16-word books, stages by axis and by block of tokens.

    Attributes:
        blocks: Blocks of tokens by weight times energy of the row, at most; the search may take fewer.
        min_bits: Bits for each entry of a row, at least, however small the weight of its token; protects rare tokens.
        unbiased: Whether rows are coded twice, so that they lose no length; None is yes where a head is tied.
        beam: Width of the search for codes.
        rounds: Rounds of codes and least squares in turn.
    """

    paper: ClassVar[str] = "Andre et al., VLDB 2015; Babenko and Lempitsky, CVPR 2014"
    ladder: ClassVar[Ladder] = Ladder(2 * PIECE, tuple((BITS * stages, PIECE) for stages in STAGES), LOSSES)

    beam: AtLeast1 = 16
    rounds: AtLeast0 = 6

    def first_bits(self) -> int:
        return 2 * BITS

    def block(self, size: int, runs: Sequence[Run]) -> Columns:
        parts = []
        for run in coded(runs):
            stages = run.bits // BITS
            parts.append(Codebooks(size, Scalar(stages << BITS, PIECE, 8), BITS, run.columns // PIECE, stages, True))
        return Columns(parts, sum(run.columns for run in runs))

    def code(
        self, rows: Table, runs: Sequence[Run], importance: Tensor, generator: torch.Generator, bar: Bar
    ) -> Columns:
        parts, start = [], 0
        for run in coded(runs):
            columns = slice(start, start + run.columns)
            words = self._books(rows, columns, importance[columns], run.bits // BITS, generator)
            pieces, stages = run.columns // PIECE, run.bits // BITS
            parts.append(Codebooks(len(rows), words, BITS, pieces, stages, True).to(rows.device))
            start += run.columns
            bar.update(self._book_work(len(rows), run))
        books = [part.words.dense().detach().unflatten(0, (part.stages, -1)) for part in parts]
        row = sum(map(_searches, coded(runs)))

        def packed(_: slice, some: Tensor) -> list[Tensor]:
            pieces = some[:, :start].split([part.embedding_dim for part in parts], 1)
            found = [self._packed(*pair) for pair in zip(pieces, books, strict=True)]
            bar.update(len(some) * row)
            return found

        rows.fill([part.codes for part in parts], packed)
        return Columns(parts, rows.shape[1])

    def pace(self, rows: Table, runs: Sequence[Run], generator: torch.Generator) -> float:
        run, many = coded(runs)[0], 4096
        pieces = rows.columns(slice(0, run.columns)).pieces(run.columns // PIECE)
        sample = pieces.gather(draw(len(pieces), many, generator))
        books = sample[torch.randint(len(sample), (run.bits // BITS, 1 << BITS), generator=generator)]
        for some in (sample[:64], sample):  # the first call warms up and is not measured
            start = time.perf_counter()
            beam_search(some, books, self.beam)
        return (time.perf_counter() - start) / (len(sample) * len(books))

    def work(self, size: int, runs: Sequence[Run]) -> float:
        """Searches for a word, of the rows and of the samples that books are learnt from."""
        return sum(self._book_work(size, run) + size * _searches(run) for run in coded(runs))

    def _book_work(self, size: int, run: Run) -> float:
        """Work on the books of pieces with equally many stages: rounds of searches, and k-means before them."""
        pieces = min(SAMPLE, size * run.columns // PIECE)
        return pieces * (run.bits // BITS) * (self.rounds + 1)

    def _books(
        self, rows: Table, columns: slice, importance: Tensor, stages: int, generator: torch.Generator
    ) -> CompressedEmbedding:
        """Words for pieces that have equally many stages, learnt from some of them."""
        width = columns.stop - columns.start
        pieces = rows.columns(columns).pieces(width // PIECE)
        some = draw(len(pieces), SAMPLE, generator)
        sample, shares = pieces.gather(some), importance.unflatten(0, (-1, PIECE)).mean(1)[some % (width // PIECE)]
        mean = shares.mean()
        # Where all rows are equal, no weight is above zero: any are right.
        shares = shares / mean if mean > torch.finfo(mean.dtype).tiny else torch.ones_like(shares)
        books = residual_kmeans(sample[None], shares, stages, 1 << BITS, KMEANS_ROUNDS, generator)[0]
        for _ in range(self.rounds):
            books = refit(sample, beam_search(sample, books, self.beam), books, shares)
        return quantise(rows.shards.agree(books.flatten(0, 1)), 8, "row")

    def _packed(self, rows: Tensor, books: Tensor) -> Tensor:
        """Codes of rows of pieces, as they are stored."""
        pieces = rows.unflatten(1, (-1, PIECE))
        codes = beam_search(pieces.flatten(0, 1), books, self.beam)
        return pack(codes.unflatten(0, pieces.shape[:2]).transpose(1, 2).flatten(1), BITS)


def _searches(run: Run) -> int:
    """Words to be found for a row's pieces."""
    return run.columns // PIECE * (run.bits // BITS)
