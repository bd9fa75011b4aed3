"""Tokenised rows of a data set, kept small, and how they become padded batches."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from torch.utils.data import Dataset
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from vocabpress.progress import Bar

ROWS_PER_CALL = 1000


@dataclass(frozen=True)
class Rows(Dataset):
    """Tokenised rows; ids are kept as int32, which takes a tenth of what lists do.

    Attributes:
        inputs: Argument of the model -> its value for each row, shape (tokens).
        labels: Argument of the model -> its value for each row; empty where there is nothing to learn.
    """

    inputs: dict[str, list[np.ndarray]] = field(default_factory=dict)
    labels: dict[str, Sequence[float]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.inputs["input_ids"])

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self.unlabelled(row) | {name: values[row] for name, values in self.labels.items()}

    def unlabelled(self, row: int) -> dict[str, Any]:
        """The inputs alone."""
        return {name: values[row].tolist() for name, values in self.inputs.items()}

    def lengths(self) -> list[int]:
        """Tokens in each row."""
        return [len(ids) for ids in self.inputs["input_ids"]]


class Collate(Protocol):
    """Makes a padded batch of rows."""

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """Name -> tensor, first axis the rows."""
        ...


def tokenise(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[tuple[str, str | None]],
    labels: Sequence[float],
    max_length: int,
    progress: bool = False,
) -> Rows:
    """Rows of sentences, or of pairs of sentences, cut to a length, not padded.

    Args:
        tokenizer: The model's own.
        texts: (sentence, second sentence or None).
        labels: One a row: classes, or scores.
        max_length: Tokens, special ones included.
        progress: Whether to draw a progress bar.
    """
    inputs: dict[str, list[np.ndarray]] = {}
    pair = texts[0][1] is not None
    with Bar(total=len(texts), desc="tokenising", disable=not progress) as bar:
        for start in range(0, len(texts), ROWS_PER_CALL):
            first, second = zip(*texts[start : start + ROWS_PER_CALL], strict=True)
            encoded = tokenizer(list(first), list(second) if pair else None, truncation=True, max_length=max_length)
            for name, rows in encoded.items():
                if name != "attention_mask":  # all ones; padding makes it anew
                    inputs.setdefault(name, []).extend(np.asarray(row, dtype=np.int32) for row in rows)
            bar.update(len(first))
    return Rows(inputs, {"labels": labels})


def padding(tokenizer: PreTrainedTokenizerBase) -> Collate:
    """Pads a batch to its longest row."""
    return DataCollatorWithPadding(tokenizer)
