"""Nearest rows of a table by cosine, and how many are the same after compression."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vocabpress.chunks import chunks
from vocabpress.progress import Bar

QUERIES_AT_ONCE = 1024  # queries in one product with a chunk of the rows
MULTIPLICATIONS = 4e11  # for one table; about ten seconds on one core


class Queries(NamedTuple):
    """Row numbers, (n), and the number of rows that each of them represents, (n), float64."""

    ids: Tensor
    stands_for: Tensor


def choose_queries(num_embeddings: int, limit: int, counts: Tensor | None, seed: int) -> Queries:
    """All rows, or a sample of ``limit`` of them, at least 2.

    With ``counts``, (V), half of the sample are the most frequent tokens, which dominate every mean by frequency; the
    other half is drawn from the rest.
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
    """Numbers of the ``k`` rows with the highest cosine to each of the rows ``ids``, (n, k), the nearest first.

    Args:
        table: (V, d), any float dtype; read by chunks of rows.
        ids: (n).
        k: Less than the number of rows that are not excluded.
        excluded: Rows that are never neighbours, as is the row itself.
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
    """Share of the ``k`` nearest neighbours of each of the rows ``ids`` that two tables, (V, d), have in common.

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
