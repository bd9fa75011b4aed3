"""What became of the rows of the table: errors, neighbours, and the bound that the spectrum sets.

Measured on the tables alone; no text is run through the model. The errors and the neighbours are given over all rows
alike, and by how often text holds the token: counted in the text that was given, else guessed from the vocabulary's
order (`vocabpress.calibrate.counts.vocabulary_order`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel

from vocabpress.calibrate.counts import count_tokens, vocabulary_order
from vocabpress.embeddings import CompressedEmbedding, Dense
from vocabpress.evaluate.task import Measurement, Subject, Task
from vocabpress.evaluate.words import row_of
from vocabpress.hf.checkpoint import open_model
from vocabpress.hf.modules import TokenEmbedding
from vocabpress.hf.tables import input_table_name
from vocabpress.neighbours import WORK, Queries, choose_queries, nearest, neighbours_kept
from vocabpress.reconstruction import RowErrors, deviations, frequency_deciles, row_errors
from vocabpress.spectrum import gaussian_bound, singular_values

LEAST_RATE, MOST_RATE, RATES = 0.02, 8.0, 40  # of the bound's curve, in bits per weight
SHOWN = 5  # neighbours of a word
WORDS = "king,Paris,seven,running,bank,quickly,music,doctor"


def open_table(folder: Path, device: str) -> CompressedEmbedding:
    """The token table of a checkpoint; a dense one as the form that stores its rows.

    Raises:
        ValueError: If the checkpoint can't be read or has no token table.
    """
    model = open_model(folder, AutoModel)
    module: Any = model.get_submodule(input_table_name(model))
    if isinstance(module, TokenEmbedding):
        return module.table.to(device)
    stored = getattr(AutoConfig.from_pretrained(folder), "dtype", None) or torch.float32
    return Dense.of(module.weight.detach(), stored).to(device)


@dataclass(frozen=True)
class TableErrors(Task):
    """Task ``reconstruction``: the table against the original's.

    Attributes:
        k: Neighbours of a row.
        queries: Rows whose neighbours are looked for; 0 takes all, or in large tables as many as some ten seconds
            allow, see `vocabpress.neighbours.choose_queries`.
        words: Separated by commas; the neighbours of those that are one token are shown in the details.
    """

    reads_text: ClassVar[bool] = True
    compares: ClassVar[bool] = True

    k: int = 10
    queries: int = 0
    words: str = WORDS

    def __post_init__(self) -> None:
        if self.k < 1 or self.queries < 0 or self.queries == 1:
            raise ValueError(f"k is at least 1 and queries 0 or at least 2, got {self.k} and {self.queries}")

    def measure(self, subject: Subject) -> Measurement:
        source = open_table(subject.original("comparing tables"), subject.device)
        form = source if _same(subject) else open_table(subject.model, subject.device)
        shape, found = ((table.num_embeddings, table.embedding_dim) for table in (source, form))
        if shape != found:
            raise ValueError(f"{subject.model} has a table {found}, the original {shape}; give what it was made of")
        original, compressed = (table.dense().detach().float() for table in (source, form))
        tokenizer, counts, weighted_by = token_counts(subject, shape[0])
        errors = row_errors(original, form)
        ones = torch.ones(shape[0], dtype=torch.float64)
        plain = deviations(original, ones)
        queries = choose_queries(shape[0], self.queries or max(2, int(WORK / original.numel())), counts, subject.seed)
        kept = neighbours_kept(original, compressed, queries.ids, self.k, subject.progress)
        metrics = _metrics(errors, plain, ones, queries, kept) | {"norm_ratio": float(errors.norm_ratio.nanmean())}
        if counts is not None:
            weights = counts.double()
            by_frequency = _metrics(errors, deviations(original, weights), weights, queries, kept)
            metrics |= {f"weighted_{name}": value for name, value in by_frequency.items()}
        details = {
            **_bound(original),
            "weighted_by": weighted_by,
            "deciles": [] if counts is None else _deciles(errors, plain, counts),
            "storage": [{"name": i.name, "dtype": i.dtype, "bytes": i.bits // 8} for i in form.storage()],
            "neighbours": [] if tokenizer is None else self._shown(original, compressed, tokenizer),
            "queries": len(queries.ids),
        }
        return Measurement(metrics, details)

    def _shown(self, original: Tensor, compressed: Tensor, tokenizer: Any) -> list[dict[str, Any]]:
        """The neighbours of some words in each table, for people to read."""
        wanted = {word: row_of(tokenizer, word) for word in map(str.strip, self.words.split(",")) if word}
        rows = {word: row for word, row in wanted.items() if row is not None and row < len(original)}
        special = {*tokenizer.all_special_ids, *range(len(tokenizer), len(original))}
        excluded = torch.tensor(sorted(i for i in special if i < len(original)), dtype=torch.int64)
        k = min(SHOWN, len(original) - len(excluded) - 1)
        if not rows or k < 1:
            return []
        ids = torch.tensor(list(rows.values()), device=original.device)
        found = [nearest(table, ids, k, excluded).tolist() for table in (original, compressed)]
        return [
            {"word": word, "original": _spelt(tokenizer, before), "compressed": _spelt(tokenizer, after)}
            for word, before, after in zip(rows, *found, strict=True)
        ]


def token_counts(subject: Subject, num_embeddings: int) -> tuple[Any, Tensor | None, str | None]:
    """The tokenizer, how often its tokens occur, and where that is known from; None of each without a tokenizer.

    Raises:
        ValueError: If there is text and no tokenizer to count its tokens with.
    """
    try:
        tokenizer = subject.tokenizer()
    except ValueError:
        if subject.text:
            raise
        return None, None, None
    if subject.text:
        return tokenizer, count_tokens(subject.lines("counting"), tokenizer, num_embeddings), "text"
    return tokenizer, vocabulary_order(tokenizer, num_embeddings), "vocabulary order"


def _same(subject: Subject) -> bool:
    return subject.against is not None and subject.against.resolve() == subject.model.resolve()


def _metrics(errors: RowErrors, spread: Tensor, weights: Tensor, queries: Queries, kept: Tensor) -> dict[str, float]:
    """The metrics that are means over rows, under one weighting."""
    over = errors.over(spread, weights)
    shares = queries.stands_for * weights[queries.ids]
    return {
        "relative_error": over.relative_error,
        "mean_cosine": over.mean_cosine,
        "neighbours_kept": float(shares @ kept) / float(shares.sum()),
    }


def _deciles(errors: RowErrors, spread: Tensor, counts: Tensor) -> list[dict[str, Any]]:
    """Errors by frequency; within a tenth all rows count alike, deviations are from the mean row of the whole table."""
    tenths = []
    total = float(counts.double().sum())
    for ids in filter(len, frequency_deciles(counts)):
        part = RowErrors(errors.squared_error[ids], errors.cosine[ids], errors.norm_ratio[ids])
        over = part.over(spread[ids], torch.ones(len(ids), dtype=torch.float64))
        share = float(counts[ids].double().sum()) / total
        tenths.append(
            {
                "tokens": len(ids),
                "share": share,
                "relative_error": over.relative_error,
                "mean_cosine": over.mean_cosine,
            }
        )
    return tenths


def _bound(original: Tensor) -> dict[str, Any]:
    values = singular_values(original)
    rates = [LEAST_RATE * (MOST_RATE / LEAST_RATE) ** (step / (RATES - 1)) for step in range(RATES)]
    errors = gaussian_bound(values, original.shape[1], rates)
    points = [{"bits_per_weight": r, "relative_error": e} for r, e in zip(rates, errors, strict=True)]
    return {"spectrum": values.tolist(), "bound": points}


def _spelt(tokenizer: Any, ids: list[int]) -> list[str]:
    """Tokens as people read them; the vocabulary's own spelling where a token is part of a character."""
    texts = [tokenizer.decode([i]).strip() for i in ids]
    return [
        text if text and "�" not in text else token
        for text, token in zip(texts, tokenizer.convert_ids_to_tokens(ids), strict=True)
    ]
