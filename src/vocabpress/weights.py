"""How much each token matters: counted in text, read from a file, guessed from the vocabulary's order, or all alike.

*Counts*, shape (V), float32, not negative, say how often a token occurs; what a fit takes of them is
`token_weights(counts)`. *Weights*, of the same shape, are what a fit takes as they are: `tfidf`, or a file of them.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from vocabpress.chunks import chunks
from vocabpress.tensorfile import load_tensor, save_tensor

LINES_PER_BATCH = 512
# Of a text. In `benchmarks/tcq.py` 175,000 do better than 12,000 and than millions; this lies between.
TOKENS = 350_000
COUNTS_KEY, WEIGHTS_KEY = "token_counts", "token_weights"


class Tokenizer(Protocol):
    """What is needed of a transformers tokenizer."""

    all_special_ids: list[int]

    def __call__(self, text: list[str], *, add_special_tokens: bool) -> dict[str, list[list[int]]]:
        """Token ids of each text, under ``input_ids``."""
        ...

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str | None]:
        """The tokens of these ids."""
        ...


def _tokenised(texts: Iterable[str], tokenizer: Tokenizer, num_embeddings: int) -> Iterator[list[list[int]]]:
    """Token ids of each text, some hundred texts at a time; special tokens that a tokenizer adds are left out.

    Raises:
        ValueError: If an id is outside of the table, or there is not one token.
    """
    texts, found = iter(texts), False
    while batch := list(islice(texts, LINES_PER_BATCH)):
        rows = tokenizer(batch, add_special_tokens=False)["input_ids"]
        last = max((max(row) for row in rows if row), default=-1)
        if last >= num_embeddings:
            raise ValueError(f"the tokenizer gives id {last}, the table has {num_embeddings} rows; do they match?")
        found = found or last >= 0
        yield rows
    if not found:
        raise ValueError("the text holds no token; give a file with at least some sentences")


def count_tokens(texts: Iterable[str], tokenizer: Tokenizer, num_embeddings: int) -> Tensor:
    """How often each token occurs, streaming; special tokens that a tokenizer adds are not counted.

    Args:
        texts: Strings of any length, read once.
        tokenizer: The model's own.
        num_embeddings: Rows of the table, V.

    Returns:
        Counts, shape (V), float32 exact up to 2**24 occurrences of one token (float64 inside).

    Raises:
        ValueError: If there is not one token, or an id is outside of the table.
    """
    counts = torch.zeros(num_embeddings, dtype=torch.float64)
    for rows in _tokenised(texts, tokenizer, num_embeddings):
        ids = torch.tensor([i for row in rows for i in row], dtype=torch.int64)
        counts.add_(torch.bincount(ids, minlength=num_embeddings))
    return counts.float()


def tfidf(
    texts: Iterable[str], tokenizer: Tokenizer, num_embeddings: int, alpha: float = 0.0, beta: float = 0.1
) -> Tensor:
    """The scores of DiscBlock-T (Lee et al., Findings of EMNLP 2021, and its code): words of every text count less.

    With D texts, each a document, tf is the mean over the documents of ``alpha + beta * count / highest count of a
    token there``, idf is ``1 + max(0, ln(D / (1 + df)))`` with df one more than the documents that hold the token, and
    the score is ``tf * idf + 1 / D``. The last term is what a token gets that no document holds.

    Args:
        texts: The documents, read once; one without a token does not count.
        tokenizer: The model's own.
        num_embeddings: Rows of the table, V.
        alpha: The part of tf that all tokens have.
        beta: The part of tf that depends on counts.

    Returns:
        Weights, shape (V), float32, positive.

    Raises:
        ValueError: As `count_tokens`.
    """
    shares, holders = torch.zeros(num_embeddings, dtype=torch.float64), torch.zeros(num_embeddings, dtype=torch.float64)
    documents = 0
    for rows in _tokenised(texts, tokenizer, num_embeddings):
        for row in filter(None, rows):
            ids, counts = torch.tensor(row).unique(return_counts=True)
            shares[ids] += counts / counts.max()
            holders[ids] += 1
            documents += 1
    frequency = alpha + beta * shares / documents
    rarity = 1 + (documents / (2 + holders)).log().clamp(min=0)
    return (frequency * rarity + 1 / documents).float()


def vocabulary_order(tokenizer: Tokenizer, num_embeddings: int) -> Tensor:
    """Zipf's law over the order of the vocabulary, for vocabularies that are sorted by frequency.

    The token of rank r (from 1) gets 1/r; most BPE, unigram and WordPiece vocabularies come in about that order. Ranks
    pass over special tokens, ``[unused7]`` and its like, and rows beyond the tokenizer's last token: those get the
    least weight of all, because text seldom or never holds them.

    Args:
        tokenizer: The model's own.
        num_embeddings: Rows of the table, V.

    Returns:
        Shape (V), relative frequencies, the largest 1.
    """
    tokens = tokenizer.convert_ids_to_tokens(list(range(num_embeddings)))
    special = set(tokenizer.all_special_ids)
    ordinary = torch.tensor(
        [i not in special and token is not None and "unused" not in token for i, token in enumerate(tokens)]
    )
    ranks = ordinary.cumsum(0).clamp(min=1)
    return torch.where(ordinary, 1.0 / ranks, 1.0 / max(int(ordinary.sum()), 1))


def uniform(num_embeddings: int) -> Tensor:
    """All tokens alike."""
    return torch.ones(num_embeddings)


def save_counts(counts: Tensor, path: str | Path) -> None:
    """Write counts as safetensors, one tensor ``token_counts``.

    Raises:
        ValueError: If the file can't be written.
    """
    save_tensor(counts, COUNTS_KEY, path)


def load_counts(path: str | Path, num_embeddings: int) -> Tensor:
    """Read what :func:`save_counts` wrote.

    Raises:
        ValueError: If the file is missing or holds no counts, or the counts are for another vocabulary.
    """
    return _load(path, COUNTS_KEY, "counts", num_embeddings)


def save_weights(weights: Tensor, path: str | Path) -> None:
    """Write weights as safetensors, one tensor ``token_weights``.

    Raises:
        ValueError: If the file can't be written.
    """
    save_tensor(weights, WEIGHTS_KEY, path)


def load_weights(path: str | Path, num_embeddings: int) -> Tensor:
    """Read what :func:`save_weights` wrote.

    Raises:
        ValueError: If the file is missing or holds no weights, or the weights are for another vocabulary.
    """
    return _load(path, WEIGHTS_KEY, "weights", num_embeddings)


def _load(path: str | Path, key: str, word: str, num_embeddings: int) -> Tensor:
    values = load_tensor(key, word, path, f"vocabpress.weights.save_{word}")
    if values.shape != (num_embeddings,):
        count = values.shape[0] if values.ndim else 0
        raise ValueError(
            f"{path} holds {word} of {count} tokens, the table has {num_embeddings}; make it for this model"
        )
    return values


def token_weights(counts: Tensor, power: float = 0.5) -> Tensor:
    """What a fit takes: ``(counts + 1) ** power``, mean 1, shape (V).

    The 1 keeps tokens that the text did not happen to hold; relative frequencies are first scaled so that the smallest
    positive one is 1, as in text where the rarest token occurs once. Power 1 counts an error as often as the text would
    show it, 0 not at all; the square root between them is our choice, because the text at hand is never the user's. Nor
    should more text make weights more uneven: what is longer than `TOKENS` is counted as if it had so many.

    Raises:
        ValueError: If all counts are zero.
    """
    positive = counts[counts > 0]
    if positive.numel() == 0:
        raise ValueError("all token counts are zero; count in some text first")
    counts = counts / positive.min().clamp(max=1)
    weights = (counts * (TOKENS / counts.sum()).clamp(max=1) + 1) ** power
    return weights / weights.mean()


def over_length(weights: Tensor | None, table: Tensor, strength: float) -> Tensor | None:
    """Weights under which errors count relative to the length of the row.

    A row's squared error over its squared length is about twice what its direction loses in cosine ("Direction is what
    you need", RepL4NLP 2021, asks for the direction first), so that strength 1 minimises that; 0 leaves the weights.
    Lengths below a fifth of the root mean square count as that: the direction of almost nothing means nothing.

    Args:
        weights: (V), or None for all alike.
        table: (V, d).
        strength: Exponent, 0 to 1.

    Returns:
        (V), mean 1; ``weights`` at strength 0.

    Raises:
        ValueError: If the strength is out of range.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"the strength of the direction is 0 to 1, got {strength:g}; 1 counts errors as cosine does")
    if strength == 0:
        return weights
    squares = torch.empty(len(table), device=table.device)
    for part in chunks(*table.shape):
        squares[part] = table[part].float().square().sum(1)
    shorter = squares.clamp(min=0.04 * float(squares.mean())) ** -strength
    shorter = shorter if weights is None else weights.to(shorter.device) * shorter
    return shorter / shorter.mean()
