"""Weighted k-means for many segments at once, started by k-means++ (Arthur and Vassilvitskii, 2007).

Points are (segments, n, width), words (segments, K, width), codes (segments, n); a point's weight is the same in every
segment. Lloyd's rounds; a word that loses its last point moves to a point that is served badly.
"""

import torch
from torch import Tensor
from tqdm import tqdm

SCORES_PER_CHUNK = 2**18  # floats: scores are read again at once, from the processor's cache
SEEDING_POINTS = 16  # points for each word from which k-means++ draws, and at least 1024


def nearest(points: Tensor, words: Tensor) -> Tensor:
    """The nearest word of each point.

    Args:
        points: (segments, n, width).
        words: (segments, K, width).

    Returns:
        int64, (segments, n). Memory is bounded: the scores of all words are formed for a chunk of points at a time.
    """
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
    points: Tensor,
    weights: Tensor,
    count: int,
    rounds: int,
    generator: torch.Generator,
    start: Tensor | None = None,
    title: str = "",
    progress: bool = False,
) -> Tensor:
    """Words with a low weighted sum of squared distances from each point to its nearest word.

    Args:
        points: (segments, n, width).
        weights: (n), not negative, not all zero.
        count: K; may exceed n, the words past it are then copies.
        rounds: Of Lloyd's algorithm.
        generator: Of the first words.
        start: Words to go on from, (segments, K, width); None draws them.
        title: Of the progress bar.
        progress: Whether to draw it.

    Returns:
        (segments, K, width).
    """
    words = seed_words(points, weights, count, generator) if start is None else start
    for _ in tqdm(range(rounds), desc=title, unit="round", disable=not progress):
        words = means(points, weights, nearest(points, words), words)
    return words


def seed_words(points: Tensor, weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """k-means++: each word is a point drawn with a chance in proportion to its weighted squared distance from the rest.

    Drawn from a sample of the points, which spoils nothing that Lloyd's rounds would not mend.
    """
    order = torch.randperm(points.shape[1], generator=generator, device=points.device)
    sample = order[: max(1024, SEEDING_POINTS * count)]
    points, weights = points[:, sample], weights[sample]
    distances = torch.ones(points.shape[:2], device=points.device)
    words = points.new_empty(points.shape[0], count, points.shape[2])
    for place in range(count):
        # The small constant decides where all points are words already: then any will do.
        chances = distances * weights + torch.finfo(torch.float32).tiny
        drawn = torch.multinomial(chances, 1, generator=generator)
        words[:, place] = pick(points, drawn)[:, 0]
        away = (points - words[:, place, None]).square().sum(-1)
        distances = away if place == 0 else torch.minimum(distances, away)
    return words


def means(points: Tensor, weights: Tensor, codes: Tensor, words: Tensor) -> Tensor:
    """The weighted mean of each word's points; words without any move to the points of the largest weighted error."""
    segments, count, width = words.shape
    places = (codes + torch.arange(segments, device=codes.device)[:, None] * count).flatten()
    mass = torch.zeros(segments * count, device=points.device).index_add_(0, places, weights.repeat(segments))
    sums = torch.zeros(segments * count, width, device=points.device)
    sums.index_add_(0, places, (points * weights[:, None]).flatten(0, 1))
    found = (sums / mass.clamp(min=torch.finfo(torch.float32).tiny)[:, None]).view_as(words)
    empty = (mass == 0).view(segments, count)
    found = torch.where(empty[..., None], words, found)
    for segment in empty.any(1).nonzero()[:, 0].tolist():
        lost = empty[segment].nonzero()[:, 0][: points.shape[1]]
        errors = weights * (points[segment] - found[segment, codes[segment]]).square().sum(-1)
        worst = errors.topk(len(lost))
        found[segment, lost[worst.values > 0]] = points[segment, worst.indices[worst.values > 0]]
    return found
