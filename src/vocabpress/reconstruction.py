"""Errors of the rows of a compressed table."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vocabpress.chunks import chunks
from vocabpress.embeddings import CompressedEmbedding
from vocabpress.embeddings.inference import lookup

DECILES = 10


@dataclass(frozen=True)
class Reconstruction:
    """Weighted errors of a table's rows."""

    # Sum of squared errors over that of squared deviations from the mean row; 0 is exact, 1 is the mean row alone.
    relative_error: float
    mean_cosine: float  # between a row and its reconstruction


@dataclass(frozen=True)
class RowErrors:
    """Errors of each row of a table, shape (V), float64, on the CPU."""

    squared_error: Tensor  # squared distance of the row and its reconstruction
    cosine: Tensor  # of the two; 1 if they are equal, else 0 if one of them is zero
    norm_ratio: Tensor  # length of the reconstruction over that of the row; NaN if the row is zero

    def over(self, deviations: Tensor, weights: Tensor) -> Reconstruction:
        """Sums over the rows, by ``weights``, (V), not all zero, and the result of `deviations`, (V)."""
        error, deviation = float(weights @ self.squared_error), float(weights @ deviations)
        # In a table of equal rows any error is infinitely large.
        relative = error / deviation if deviation else float("inf") if error else 0.0
        return Reconstruction(relative, float(weights @ self.cosine) / float(weights.sum()))

    def against(self, table: Tensor, counts: Tensor | None = None) -> Reconstruction:
        """Sums over the rows, given the original, (V, d), and counts of tokens, (V); None weights rows equally."""
        weights = torch.ones(len(table), dtype=torch.float64) if counts is None else counts.double().cpu()
        return self.over(deviations(table, weights), weights)


@torch.no_grad()
def row_errors(table: Tensor, embedding: CompressedEmbedding) -> RowErrors:
    """Compare each row of a compressed table with the original's, (V, d), by chunks of rows."""
    device = embedding.device
    found = torch.empty(3, len(table), dtype=torch.float64)
    for part in chunks(*table.shape):
        ids = torch.arange(part.start, part.stop, device=device)
        rows, decoded = table[part].to(device).double(), lookup(embedding, ids).double()
        error, cosine = (decoded - rows).square().sum(-1), torch.nn.functional.cosine_similarity(decoded, rows, dim=-1)
        cosine = torch.where(error == 0, 1.0, cosine)  # padding tokens often have rows of zeros
        ratio = decoded.norm(dim=-1) / rows.norm(dim=-1)
        found[:, part] = torch.stack((error, cosine, torch.where(ratio.isinf(), torch.nan, ratio)))
    return RowErrors(*found)


@torch.no_grad()
def deviations(table: Tensor, weights: Tensor) -> Tensor:
    """Squared distance of each row from the weighted mean row; shape (V), float64, on the CPU."""
    shares = (weights.double() / weights.double().sum()).to(table.device)
    mean = torch.zeros(table.shape[1], dtype=torch.float64, device=table.device)
    for part in chunks(*table.shape):
        mean += shares[part] @ table[part].double()
    squares = torch.empty(len(table), dtype=torch.float64)
    for part in chunks(*table.shape):
        squares[part] = (table[part].double() - mean).square().sum(-1)
    return squares


def reconstruction(table: Tensor, embedding: CompressedEmbedding, counts: Tensor | None = None) -> Reconstruction:
    """Compare a compressed table with the original, both (V, d), weighted by ``counts`` of tokens, (V), if any."""
    return row_errors(table, embedding).against(table, counts)


def frequency_deciles(counts: Tensor) -> list[Tensor]:
    """Row numbers in ten groups of about equal size, the most frequent first; ``counts`` is (V), V at least 10."""
    return list(counts.argsort(descending=True, stable=True).tensor_split(DECILES))
