"""How much each token matters: by counts in text, by TF-IDF, or by the vocabulary's order."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vocabpress.calibrate.calibration import ROOT, UNIFORM, VOCABULARY_ORDER, Calibration, token_weights
from vocabpress.texts import read_lines

LINES_PER_BATCH = 512
Tokenizer = Any
"""A transformers tokenizer; this module does not import that library."""


def weigh_tokens(
    known: Calibration,
    open_tokenizer: Callable[[], Tokenizer],
    num_embeddings: int,
    text: Sequence[str | Path] = (),
    *,
    noted: Sequence[str | Path] = (),
    exponent: float | None = None,
    by_tfidf: bool = False,
    progress: bool = False,
) -> Calibration:
    """Add token weights and counts that are not known yet.

    Without text, counts or weights they come from the vocabulary's order, which is far better than equal weights. A
    model without a tokenizer has no such order, so its tokens get equal weights.

    Args:
        known: Existing weights and counts.
        open_tokenizer: Opens the model's own if it is needed; raises ValueError if there is none.
        num_embeddings: Rows of the table, V.
        text: UTF-8 text files.
        noted: Their names as the user gave them, such as those of folders and pipes.
        exponent: The power of the counts; None keeps existing weights, and takes the square root otherwise.
        by_tfidf: Whether to use `tfidf` instead, each line of the text a document.
        progress: Whether to draw a progress bar over the text on stderr.

    Raises:
        ValueError: If a source is unusable or given twice, TF-IDF lacks text, or an exponent counts.
    """
    if text:
        if known.counts is not None or known.source in (UNIFORM, VOCABULARY_ORDER):
            raise ValueError("token weights come from text or from a calibration that has counts; give one of them")
        counts = count_tokens(read_lines(text, progress), open_tokenizer(), num_embeddings)
        names = tuple(Path(file).name for file in noted or text)
        known = replace(known, counts=counts, texts=names, tokens=int(counts.double().sum()))
        known = replace(known, source="text") if known.weights is None else known
    elif known.counts is None and (known.leaves_weights_open or known.source == VOCABULARY_ORDER):
        try:
            known = replace(known, counts=vocabulary_order(open_tokenizer(), num_embeddings), source=VOCABULARY_ORDER)
        except ValueError:
            if known.source == VOCABULARY_ORDER:
                raise
            known = replace(known, source=UNIFORM)
    if by_tfidf:
        if not text:
            raise ValueError("TF-IDF needs the text itself, its lines are the documents; give --text, or text=[…]")
        scores = tfidf(read_lines(text, progress), open_tokenizer(), num_embeddings)
        return replace(known, weights=scores, source="tfidf")
    if exponent is not None and known.counts is None:
        raise ValueError(f"the exponent {exponent:g} is of token counts, and there are none; give --text, or text=[…]")
    if known.counts is None or (known.weights is not None and exponent is None):
        return known
    exponent = ROOT if exponent is None else exponent
    source = known.source if known.source == VOCABULARY_ORDER else "text" if known.texts else "counts"
    return replace(known, weights=token_weights(known.counts, exponent), exponent=exponent, source=source)


def _tokenised(texts: Iterable[str], tokenizer: Tokenizer, num_embeddings: int) -> Iterator[list[list[int]]]:
    """Token ids of each text, some hundred texts at a time, without special tokens."""
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
    """Occurrences of each token in texts that are read once; special tokens that a tokenizer adds are not counted.

    Returns:
        Shape (V), float32, exact up to 2**24 occurrences of one token (float64 inside).

    Raises:
        ValueError: If there is no token at all, or an id is outside of the table.
    """
    counts = torch.zeros(num_embeddings, dtype=torch.float64)
    for rows in _tokenised(texts, tokenizer, num_embeddings):
        ids = torch.tensor([i for row in rows for i in row], dtype=torch.int64)
        counts.add_(torch.bincount(ids, minlength=num_embeddings))
    return counts.float()


def tfidf(
    texts: Iterable[str], tokenizer: Tokenizer, num_embeddings: int, alpha: float = 0.0, beta: float = 0.1
) -> Tensor:
    """The weights of DiscBlock-T (Lee et al., Findings of EMNLP 2021, and its code): common words count less.

    With D texts, each a document, tf is the mean over the documents of ``alpha + beta * count / highest count of a
    token there``, idf is ``1 + max(0, ln(D / (1 + df)))`` with df one more than the documents that hold the token, and
    the score is ``tf * idf + 1 / D``. The last term is the score of tokens that occur in no document.

    Args:
        texts: The documents, read once; one without a token is ignored.
        tokenizer: The model's own.
        num_embeddings: Rows of the table, V.
        alpha: The constant part of tf.
        beta: The part of tf that depends on counts.

    Returns:
        Shape (V), float32, positive.
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
    """Relative frequencies by Zipf's law over the vocabulary's order, (V), the largest 1.

    The token of rank r (from 1) gets 1/r; most BPE, unigram and WordPiece vocabularies are sorted about so. Special
    tokens, unused ones such as ``[unused7]`` and rows beyond the tokenizer's last token have no rank: they get the
    lowest weight, because they are rare in text or do not occur.
    """
    tokens = tokenizer.convert_ids_to_tokens(list(range(num_embeddings)))
    special = set(tokenizer.all_special_ids)
    ordinary = torch.tensor(
        [i not in special and token is not None and "unused" not in token for i, token in enumerate(tokens)]
    )
    ranks = ordinary.cumsum(0).clamp(min=1)
    return torch.where(ordinary, 1.0 / ranks, 1.0 / max(int(ordinary.sum()), 1))
