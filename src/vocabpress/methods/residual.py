"""Residual and additive quantisation: a piece of a row is the sum of one word from each of several books.

Chen, Guan and Wang, "Approximate nearest neighbor search by residual vector quantization", Sensors 2010; Babenko and
Lempitsky, "Additive quantization for extreme vector compression", CVPR 2014; as weights of language models AQLM
(Egiazarian et al., ICML 2024), whose lesson is that books of short pieces cost next to nothing a token.

    x_ij ~ sum_s the word of book (s, j) that code (i, s, j) names

1. Books are started stage by stage, by k-means on what the stages before left over.
2. In rounds: codes by beam search, then all books of a segment together by weighted least squares.
3. The words are rounded, and the codes searched again with the rounded words.

Stored: ``Codebooks`` of several stages, or ``Projected(Codebooks, axes in 8 bits, mean)``.

Our choices: bits, stages, segments, sharing and the words' format are searched inside the budget by short fits. The
search may also turn the rows to their principal axes, dealt out to the segments so that the products of their variances
are balanced (fitting/rotation.py): with several segments, dependence between them is lost otherwise. Words have a scale
each, because stages differ in length.
"""

from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import ClassVar, Literal

import torch
from torch import Tensor

from vocabpress.embeddings.scalar import ScaleAxis
from vocabpress.fitting.codes import beam_search, refit, residual_kmeans
from vocabpress.fitting.points import Points
from vocabpress.methods.base import Family, Plan
from vocabpress.methods.coded import CodebookMethod
from vocabpress.progress import Bar
from vocabpress.settings import AtLeast1

BITS = (4, 6, 8)
WIDTHS = (8, 12, 16, 24, 32, 48)  # axes of a segment that are tried where rows are rotated
AXES_SHARES = (1.0, 0.75, 0.5, 0.25)  # share of the principal axes that is coded
SEARCHED_BITS = 64  # of the code of a segment: longer ones gain nothing, and their beam search takes minutes
MOST_WORDS = 8192  # in the books of one segment: they are fitted together
K_MEANS_ROUNDS = 8


@dataclass(frozen=True)
class Residual(CodebookMethod):
    """Residual quantisation with beam search.

    Attributes:
        bits: Bits of a code, 1 to 8; None searches.
        stages: Words that add up; None searches.
        segments: Pieces of a row; None searches. Without a rotation it must divide the width of the table.
        shared: Whether all segments use one book in a stage; None searches.
        factors: Number format of the words: ``"float16"``, ``"int8"`` or ``"int4"``; ``"auto"`` searches.
        rotation: ``"none"``, ``"pca"``, or ``"auto"``, which takes it where it pays.
        rounds: Rounds of beam search and least squares.
        beam: Width of the beam.
    """

    paper: ClassVar[str] = "Chen et al., Sensors 2010; Babenko and Lempitsky, CVPR 2014"
    size: ClassVar[str] = "stages"
    short_rounds: ClassVar[int] = 1
    scale_axis: ClassVar[ScaleAxis] = "row"
    own_rotation: ClassVar[str] = "pca"

    rotation: Literal["auto", "none", "pca"] = "auto"
    stages: AtLeast1 | None = None
    rounds: AtLeast1 = 4
    beam: AtLeast1 = 8

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        super().__post_init__()
        if self.stages is not None and self.stages << (self.bits or 1) > MOST_WORDS:
            raise ValueError(
                f"got {self.stages} stages of {2 ** (self.bits or 1)} words; books of a segment hold at most "
                f"{MOST_WORDS} words together, choose {MOST_WORDS >> (self.bits or 1)} stages"
            )

    def families(self, num_embeddings: int, embedding_dim: int, weights: Tensor) -> list[Family]:
        cuts = self.cuts(embedding_dim)
        layouts: list[Plan] = [{"segments": n, "shared": s, "axes": 0} for n in cuts for s in self.sharing([n])]
        layouts += self._rotated(embedding_dim) if self.rotation != "none" else []
        found = []
        for layout, bits, factors in product(layouts, self.widths(BITS), self.word_formats()):
            most = MOST_WORDS >> bits if self.segments is not None else SEARCHED_BITS // bits
            stages = range(min(2, most), most + 1) if self.stages is None else [self.stages]
            found.append(Family({"bits": bits, **layout, "factors": factors}, "stages", stages))
        return found

    def _rotated(self, embedding_dim: int) -> list[Plan]:
        """Segments of principal axes, by how many axes each has and how many are coded."""
        if self.segments is None:
            wanted = [(share * embedding_dim, min(width, embedding_dim)) for width in WIDTHS for share in AXES_SHARES]
            sizes = [(max(1, round(axes / width)), width) for axes, width in wanted]
        else:
            sizes = [(self.segments, max(1, int(share * embedding_dim / self.segments))) for share in AXES_SHARES]
        return [
            {"segments": segments, "shared": bool(self.shared), "axes": width}
            for segments, width in dict.fromkeys(sizes)
            if segments * width <= embedding_dim
        ]

    def learn(
        self, points: Points, plan: Plan, weights: Tensor, generator: torch.Generator, rounds: int, progress: bool
    ) -> Tensor:
        count, stages = 1 << plan["bits"], plan["stages"]
        start = min(4 * rounds, K_MEANS_ROUNDS)
        found = residual_kmeans(points, weights, stages, count, start, generator) if points.table.in_memory else None
        books = []
        with Bar(total=rounds * points.shape[0], desc="residual: fit", disable=not progress) as bar:
            for number in range(points.shape[0]):
                own = points.segment(number)
                own = replace(own, table=own.table.cached())  # if the table is not: it is read many times
                book = (
                    residual_kmeans(own, weights, stages, count, start, generator)[0]
                    if found is None
                    else found[number]
                )
                for _ in range(rounds):
                    book = refit(own, partial(beam_search, books=book, width=self.beam), book, weights)
                    bar.update()
                books.append(book)
        return torch.stack(books)

    def encode(self, points: Tensor, books: Tensor) -> Tensor:
        return torch.stack([beam_search(targets, book, self.beam) for targets, book in zip(points, books, strict=True)])
