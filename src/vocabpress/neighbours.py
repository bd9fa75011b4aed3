"""Which rows of a table are near each other by cosine, and how many stay so when the table is compressed."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

ROWS_PER_CHUNK = 256  # rows whose cosines with all others are held at a time
WORK = 4e11  # multiplications for one table; some ten seconds of one core


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
        seed: Of the draw.
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


def nearest(table: Tensor, ids: Tensor, k: int, excluded: Tensor | None = None) -> Tensor:
    """The ``k`` rows with the highest cosine to each of some rows, the row itself excluded.

    Args:
        table: (V, d), rows of length 1 or 0.
        ids: (n).
        k: Less than the rows that are left to choose from.
        excluded: Rows that are nobody's neighbours.

    Returns:
        Row numbers, shape (n, k), the nearest first.
    """
    cosines = table[ids] @ table.T
    cosines[torch.arange(len(ids), device=ids.device), ids] = -torch.inf
    if excluded is not None:
        cosines[:, excluded] = -torch.inf
    return cosines.topk(k, dim=1).indices


@torch.no_grad()
def neighbours_kept(table: Tensor, other: Tensor, ids: Tensor, k: int = 10, progress: bool = False) -> Tensor:
    """Share of the ``k`` nearest neighbours of a row in one table that are among those in another.

    Args:
        table: (V, d).
        other: Of the same shape, on the same device.
        ids: (n), rows to ask for.
        k: Fewer are taken where the table is small.
        progress: Whether to draw a progress bar on stderr.

    Returns:
        From 0 to 1, shape (n), float64 on the CPU.
    """
    first, second = (normalize(rows.float(), dim=1) for rows in (table, other))
    k = min(k, len(table) - 1)
    kept = []
    with tqdm(total=len(ids), desc="neighbours", unit="row", disable=not progress) as bar:
        for chunk in ids.to(table.device).split(ROWS_PER_CHUNK):
            before, after = nearest(first, chunk, k), nearest(second, chunk, k)
            kept.append((before[:, :, None] == after[:, None, :]).any(2).double().mean(1).cpu())
            bar.update(len(chunk))
    return torch.cat(kept)
