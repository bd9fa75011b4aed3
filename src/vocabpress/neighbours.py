"""Which rows of a table are near each other by cosine, and how many stay so when it is compressed."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vocabpress.chunks import chunks
from vocabpress.progress import Bar

QUERIES_AT_ONCE = 1024  # rows whose cosines with a chunk of the others are computed at once
MULTIPLICATIONS = 4e11  # multiplications for one table; some ten seconds of one core


class Queries(NamedTuple):
    """Rows that stand for all rows of a table.

    Attributes:
        ids: Shape (n).
        stands_for: How many rows each stands for, shape (n), float64.
    """

    ids: Tensor
    stands_for: Tensor


def choose_queries(num_embeddings: int, limit: int, counts: Tensor | None, seed: int) -> Queries:
    """All rows, or where they are more than ``limit`` a sample of them.

    With counts half of the sample are the most frequent tokens, which decide every mean by frequency; the other half is
    drawn from the rest.

    Args:
        num_embeddings: V.
        limit: The most rows to take, at least 2.
        counts: (V) or None.
        seed: Decides the sample.
    """
    if num_embeddings <= limit:
        return Queries(torch.arange(num_embeddings), torch.ones(num_embeddings, dtype=torch.float64))
    generator = torch.Generator().manual_seed(seed)
    sure = 0 if counts is None else limit // 2
    order = torch.arange(num_embeddings) if counts is None else counts.argsort(descending=True, stable=True)
    rest = order[sure:]
    drawn = rest[torch.randperm(len(rest), generator=generator)[: limit - sure]]
    stands_for = torch.ones(limit, dtype=torch.float64)
    stands_for[sure:] = len(rest) / len(drawn)
    return Queries(torch.cat([order[:sure], drawn]), stands_for)


@torch.no_grad()
def nearest_rows(table: Tensor, ids: Tensor, k: int, excluded: Tensor | None = None) -> Tensor:
    """The ``k`` rows with the highest cosine to each of some rows, the row itself excluded.

    Args:
        table: (V, d), any float dtype; read by chunks of rows.
        ids: (n).
        k: Less than the rows that are left to choose from.
        excluded: Rows that are nobody's neighbours.

    Returns:
        Row numbers, shape (n, k), the nearest first.
    """
    asked = normalize(table[ids].float(), dim=1)
    closest: Tensor = asked.new_empty(len(ids), 0)
    rows: Tensor = ids.new_empty(len(ids), 0)
    for part in chunks(*table.shape, itemsize=4):
        cosines = asked @ normalize(table[part].float(), dim=1).T
        own = _within(ids, part)
        cosines[own.nonzero()[:, 0], ids[own] - part.start] = -torch.inf
        if excluded is not None:
            cosines[:, excluded[_within(excluded, part)] - part.start] = -torch.inf
        best, places = cosines.topk(min(k, cosines.shape[1]), dim=1)
        closest, rows = torch.cat((closest, best), 1), torch.cat((rows, places + part.start), 1)
        closest, places = closest.topk(min(k, closest.shape[1]), dim=1)
        rows = rows.gather(1, places)
    return rows


def _within(rows: Tensor, part: slice) -> Tensor:
    return (rows >= part.start) & (rows < part.stop)


@torch.no_grad()
def shared_neighbours(table: Tensor, other: Tensor, ids: Tensor, k: int = 10, progress: bool = False) -> Tensor:
    """Share of the ``k`` nearest neighbours of a row in one table that are among those in another.

    Args:
        table: (V, d), any float dtype.
        other: (V, d), on the same device.
        ids: (n), rows to ask for.
        k: Fewer are taken where the table is small.
        progress: Whether to draw a progress bar on stderr.

    Returns:
        From 0 to 1, shape (n), float64 on the CPU.
    """
    k = min(k, len(table) - 1)
    shared = []
    with Bar(total=len(ids), desc="neighbours", disable=not progress) as bar:
        for chunk in ids.to(table.device).split(QUERIES_AT_ONCE):
            before, after = nearest_rows(table, chunk, k), nearest_rows(other, chunk, k)
            shared.append((before[:, :, None] == after[:, None, :]).any(2).double().mean(1).cpu())
            bar.update(len(chunk))
    return torch.cat(shared)
