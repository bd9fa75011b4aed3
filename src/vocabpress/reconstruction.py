"""How near the rows of a compressed table are to the original's."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vocabpress.embeddings import CompressedEmbedding

ROWS_PER_CHUNK = 16384


@dataclass(frozen=True)
class Reconstruction:
    """Errors of a table's rows, each row counted by its token weight.

    Attributes:
        relative_error: Sum of squared errors over the sum of squared deviations from the mean row; 0 is exact, 1 is
            what the mean row alone would score.
        mean_cosine: Mean cosine between a row and its reconstruction.
    """

    relative_error: float
    mean_cosine: float


@torch.no_grad()
def reconstruction(table: Tensor, embedding: CompressedEmbedding, counts: Tensor | None = None) -> Reconstruction:
    """Compare a compressed table with the original.

    Args:
        table: (V, d).
        embedding: Of the same shape.
        counts: (V), how often each token occurs; None counts all rows alike.
    """
    device = embedding.device
    weights = torch.ones(len(table), dtype=torch.float64) if counts is None else counts.double().cpu()
    mean = (weights.to(table.device) @ table.double() / weights.sum()).to(device)
    squared_error, squared_deviation, cosines = 0.0, 0.0, 0.0
    for ids in torch.arange(len(table)).split(ROWS_PER_CHUNK):
        rows, share = table[ids.to(table.device)].to(device).double(), weights[ids].to(device)
        decoded = embedding.lookup(ids.to(device)).double()
        squared_error += float(share @ (decoded - rows).square().sum(-1))
        squared_deviation += float(share @ (rows - mean).square().sum(-1))
        cosines += float(share @ torch.nn.functional.cosine_similarity(decoded, rows, dim=-1))
    # A table of equal rows deviates nowhere: then any error at all is infinitely large.
    relative = squared_error / squared_deviation if squared_deviation else float("inf") if squared_error else 0.0
    return Reconstruction(relative, cosines / float(weights.sum()))
