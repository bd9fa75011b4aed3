"""What a sentence encoder does with a compressed table: agreement with the original, and STS."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor


@dataclass(frozen=True)
class Agreement:
    """How far two encoders agree on the same sentences.

    Attributes:
        mean_cosine: Mean cosine between the two embeddings of a sentence.
        spearman: Rank correlation, over all pairs of sentences, of the cosines that the two encoders give.
    """

    mean_cosine: float
    spearman: float


def embed(encoder: SentenceTransformer, sentences: Sequence[str]) -> Tensor:
    """Unit-length embeddings, shape (sentences, d), on the CPU."""
    embeddings = encoder.encode(
        list(sentences), convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=False
    )
    assert isinstance(embeddings, Tensor)
    return embeddings.float().cpu()


def spearman(a: Tensor, b: Tensor) -> float:
    """Rank correlation of two vectors; equal values share their mean rank."""
    return float(torch.corrcoef(torch.stack([_ranks(a), _ranks(b)]))[0, 1])


def _ranks(values: Tensor) -> Tensor:
    _, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts.double() - 1) / 2)[inverse]


def agreement(original: Tensor, compressed: Tensor) -> Agreement:
    """Compare two sets of unit-length embeddings of the same sentences, each (sentences, d)."""
    upper = torch.triu_indices(len(original), len(original), offset=1)
    pairs = [(e @ e.T)[upper[0], upper[1]] for e in (original, compressed)]
    return Agreement(float((original * compressed).sum(-1).mean()), spearman(pairs[0], pairs[1]))


def sts_spearman(encoder: SentenceTransformer, pairs: Sequence[tuple[str, str, float]]) -> float:
    """Spearman correlation of cosines with human scores, times 100, as the STS tasks report it.

    Args:
        encoder: Any sentence encoder.
        pairs: (sentence, sentence, score).
    """
    first, second, scores = zip(*pairs, strict=True)
    cosines = (embed(encoder, first) * embed(encoder, second)).sum(-1)
    return 100 * spearman(cosines, torch.tensor(scores))
