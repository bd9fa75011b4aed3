"""Additive codes: a row is the sum of one word from each of several books.

Babenko and Lempitsky, "Additive quantization for extreme vector compression", CVPR 2014, whose two steps are here:
codes by beam search, books by least squares. The start is residual k-means (Chen, Guan and Wang, 2010).

Targets are (n, width), books (stages, K, width), codes int64 (n, stages).
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from vocabpress.fitting.kmeans import kmeans, nearest_words, pick
from vocabpress.fitting.points import Points
from vocabpress.fitting.table import Places, Table

FLOATS_PER_CHUNK = 2**20

Encoder = Callable[[Tensor], Tensor]
"""Targets (n, width) -> codes (n, stages)."""


def decode(codes: Tensor, books: Tensor) -> Tensor:
    """The sums of the words that codes name, (n, width)."""
    flat = codes + torch.arange(len(books), device=codes.device) * books.shape[1]
    return torch.nn.functional.embedding_bag(flat, books.flatten(0, 1), mode="sum")


def residual_kmeans(
    points: Points | Tensor, weights: Tensor, stages: int, count: int, rounds: int, generator: torch.Generator
) -> Tensor:
    """Books stage by stage, (segments, stages, K, width), each by k-means on what the ones before left over.

    Points are (segments, n, width), weights those of the points' rows, (V); (n) unless segments share a book.
    """
    points, books = Points.of(points), []
    for _ in range(stages):
        books.append(kmeans(points, weights, count, rounds, generator))
        points = _left_over(points, books[-1])
    return torch.stack(books, 1)


def _left_over(points: Points, words: Tensor) -> Points:
    """Each point less its nearest word; points that are not cached are coded again when they are read."""

    def less(_: Places, rows: Tensor) -> Tensor:
        own = points.split(rows, rows[:, 0])[0]
        return points.joined(own - pick(words, nearest_words(own, words)))

    return replace(points, table=points.table.map(less).cached())


def beam_search(targets: Tensor, books: Tensor, width: int) -> Tensor:
    """Codes (n, stages) whose sums are near the targets: the ``width`` best prefixes of a code go from stage to stage.

    Width 1 is greedy residual encoding; a width of at least K**(stages - 1) finds the optimum.
    """
    stages, count, size = books.shape
    rows = max(1, FLOATS_PER_CHUNK // (min(width, count**stages) * max(count, size)))
    return torch.cat([_beam_search(chunk, books, width) for chunk in targets.split(rows)])


def _beam_search(targets: Tensor, books: Tensor, width: int) -> Tensor:
    left = targets[:, None]  # (n, beam, width): what each beginning of a code leaves over
    errors = targets.new_zeros(len(targets), 1)
    codes = torch.empty(len(targets), 1, 0, dtype=torch.int64, device=targets.device)
    for stage, book in enumerate(books):
        scores = torch.addmm(book.square().sum(-1), left.flatten(0, 1), book.T, alpha=-2)
        scores = scores.view(*errors.shape, len(book)).add_(errors[..., None]).flatten(1)
        errors, best = scores.topk(min(width, scores.shape[1]) if stage + 1 < len(books) else 1, largest=False)
        parent, word = best // len(book), best % len(book)
        left = pick(left, parent) - book[word]
        codes = torch.cat([pick(codes, parent), word[..., None]], -1)
    return codes[:, 0]


def refit(
    targets: Points | Table | Tensor, codes: Tensor | Encoder, books: Tensor, weights: Tensor, penalty: float = 1e-4
) -> Tensor:
    """The books with the least ``sum_i w_i ||x_i - decode(codes_i)||^2`` for these codes, all stages together.

    Solved for the *change* of the books with a slight ridge: words that no code names stay where they are, and the
    directions in which books can trade a vector without changing any sum do no harm.

    Args:
        targets: (n, width), or points of one book.
        codes: (n, stages), or a function from targets to their codes.
        books: (stages, K, width), the start.
        weights: (n), or those of the points' rows.
        penalty: Strength of the ridge, relative to the mean of the words' weights.
    """
    stages, count, width = books.shape
    points = targets if isinstance(targets, Points) else Points(Table.of(targets), 1)
    firsts = torch.arange(stages, device=books.device) * count

    def sums(places: slice, own: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        chosen = codes[places].long() if isinstance(codes, Tensor) else codes(own[0])
        left = (own[0] - decode(chosen, books)) * shares[:, None]
        moments = torch.zeros(stages * count, width, device=own.device)
        for stage in range(stages):
            moments.index_add_(0, (chosen + firsts)[:, stage], left)
        return _pair_weights(chosen + firsts, shares, stages * count), moments.double()

    gram, moments = points.sum(weights, sums)
    gram.diagonal().add_(penalty * gram.diagonal().mean())
    change = torch.cholesky_solve(moments, torch.linalg.cholesky(gram))
    return points.table.shards.agree(books + change.to(books.dtype).view_as(books))


def _pair_weights(places: Tensor, weights: Tensor, words: int) -> Tensor:
    """For each pair of words the summed weight of the rows that use both, (words, words), float64."""
    count = words // places.shape[1]
    shares = weights.double()[:, None].expand(-1, places.shape[1]).flatten()
    blocks = []
    for stage in range(places.shape[1]):
        pairs = (places[:, stage, None] - stage * count) * words + places
        blocks.append(torch.bincount(pairs.flatten(), shares, count * words).view(count, words))
    return torch.cat(blocks)
