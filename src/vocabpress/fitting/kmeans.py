"""Weighted k-means for many segments at once, started by k-means++ (Arthur and Vassilvitskii, 2007).

Points are (segments, n, width), words (segments, K, width), codes (segments, n); a point's weight is the same in every
segment. Lloyd's rounds; a word that loses its last point moves to a point with a large error. The points of a round
are read in chunks, so that memory does not grow with their number.
"""

import torch
from torch import Tensor

from vocabpress.fitting.points import Points
from vocabpress.progress import Bar

SCORES_PER_CHUNK = 2**18  # floats: scores are read again at once, from the processor's cache
SEEDING_POINTS = 16  # points for each word from which k-means++ draws, and at least 1024


def nearest_words(points: Tensor, words: Tensor) -> Tensor:
    """The nearest word of each point, int64, (segments, n); scores are formed for a chunk of points at a time."""
    rows = max(1, SCORES_PER_CHUNK // words.shape[1])
    codes = torch.empty(points.shape[:2], dtype=torch.int64, device=points.device)
    for segment, (own, book) in enumerate(zip(points, words, strict=True)):
        half = book.square().sum(-1) / 2  # |x - c|^2 / 2 is |c|^2 / 2 - <x, c>, up to what all words share
        for start in range(0, len(own), rows):
            scores = torch.addmm(half, own[start : start + rows], book.T, alpha=-1)
            torch.argmin(scores, 1, out=codes[segment, start : start + rows])
    return codes


def pick(words: Tensor, codes: Tensor) -> Tensor:
    """The words that codes name, (segments, n, width)."""
    return words.gather(1, codes[..., None].expand(-1, -1, words.shape[-1]))


def kmeans(
    points: Points | Tensor,
    weights: Tensor,
    count: int,
    rounds: int,
    generator: torch.Generator,
    start: Tensor | None = None,
    title: str = "",
    progress: bool = False,
) -> Tensor:
    """Words (segments, K, width) with a low weighted sum of squared distances from each point to its nearest word.

    Args:
        points: (segments, n, width).
        weights: Weights of the points' rows, (V), not negative, not all zero; (n) unless segments share a book.
        count: K; may exceed n, the words past it are then copies.
        rounds: Rounds of Lloyd's algorithm.
        generator: Draws the first words.
        start: First words, (segments, K, width); None draws them.
        title: Title of the progress bar.
        progress: Whether to draw it.
    """
    points = Points.of(points)
    words = seed_words(points, weights, count, generator) if start is None else start
    for _ in Bar(range(rounds), desc=title, disable=not progress):
        words = means(points, weights, words)
    return words


def seed_words(points: Points, weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """k-means++: each word is a point drawn with a chance in proportion to its weighted squared distance from the rest.

    Drawn from a sample of the points; Lloyd's rounds repair what that costs.
    """
    sample, weights = points.sample(max(1024, SEEDING_POINTS * count), weights, generator)
    distances = torch.ones(sample.shape[:2], device=sample.device)
    words = sample.new_empty(sample.shape[0], count, sample.shape[2])
    for place in range(count):
        # The small constant matters where all points are words already: then any point is right.
        chances = distances * weights + torch.finfo(torch.float32).tiny
        drawn = torch.multinomial(chances, 1, generator=generator)
        words[:, place] = pick(sample, drawn)[:, 0]
        away = (sample - words[:, place, None]).square().sum(-1)
        distances = away if place == 0 else torch.minimum(distances, away)
    return points.table.shards.agree(words)


def means(points: Points, weights: Tensor, words: Tensor, codes: Tensor | None = None) -> Tensor:
    """The weighted mean of the points nearest to each word; words without any move to the points of the largest error.

    Weights are those of the points' rows, (V). The codes of this process' rows are written to ``codes``, (V, pieces of
    a row), if it is given.
    """
    segments, count, width = words.shape
    firsts = torch.arange(segments, device=words.device)[:, None] * count

    def sums(places: slice, own: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        found = nearest_words(own, words)
        if codes is not None:
            codes[places] = found.view(codes.shape[1], -1).T.to(codes.dtype)
        named = (found + firsts).flatten()
        mass = torch.zeros(segments * count, device=own.device).index_add_(0, named, shares.repeat(segments))
        moments = torch.zeros(segments * count, width, device=own.device)
        moments.index_add_(0, named, (own * shares[:, None]).flatten(0, 1))
        return mass.double(), moments.double()

    mass, moments = points.sum(weights, sums)
    found = (moments / mass.clamp(min=torch.finfo(torch.float32).tiny)[:, None]).to(words.dtype).view_as(words)
    empty = (mass == 0).view(segments, count)
    found = torch.where(empty[..., None], words, found)
    return _moved(points, weights, words, found, empty) if bool(empty.any()) else found


def _moved(points: Points, weights: Tensor, words: Tensor, found: Tensor, empty: Tensor) -> Tensor:
    """The new words; those without points move to the points of the largest weighted error under their old codes."""
    lost = min(int(empty.sum(1).max()), points.shape[1])

    def worst_of(errors: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
        top = errors.topk(min(lost, errors.shape[1]), 1)
        return top.values, pick(candidates, top.indices)

    def worst(_: slice, own: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        return worst_of(shares * (own - pick(found, nearest_words(own, words))).square().sum(-1), own)

    errors, candidates = points.fold(
        weights, worst, lambda a, b: worst_of(torch.cat([a[0], b[0]], 1), torch.cat([a[1], b[1]], 1))
    )
    moved = found.clone()
    for segment in empty.any(1).nonzero()[:, 0].tolist():
        free = empty[segment].nonzero()[:, 0][: errors.shape[1]]
        serves = errors[segment, : len(free)] > 0
        moved[segment, free[serves]] = candidates[segment, : len(free)][serves]
    return moved
