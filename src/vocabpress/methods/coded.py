"""What product and residual quantisation share: pieces of rows, words in 4, 8 or 16 bits, a rotation, and the search.

Not a method of its own. In a plan a code has ``bits`` bits, a row is cut into ``segments``, ``stages`` words add up,
the segments have one ``shared`` book or one each, ``factors`` is the number format of the words, and a segment has
``axes`` axes of a rotated basis; 0 axes means that the rows are coded as they are.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from vocabpress.embeddings import Codebooks, CompressedEmbedding, Projected, Scalar
from vocabpress.embeddings.scalar import ScaleAxis
from vocabpress.fitting.codes import decode
from vocabpress.fitting.kronecker import check_divides, divisors
from vocabpress.fitting.lowrank import principal_axes, ridge, weighted_mean
from vocabpress.fitting.points import Points, pieces_of
from vocabpress.fitting.quantise import Factors, empty_factor, quantise, store_factor
from vocabpress.fitting.rotation import TINY, block_variances, deal_axes, gaussian_distortion
from vocabpress.fitting.table import Decoded, Table
from vocabpress.methods.base import Method, Plan
from vocabpress.packing import pack
from vocabpress.progress import Bar
from vocabpress.settings import AtLeast1, CodeBits, check_settings

WORD_FACTORS: tuple[Factors, ...] = ("int8", "int4", "float16")
ROUNDS_OF_SEARCH = ((4096, 6), (16384, 2))  # rows of a short fit, and how many plans go on from it
MOST_PIECES, ENTRIES = 2**14, 48  # of a short fit: of a shared book, and of a row
OVERFIT, LEAST_FREEDOM = 1.5, 0.2
SHARE, SLACK = 0.9, 1.6  # of the largest plan, and of the least Gaussian bound: plans beyond these are not measured


@dataclass(frozen=True)
class CodebookMethod(Method):
    """A method that stores `Codebooks`, bare or in a rotated basis."""

    bits: CodeBits | None = None
    segments: AtLeast1 | None = None
    shared: bool | None = None
    factors: Literal["auto", "float16", "int8", "int4"] = "auto"
    rotation: str = "auto"
    rounds: AtLeast1 = 16

    size: ClassVar[str]
    short_rounds: ClassVar[int]
    scale_axis: ClassVar[ScaleAxis]
    own_rotation: ClassVar[str]

    __post_init__ = check_settings

    @abstractmethod
    def learn(
        self, points: Points, plan: Plan, weights: Tensor, generator: torch.Generator, rounds: int, progress: bool
    ) -> Tensor:
        """Books for pieces of rows, (books, stages, K, width).

        Args:
            points: (books, n, width).
            plan: One of `plans`.
            weights: Weights of the rows that are cut, (V).
            generator: Source of all random numbers.
            rounds: Rounds of k-means.
            progress: Whether to draw progress bars on stderr.
        """

    @abstractmethod
    def encode(self, points: Tensor, books: Tensor) -> Tensor:
        """Codes of pieces, (books, n, stages), for points (books, n, width)."""

    def turn(self, centred: Table, axes: Tensor, plan: Plan, weights: Tensor, generator: torch.Generator) -> Tensor:
        """Axes on which the rows are coded, (segments * axes, d): balanced principal axes, or learnt ones."""
        return axes

    def word_formats(self) -> Sequence[Factors]:
        """Number formats of the words that the search may take; it begins with the first two."""
        return WORD_FACTORS if self.factors == "auto" else (self.factors,)

    def widths(self, searched: Sequence[int]) -> Sequence[int]:
        """Bits of a code that the search may take."""
        return searched if self.bits is None else (self.bits,)

    def sharing(self, segments: Sequence[int]) -> list[bool]:
        """Whether books may be shared; with one segment it makes no difference."""
        if self.shared is not None:
            return [self.shared]
        return [False, True] if max(segments, default=1) > 1 else [False]

    def cuts(self, embedding_dim: int) -> list[int]:
        """Numbers of segments into which rows may be cut as they are, ascending.

        Raises:
            ValueError: If the number asked for is none, and no rotation could help.
        """
        wanted, rotated = self.segments, self.rotation == self.own_rotation
        if wanted is not None and not (rotated and wanted < embedding_dim):
            hint = f" (rotation={self.own_rotation!r} takes any)" if wanted < embedding_dim else ""
            check_divides(wanted, embedding_dim, f"the entries of a row{hint}")
        return [] if rotated else divisors(embedding_dim) if wanted is None else [wanted]

    def empty(self, num_embeddings: int, embedding_dim: int, plan: Plan) -> CompressedEmbedding:
        segments, stages, axes = plan["segments"], plan["stages"], plan["axes"]
        count = (stages if plan["shared"] else stages * segments) << plan["bits"]
        words = empty_factor(count, axes or embedding_dim // segments, plan["factors"], self.scale_axis)
        codes = Codebooks(num_embeddings, words, plan["bits"], segments, stages, plan["shared"])
        return Projected(codes, Scalar(codes.embedding_dim, embedding_dim, 8)) if axes else codes

    def fit_plan(
        self, table: Table, plan: Plan, weights: Tensor, generator: torch.Generator, progress: bool
    ) -> CompressedEmbedding:
        if not plan["axes"]:
            return self._fit_codes(table, plan, weights, generator, progress)
        mean = weighted_mean(table, weights)
        centred = table.minus(mean)
        axes, variances = principal_axes(centred, weights)
        order = deal_axes(variances, plan["segments"], plan["axes"])
        axes = self.turn(centred, axes[order].to(table.dtype), plan, weights, generator)
        codes = self._fit_codes(centred.times(axes.T).cached(), plan, weights, generator, progress)
        # The axes that suit the codes best need not be at right angles, once the codes are there.
        basis = quantise(ridge(Decoded(codes), centred, weights), 8, "row")
        left = centred.map(lambda places, rows: rows - Decoded(codes)[places] @ basis.dense().detach())
        return Projected.of(codes, basis, mean + weighted_mean(left, weights))

    def _fit_codes(
        self, rows: Table, plan: Plan, weights: Tensor, generator: torch.Generator, progress: bool
    ) -> Codebooks:
        segments, stages, bits, shared = (plan[size] for size in ("segments", "stages", "bits", "shared"))
        points = Points(rows, segments, shared)
        books = self.learn(points, plan, weights, generator, self.rounds, progress)
        words = self._store(books, plan)
        stored = read(words, books)
        form = Codebooks(len(rows), words, bits, segments, stages, shared).to(rows.device)
        name = type(self).__name__.lower()
        with Bar(total=len(rows), desc=f"{name}: codes", disable=not progress) as bar:

            def packed(places: slice, part: Tensor) -> list[Tensor]:
                codes = self.encode(points.split(part, weights[places])[0], stored)
                bar.update(len(part))
                return [pack(codes.view(segments, len(part), stages).permute(1, 2, 0).flatten(1), bits)]

            rows.fill([form.codes], packed)
        return form

    def _store(self, books: Tensor, plan: Plan) -> CompressedEmbedding:
        return store_factor(books.transpose(0, 1).flatten(0, 2), plan["factors"], self.scale_axis)

    def choose(
        self, table: Table, plans: list[Plan], weights: Tensor, generator: torch.Generator, progress: bool
    ) -> Plan:
        """The plan whose short fits err least.

        Plans below nine tenths of the largest, or with a Gaussian bound far above the least, are passed over. The
        others are measured on some segments of some rows, the best again on more rows, and the best of these with
        words in float16, too.
        """
        view = _View(table, weights, generator)
        rows, width = table.shape
        sizes = [self.stored_bits(rows, width, plan) for plan in plans]
        plans = [plan for plan, size in zip(plans, sizes, strict=True) if size >= SHARE * max(sizes)]
        first = [plan for plan in plans if plan["factors"] in self.word_formats()[:2]] or plans
        bounds = [view.missed(plan) + float(view.bounds(plan).sum()) for plan in first]
        first = [plan for plan, bound in zip(first, bounds, strict=True) if bound <= SLACK * min(bounds)]
        (rows, many), (more, last) = ROUNDS_OF_SEARCH
        with Bar(total=len(first) + many + 3 * last, desc="search", disable=not progress) as bar:

            def best(some: list[Plan], rows: int, count: int) -> list[Plan]:
                errors = []
                for plan in some:
                    errors.append(self._short_error(view, plan, rows, generator))
                    bar.set_note(error=f"{errors[-1]:.4g}", **plan)
                    bar.update()
                return [some[place] for place in sorted(range(len(some)), key=errors.__getitem__)[:count]]

            leading = best(best(first, rows, many), more, last)
            apart = {"factors", self.size}
            kinds = [{key: plan[key] for key in plan if key not in apart} for plan in leading]
            finalists = [plan for plan in plans if any(kind.items() <= plan.items() for kind in kinds)]
            return best(finalists, more, 1)[0]

    def _short_error(self, view: "_View", plan: Plan, rows: int, generator: torch.Generator) -> float:
        """Estimate of the variance that a plan leaves, from a short fit of some rows and segments."""
        points, weights, bounds = view.sample(plan, rows)
        books = self.learn(Points.of(points), plan, weights, generator, self.short_rounds, False)
        books = read(self._store(books, plan), books)
        codes = self.encode(points, books)
        left = torch.stack([points[i] - decode(codes[i], books[i]) for i in range(len(points))])
        distortions = left.square().sum(-1) @ weights / weights.sum()
        # Words fit the rows that they were learnt from too well: by their number over that of the rows, as in any
        # regression, and half as much again (measured) because the rows also choose among them.
        words = OVERFIT * (plan["stages"] << plan["bits"])
        all_points = view.count * (plan["segments"] if plan["shared"] else 1)
        too_well = max(1 - words / all_points, LEAST_FREEDOM) / max(1 - words / points.shape[1], LEAST_FREEDOM)
        return view.missed(plan) + float((distortions.double() / bounds).mean() * view.bounds(plan).sum()) * too_well


class _View:
    """A table as plans see it: its axes, and what each plan has to code of it."""

    def __init__(self, table: Table, weights: Tensor, generator: torch.Generator) -> None:
        self.count, self.width = table.shape
        self.mean = weighted_mean(table, weights)
        self.axes, self.variances = principal_axes(table.minus(self.mean), weights)
        self.covariance = (self.axes.T * self.variances) @ self.axes
        order = torch.randperm(self.count, generator=generator, device=table.device)
        order = order[weights[order] > 0][: ROUNDS_OF_SEARCH[-1][0]]
        self.rows, self.weights = table.gather(order), weights[order]

    def missed(self, plan: Plan) -> float:
        """Variance of the principal axes that the plan drops."""
        return float(self.variances[plan["segments"] * plan["axes"] :].sum()) if plan["axes"] else 0.0

    def bounds(self, plan: Plan) -> Tensor:
        """The Gaussian bound of each segment, (segments); its sum and `missed` rank plans before they are measured."""
        segments, axes = plan["segments"], plan["axes"]
        if axes:
            variances = self.variances[deal_axes(self.variances, segments, axes)].unflatten(0, (segments, axes))
        else:
            variances = block_variances(self.covariance, segments)
        return gaussian_distortion(variances, plan["bits"] * plan["stages"]).clamp(min=TINY)

    def sample(self, plan: Plan, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        """Points (books, n, width) of a few segments, their weights (n), and their Gaussian bounds (books)."""
        bounds, segments = self.bounds(plan), plan["segments"]
        width = plan["axes"] or self.width // segments
        step = 1 if plan["shared"] else max(1, min(segments, segments * width // ENTRIES))
        picked = torch.arange(step // 2, segments, step, device=bounds.device)
        some = min(rows, MOST_PIECES // segments + 1) if plan["shared"] else rows
        points = self.rows[:some]
        if plan["axes"]:
            order = deal_axes(self.variances, segments, plan["axes"])
            axes = self.axes[order].unflatten(0, (segments, -1))[picked].flatten(0, 1)
            points = (points - self.mean) @ axes.T.to(points.dtype)
        else:
            points = points.unflatten(1, (segments, -1))[:, picked].flatten(1)
        points, weights = pieces_of(points, len(picked), self.weights[:some], plan["shared"])
        return points, weights, bounds.mean()[None] if plan["shared"] else bounds[picked]


def read(words: CompressedEmbedding, books: Tensor) -> Tensor:
    """Stored words in the shape of the books that were stored, (books, stages, K, width)."""
    return words.dense().detach().view(books.transpose(0, 1).shape).transpose(0, 1)
