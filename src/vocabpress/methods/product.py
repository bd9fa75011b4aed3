"""Product quantisation, with or without a learned rotation.

Jegou, Douze and Schmid, "Product quantization for nearest neighbor search", PAMI 2011; as a table compressor e.g.
FastText.zip (Joulin et al., 2016) and, trained with the model, DPQ (Chen, Li and Sun, ICML 2020). The rotation: Ge, He,
Ke and Sun, "Optimized product quantization", CVPR 2013 (OPQ).

    x_i = [x_i1 … x_iS],   x_ij ~ the word of book j that code (i, j) names

1. A row is cut into S segments; each has a book of K = 2**bits words, found by k-means.
2. OPQ-NP: rows are first turned by an orthonormal map R. It starts on the principal axes, dealt out to the segments so
   that the products of their variances are balanced. Then R, the solution of Procrustes' problem for the present words,
   and the words, the means of the turned rows, are updated in alternation.

Stored: ``Codebooks`` of one stage, or ``Projected(Codebooks, R in 8 bits, mean)``.

Our choices: k-means is weighted by token; R may turn to fewer than d axes, which saves bytes; when the codes are done,
R is refitted by least squares and need not be orthonormal any more; words are stored in float16, 8 or 4 bits, with a
scale a column. A book may be shared by all segments, which saves bytes where V is small. S, K, the axes, the sharing
and the words' format are searched inside the budget by short fits.
"""

from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import ClassVar, Literal

import torch
from torch import Tensor

from vocabpress.embeddings.scalar import ScaleAxis
from vocabpress.fitting.kmeans import kmeans, means, nearest_words, pick
from vocabpress.fitting.points import Points
from vocabpress.fitting.rotation import procrustes
from vocabpress.fitting.table import Places, Table
from vocabpress.methods.base import Family, Plan
from vocabpress.methods.coded import CodebookMethod
from vocabpress.settings import AtLeast0

BITS = tuple(range(8, 0, -1))
AXES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16)  # of a segment, tried where rows are rotated
ROTATED_BITS = (8, 7, 6, 5, 4)  # shorter codes do not gain from a rotation what it costs


@dataclass(frozen=True)
class Product(CodebookMethod):
    """Product quantisation.

    Attributes:
        bits: Bits of a code, 1 to 8; None searches.
        segments: Pieces of a row; None searches. Without a rotation it must divide the width of the table.
        shared: Whether all segments use one book; None searches.
        factors: Number format of the words: ``"float16"``, ``"int8"`` or ``"int4"``; ``"auto"`` searches.
        rotation: ``"none"``, ``"opq"``, or ``"auto"``, which takes it where it pays.
        rounds: Rounds of k-means.
        turns: Rounds of the alternation that learns the rotation; 0 leaves the principal axes.
    """

    paper: ClassVar[str] = "Jegou et al., PAMI 2011; Ge et al., CVPR 2013"
    size: ClassVar[str] = "segments"
    short_rounds: ClassVar[int] = 6
    scale_axis: ClassVar[ScaleAxis] = "column"
    own_rotation: ClassVar[str] = "opq"

    rotation: Literal["auto", "none", "opq"] = "auto"
    turns: AtLeast0 = 8

    def families(self, num_embeddings: int, embedding_dim: int, weights: Tensor) -> list[Family]:
        found = []
        segments = self.cuts(embedding_dim)
        for shared, bits, factors in product(self.sharing(segments), self.widths(BITS), self.word_formats()):
            fixed = {"bits": bits, "stages": 1, "shared": shared, "axes": 0, "factors": factors}
            found.append(Family(fixed, "segments", self._rising(num_embeddings, embedding_dim, fixed, segments)))
        rotated = [axes for axes in AXES if axes <= embedding_dim] if self.rotation != "none" else []
        for axes, bits, factors in product(rotated, self.widths(ROTATED_BITS), self.word_formats()[:2]):
            fixed = {"bits": bits, "stages": 1, "shared": bool(self.shared), "axes": axes, "factors": factors}
            sizes = range(1, embedding_dim // axes + 1)
            sizes = sizes if self.segments is None else [n for n in sizes if n == self.segments]
            found.append(Family(fixed, "segments", sizes))
        return [family for family in found if len(family.sizes)]

    def _rising(self, num_embeddings: int, embedding_dim: int, fixed: Plan, segments: list[int]) -> list[int]:
        """The numbers of segments that cost no more than any larger one; a shared book of wide words may cost more."""
        rising: list[int] = []
        least = 0
        for count in reversed(segments):
            cost = self.stored_bits(num_embeddings, embedding_dim, fixed | {"segments": count})
            if not rising or cost <= least:
                rising, least = [count, *rising], cost
        return rising

    def turn(self, centred: Table, axes: Tensor, plan: Plan, weights: Tensor, generator: torch.Generator) -> Tensor:
        """Alternate between words for the rows as they are turned and axes for the words."""
        segments, words = plan["segments"], None
        codes = torch.empty(len(centred), segments, dtype=torch.uint8, device=centred.device)
        for _ in range(self.turns):
            points = Points(centred.times(axes.T).cached(), segments, plan["shared"])
            if words is None:
                words = kmeans(points, weights, 1 << plan["bits"], 1, generator)
            words = means(points, weights, words, codes)
            axes = procrustes(centred, Table.of(codes).map(partial(_decoded, points, words), len(axes)), weights)
        return axes

    def learn(
        self, points: Points, plan: Plan, weights: Tensor, generator: torch.Generator, rounds: int, progress: bool
    ) -> Tensor:
        return kmeans(
            points, weights, 1 << plan["bits"], rounds, generator, title="product: k-means", progress=progress
        )[:, None]

    def encode(self, points: Tensor, books: Tensor) -> Tensor:
        return nearest_words(points, books[:, 0])[..., None]


def _decoded(points: Points, words: Tensor, _: Places, codes: Tensor) -> Tensor:
    """The rows of words that codes name, (n, segments * width), for codes (n, segments)."""
    return points.joined(pick(words, codes.long().T.reshape(len(words), -1)))
