"""Batches of sequences: tokenising lines, grouping rows by length, and padding."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from vocabpress.progress import Bar

LINES_AT_ONCE = 512


def encode_lines(
    lines: Sequence[str], tokenizer: Any, max_length: int | None, progress: bool, **options: Any
) -> Iterator[Any]:
    """The tokenizer's output for the lines, cut to ``max_length`` tokens if that is given, some hundred at a time."""
    options |= {"truncation": max_length is not None, "max_length": max_length}
    for start in Bar(range(0, len(lines), LINES_AT_ONCE), desc="tokenising", disable=not progress):
        yield tokenizer(list(lines[start : start + LINES_AT_ONCE]), **options)


def by_length(lengths: Sequence[int], batch_size: int, longest_first: bool = True) -> Iterator[list[int]]:
    """Row numbers of each batch, rows of similar length together."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=longest_first)
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def pad(sequences: Sequence[Sequence[int]], filler: int) -> dict[str, Tensor]:
    """Sequences padded at the end: ``input_ids`` and ``attention_mask``, (batch, longest)."""
    longest = max(map(len, sequences))
    ids = torch.tensor([[*s, *[filler] * (longest - len(s))] for s in sequences])
    mask = torch.tensor([[1] * len(s) + [0] * (longest - len(s)) for s in sequences])
    return {"input_ids": ids, "attention_mask": mask}
