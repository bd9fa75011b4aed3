"""Word similarity, read off the table itself: does the cosine of two words' rows rank pairs as people do?

A word of several tokens is the mean of their rows. No model is run; input tables were not trained to say this, so the
original's own values are what to compare with.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from vocabpress.evaluate.correlations import spearman
from vocabpress.evaluate.pairs import WORDS, ScoredPair, read_pairs
from vocabpress.evaluate.table import open_table
from vocabpress.evaluate.task import Measurement, Subject, Task
from vocabpress.evaluate.words import ids_of

FOLDER = "word-similarity"


@dataclass(frozen=True)
class WordSimilarity(Task):
    """Task ``similarity``: all files of ``word-similarity/*.txt``."""

    def measure(self, subject: Subject) -> Measurement:
        folder = subject.file(FOLDER)
        sets = {metric_name(file): read_pairs(file, WORDS) for file in sorted(folder.glob("*.txt"))}
        if not sets:
            raise ValueError(f"{folder} holds no *.txt; put files of word, word, score there")
        tokenizer = subject.tokenizer()
        known = {name: known_pairs(pairs, tokenizer) for name, pairs in sets.items()}
        known = {name: pairs for name, pairs in known.items() if len(pairs) > 1}
        if not known:
            raise ValueError(f"the tokenizer knows none of the words in {folder}; are they of the model's language?")
        metrics = correlations(known, tokenizer, _rows(subject.model, subject.device))
        if subject.against is not None:
            original = correlations(known, tokenizer, _rows(subject.against, subject.device))
            metrics |= {f"{name}_original": value for name, value in original.items()}
        used = {name: {"pairs": len(pairs), "known": len(known.get(name, ()))} for name, pairs in sets.items()}
        return Measurement(metrics, {"sets": used})


def metric_name(file: Path) -> str:
    """``EN-WS-353-ALL.txt`` -> ``en_ws_353_all``."""
    return file.stem.lower().replace("-", "_").replace(" ", "_")


def known_pairs(pairs: Sequence[ScoredPair], tokenizer: Any) -> list[ScoredPair]:
    """Those whose words the tokenizer can spell without its unknown token."""
    return [pair for pair in pairs if ids_of(tokenizer, pair.first) and ids_of(tokenizer, pair.second)]


def correlations(sets: dict[str, list[ScoredPair]], tokenizer: Any, table: Tensor) -> dict[str, float]:
    """Spearman x 100 of each set, and their mean.

    Args:
        sets: Name -> pairs whose words are known.
        tokenizer: Of the table.
        table: (V, d).
    """
    found = {}
    for name, pairs in sets.items():
        sides = [
            torch.stack([table[ids_of(tokenizer, word)].mean(0) for word in words])
            for words in (
                [pair.first for pair in pairs],
                [pair.second for pair in pairs],
            )
        ]
        scores = torch.tensor([pair.score for pair in pairs])
        found[name] = 100 * spearman(cosine_similarity(*sides, dim=-1), scores)
    return found | {"mean": sum(found.values()) / len(found)}


def _rows(folder: Path, device: str) -> Tensor:
    return open_table(folder, device).dense().detach().float().cpu()
