"""Compares the rows of two tables: errors, neighbours, and the bound that the spectrum sets.

Only the tables are measured; no text runs through the model. Errors and neighbours are averaged over all rows equally,
and weighted by token frequency: counted in text, or else estimated from the vocabulary's order
(`vocabpress.calibrate.counts.vocabulary_order`).
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel

from vocabpress.calibrate.counts import count_tokens, vocabulary_order
from vocabpress.embeddings import CompressedEmbedding, Dense
from vocabpress.evaluate.task import Measurement, Subject, Task
from vocabpress.hf.checkpoint import open_model
from vocabpress.hf.modules import TokenEmbedding
from vocabpress.hf.tables import input_table_name
from vocabpress.neighbours import MULTIPLICATIONS, Queries, choose_queries, nearest_rows, shared_neighbours
from vocabpress.reconstruction import RowErrors, deviations, frequency_deciles, row_errors
from vocabpress.settings import AtLeast0, AtLeast1
from vocabpress.spectrum import gaussian_bound, singular_values

LEAST_RATE, MOST_RATE, RATES = 0.02, 8.0, 40  # range (bits per weight) and points of the bound's curve
SHOWN = 5  # neighbours of a word
SHOWN_WORDS = "king,Paris,seven,running,bank,quickly,music,doctor"


def open_table(folder: Path, device: str = "cpu", whole: bool = True) -> CompressedEmbedding:
    """The token table of a checkpoint; a dense one as `Dense` in its stored dtype. ``whole`` as in `open_model`."""
    model = open_model(folder, AutoModel, whole)
    module: Any = model.get_submodule(input_table_name(model))
    if isinstance(module, TokenEmbedding):
        return module.table.to(device)
    stored = getattr(AutoConfig.from_pretrained(folder), "dtype", None) or torch.float32
    return Dense.of(module.weight.detach(), stored).to(device)


@dataclass(frozen=True)
class TableErrors(Task):
    """Task ``reconstruction``: the table against the original's."""

    reads_text: ClassVar[bool] = True
    compares: ClassVar[bool] = True

    k: AtLeast1 = 10  # neighbours of a row
    # Rows whose neighbours are compared; 0 takes all, or in large tables as many as about ten seconds allow.
    queries: AtLeast0 = 0
    words: str = SHOWN_WORDS  # separated by commas; the details list the neighbours of those that are one token

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.queries == 1:
            raise ValueError("queries is 0 or at least 2, got 1")

    def measure(self, subject: Subject) -> Measurement:
        source = open_table(subject.original("comparing tables"), subject.device)
        form = source if subject.compared_with_itself() else open_table(subject.model, subject.device)
        shape, found = ((table.num_embeddings, table.embedding_dim) for table in (source, form))
        if shape != found:
            raise ValueError(f"{subject.model} has a table {found}, the original {shape}; give what it was made of")
        original, compressed = (table.dense().detach().float() for table in (source, form))
        tokenizer, counts, weighted_by = token_counts(subject, shape[0])
        errors = row_errors(original, form)
        ones = torch.ones(shape[0], dtype=torch.float64)
        plain = deviations(original, ones)
        most = self.queries or max(2, int(MULTIPLICATIONS / original.numel()))
        queries = choose_queries(shape[0], most, counts, subject.seed)
        shared = shared_neighbours(original, compressed, queries.ids, self.k, subject.progress)
        metrics = _metrics(errors, plain, ones, queries, shared) | {"norm_ratio": float(errors.norm_ratio.nanmean())}
        if counts is not None:
            weights = counts.double()
            by_frequency = _metrics(errors, deviations(original, weights), weights, queries, shared)
            metrics |= {f"weighted_{name}": value for name, value in by_frequency.items()}
        values = singular_values(original)
        rates = [LEAST_RATE * (MOST_RATE / LEAST_RATE) ** (step / (RATES - 1)) for step in range(RATES)]
        bound = zip(rates, gaussian_bound(values, shape[1], rates), strict=True)
        details = {
            "spectrum": values.tolist(),
            "bound": [{"bits_per_weight": rate, "relative_error": error} for rate, error in bound],
            "weighted_by": weighted_by,
            "deciles": [] if counts is None else _deciles(errors, plain, counts),
            "storage": [{"name": i.name, "dtype": i.dtype, "bytes": i.bits // 8} for i in form.storage()],
            "neighbours": [] if tokenizer is None else self._shown(original, compressed, tokenizer),
            "queries": len(queries.ids),
        }
        return Measurement(metrics, details)

    def _shown(self, original: Tensor, compressed: Tensor, tokenizer: Any) -> list[dict[str, Any]]:
        """The neighbours of some words in each table."""
        wanted = {word: row_of(tokenizer, word) for word in map(str.strip, self.words.split(",")) if word}
        rows = {word: row for word, row in wanted.items() if row is not None and row < len(original)}
        special = {*tokenizer.all_special_ids, *range(len(tokenizer), len(original))}
        excluded = torch.tensor(sorted(i for i in special if i < len(original)), dtype=torch.int64)
        k = min(SHOWN, len(original) - len(excluded) - 1)
        if not rows or k < 1:
            return []
        ids = torch.tensor(list(rows.values()), device=original.device)
        found = [nearest_rows(table, ids, k, excluded).tolist() for table in (original, compressed)]
        return [
            {"word": word, "original": _spelt(tokenizer, before), "compressed": _spelt(tokenizer, after)}
            for word, before, after in zip(rows, *found, strict=True)
        ]


def token_counts(subject: Subject, num_embeddings: int) -> tuple[Any, Tensor | None, str | None]:
    """The tokenizer, the counts of its tokens, (V), and their source; three times None without tokenizer and text."""
    try:
        tokenizer = subject.tokenizer()
    except ValueError:
        if subject.text:
            raise
        return None, None, None
    if subject.text:
        return tokenizer, count_tokens(subject.lines("counting"), tokenizer, num_embeddings), "text"
    return tokenizer, vocabulary_order(tokenizer, num_embeddings), "vocabulary order"


def ids_of(tokenizer: Any, word: str) -> list[int]:
    """The tokens of a word inside a sentence; empty if the tokenizer does not know all of it.

    Byte-level vocabularies include the space before a word, others don't: the spelling with fewer tokens is taken.
    """
    spellings = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (f" {word}", word)]
    ids: list[int] = min(spellings, key=len)  # if equal, that with the space
    return [] if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids else ids


def row_of(tokenizer: Any, word: str) -> int | None:
    """The single token of a word, or of it in lower case; None if there is none."""
    for text in (word, word.lower()):
        ids = ids_of(tokenizer, text)
        if len(ids) == 1:
            return ids[0]
    return None


def _metrics(errors: RowErrors, spread: Tensor, weights: Tensor, queries: Queries, shared: Tensor) -> dict[str, float]:
    """Metrics that are weighted means over rows."""
    shares = queries.stands_for * weights[queries.ids]
    return asdict(errors.over(spread, weights)) | {"neighbours_kept": float(shares @ shared) / float(shares.sum())}


def _deciles(errors: RowErrors, spread: Tensor, counts: Tensor) -> list[dict[str, Any]]:
    """Errors by frequency, unweighted within a tenth; deviations are from the mean row of the whole table."""
    tenths = []
    for ids in filter(len, frequency_deciles(counts)):
        part = RowErrors(errors.squared_error[ids], errors.cosine[ids], errors.norm_ratio[ids])
        over = part.over(spread[ids], torch.ones(len(ids), dtype=torch.float64))
        share = float(counts[ids].double().sum()) / float(counts.double().sum())
        tenths.append({"tokens": len(ids), "share": share, **asdict(over)})
    return tenths


def _spelt(tokenizer: Any, ids: list[int]) -> list[str]:
    """Tokens as text, or in the vocabulary's spelling if a token is part of a character."""
    texts = [tokenizer.decode([i]).strip() for i in ids]
    return [
        text if text and "�" not in text else token
        for text, token in zip(texts, tokenizer.convert_ids_to_tokens(ids), strict=True)
    ]
