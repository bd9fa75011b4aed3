"""Batches of sequences: lines as tokens, which rows lie side by side, and how they are filled up to one length."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from vocabpress.progress import Bar

LINES_AT_ONCE = 512


def encode_lines(lines: Sequence[str], tokenizer: Any, max_length: int, progress: bool) -> Iterator[Any]:
    """What the tokenizer makes of the lines, each cut to so many tokens, some hundred lines at a time."""
    for start in Bar(range(0, len(lines), LINES_AT_ONCE), desc="tokenising", disable=not progress):
        yield tokenizer(list(lines[start : start + LINES_AT_ONCE]), truncation=True, max_length=max_length)


def by_length(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Numbers of the rows of each batch, rows of about one length together, the longest first."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def pad(sequences: Sequence[Sequence[int]], filler: int) -> dict[str, Tensor]:
    """Sequences side by side, padded at the end: ``input_ids`` and ``attention_mask``, (batch, longest)."""
    longest = max(map(len, sequences))
    ids = torch.tensor([[*s, *[filler] * (longest - len(s))] for s in sequences])
    mask = torch.tensor([[1] * len(s) + [0] * (longest - len(s)) for s in sequences])
    return {"input_ids": ids, "attention_mask": mask}
