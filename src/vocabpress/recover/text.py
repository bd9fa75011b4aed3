"""Unlabelled text into batches: which sequences are held out, which batch comes when; it all follows from the seed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from vocabpress.weights import read_lines

LINES_PER_CALL = 512
POOL = 16  # batches whose sequences are sorted by length together, so that little is padding


@dataclass(frozen=True)
class Sequences:
    """Tokenised text, a line a sequence; longer lines are cut into several.

    Attributes:
        training: Token ids, special tokens included.
        held_out: The same, never trained on.
        pad: What fills a batch up.
    """

    training: list[list[int]]
    held_out: list[list[int]]
    pad: int


def read_sequences(
    files: Sequence[str | Path],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    held_out: int,
    seed: int,
    progress: bool,
) -> Sequences:
    """Tokenise text files and set some sequences aside.

    Args:
        files: UTF-8 text.
        tokenizer: Of the model.
        max_length: Tokens of a sequence, special ones included.
        held_out: Sequences to set aside, at most a tenth of all.
        seed: Of the choice.
        progress: Whether to draw a progress bar on stderr.

    Raises:
        ValueError: If a file is unusable, or there are fewer than twenty sequences.
    """
    lines = list(dict.fromkeys(read_lines(files, progress)))  # a repeated line must not be on both sides
    sequences: list[list[int]] = []
    tokenise: Any = tokenizer
    for start in tqdm(range(0, len(lines), LINES_PER_CALL), desc="tokenising", disable=not progress):
        chunk = lines[start : start + LINES_PER_CALL]
        sequences += tokenise(
            chunk, truncation=True, max_length=max_length, return_overflowing_tokens=True, return_attention_mask=False
        )["input_ids"]
    if len(sequences) < 20:
        raise ValueError(f"the text gives {len(sequences)} sequences, recovery needs 20 or more; give more text")
    order = torch.randperm(len(sequences), generator=torch.Generator().manual_seed(seed)).tolist()
    aside = max(1, min(held_out, len(sequences) // 10))
    pad: Any = tokenizer.pad_token_id
    return Sequences(
        training=[sequences[i] for i in order[aside:]],
        held_out=[sequences[i] for i in order[:aside]],
        pad=0 if pad is None else pad,  # masked out, so any id will do
    )


def batch_plan(lengths: Sequence[int], batch_size: int, batches: int, seed: int) -> list[list[int]]:
    """Which sequences make which batch, for a whole run.

    Each pass takes the sequences in a new order; pools of batches are sorted by length and their batches shuffled. A
    batch that a pass can't fill is left out, unless there is no other.
    """
    plan: list[list[int]] = []
    generator = torch.Generator().manual_seed(seed + 1)
    while len(plan) < batches:
        plan += _one_pass(lengths, batch_size, generator)
    return plan[:batches]


def _one_pass(lengths: Sequence[int], batch_size: int, generator: torch.Generator) -> Iterator[list[int]]:
    order = torch.randperm(len(lengths), generator=generator).tolist()
    full = len(order) // batch_size * batch_size or len(order)
    for start in range(0, full, POOL * batch_size):
        pool = sorted(order[start : min(start + POOL * batch_size, full)], key=lambda index: lengths[index])
        made = [pool[first : first + batch_size] for first in range(0, len(pool), batch_size)]
        yield from (made[i] for i in torch.randperm(len(made), generator=generator).tolist())
