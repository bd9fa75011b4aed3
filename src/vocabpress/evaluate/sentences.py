"""Sentence encoders with a compressed table: agreement with the original, and STS."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from vocabpress.evaluate.pairs import spearman
from vocabpress.hf.static import open_sentence_transformer
from vocabpress.progress import Bar

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


@dataclass(frozen=True)
class Agreement:
    """Agreement of two encoders on the same sentences."""

    mean_cosine: float  # between the two embeddings of a sentence
    spearman: float  # rank correlation, over all pairs of sentences, of the two encoders' cosines


SENTENCES_PER_CALL = 2048  # an encoder sorts those of one call by length


def open_encoder(folder: Path, device: str = "cpu") -> "SentenceTransformer":
    """A sentence encoder in float32, with mean pooling if the folder has no modules.json.

    Raises:
        ValueError: If sentence-transformers is not installed, or can't read the folder.
    """
    return open_sentence_transformer(folder, "sentence encoders", device).float()


def embed(
    encoder: "SentenceTransformer",
    sentences: Sequence[str],
    progress: bool = False,
    side: Literal["query", "document"] | None = None,
    prefix: str | None = None,
) -> Tensor:
    """Unit-length embeddings, (sentences, d), on the CPU.

    In retrieval some models have a module for each ``side``. The text ``prefix`` is put before each sentence; None
    takes the model's own for that side, if it has one.
    """
    encode = {None: encoder.encode, "query": encoder.encode_query, "document": encoder.encode_document}[side]
    parts, given = list[Tensor](), list(sentences)
    for start in Bar(range(0, max(1, len(given)), SENTENCES_PER_CALL), desc="sentences", disable=not progress):
        some = given[start : start + SENTENCES_PER_CALL]
        found = encode(some, prompt=prefix, convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=False)
        assert isinstance(found, Tensor)
        parts.append(found.float().cpu())
    return torch.cat(parts)


def agreement(original: Tensor, compressed: Tensor) -> Agreement:
    """Compare two sets of unit-length embeddings of the same sentences, each (sentences, d)."""
    upper = torch.triu_indices(len(original), len(original), offset=1)
    pairs = [(e @ e.T)[upper[0], upper[1]] for e in (original, compressed)]
    return Agreement(float((original * compressed).sum(-1).mean()), spearman(pairs[0], pairs[1]))


def pair_cosines(
    encoder: "SentenceTransformer", first: Sequence[str], second: Sequence[str], progress: bool = False
) -> Tensor:
    """Cosine between the embeddings of each pair, (pairs); each sentence is embedded once."""
    place = {sentence: row for row, sentence in enumerate(dict.fromkeys([*first, *second]))}
    embeddings = embed(encoder, list(place), progress)
    left, right = (embeddings[[place[sentence] for sentence in side]] for side in (first, second))
    return (left * right).sum(-1)


def sts_spearman(encoder: "SentenceTransformer", pairs: Sequence[tuple[str, str, float]]) -> float:
    """Spearman correlation of cosines with human scores, times 100; ``pairs`` are (sentence, sentence, score)."""
    first, second, scores = zip(*pairs, strict=True)
    return 100 * spearman(pair_cosines(encoder, first, second), torch.tensor(scores))
