"""Text into batches: which sequences are held out, which batch comes when; it all follows from the seed."""

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vocabpress.evaluate.language import CAUSAL, CLASSES, MASKED, pad, table_rows
from vocabpress.evaluate.masked import choose_places, replacement
from vocabpress.progress import Bar
from vocabpress.texts import read_lines

LINES_PER_CALL = 512
POOL = 16  # batches whose sequences are sorted by length together, so that little is padding
MASK_PROBABILITY = 0.15  # as BERT was trained
UNSCORED = -100  # the label that transformers' losses pass over

Example = dict[str, Any]
"""Arguments of a model for one sequence: ``input_ids``, and what else there is; labels are one, or one a token."""


@dataclass(frozen=True)
class Sequences:
    """Tokenised sequences, special tokens included.

    Attributes:
        training: To train on.
        held_out: Never trained on.
        pad: What fills a batch of ids up.
    """

    training: list[Example]
    held_out: list[Example]
    pad: int

    def collate(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Sequences side by side, (batch, longest), with their attention mask; labels of whole sequences (batch)."""
        batch = pad([example["input_ids"] for example in examples], self.pad)
        for name, filler in {"token_type_ids": 0, "labels": UNSCORED}.items():
            if name in examples[0]:
                rows = [example[name] for example in examples]
                of_tokens = isinstance(rows[0], list)
                batch[name] = pad(rows, filler)["input_ids"] if of_tokens else torch.tensor(rows)
        return batch

    def digest(self) -> str:
        """Of all sequences, in order."""
        hashed = hashlib.sha256()
        for example in (*self.training, *self.held_out):
            hashed.update(json.dumps(example, sort_keys=True).encode())
        return hashed.hexdigest()


def set_aside(sequences: Sequence[Example], held_out: int, filler: Any, seed: int) -> Sequences:
    """Some sequences drawn to be held out, at most a tenth of all.

    Args:
        sequences: All.
        held_out: How many to hold out at most.
        filler: The id that batches are padded with; None where there is none.
        seed: Of the choice.
    """
    order = torch.randperm(len(sequences), generator=torch.Generator().manual_seed(seed)).tolist()
    aside = max(1, min(held_out, len(sequences) // 10))
    return Sequences(
        training=[sequences[i] for i in order[aside:]],
        held_out=[sequences[i] for i in order[:aside]],
        pad=0 if filler is None else filler,  # masked out, so any id will do
    )


def tokenise(
    files: Sequence[str | Path], tokenizer: PreTrainedTokenizerBase, max_length: int, progress: bool
) -> list[Example]:
    """The sequences of text files: a line each, longer lines cut into several, repeated lines once.

    Args:
        files: UTF-8 text.
        tokenizer: Of the model.
        max_length: Tokens of a sequence, special ones included.
        progress: Whether to draw a progress bar on stderr.

    Raises:
        ValueError: If a file is unusable.
    """
    lines = list(dict.fromkeys(read_lines(files, progress)))  # a repeated line must not be trained on and held out
    sequences: list[Example] = []
    call: Any = tokenizer
    for start in Bar(range(0, len(lines), LINES_PER_CALL), desc="tokenising", disable=not progress):
        chunk = lines[start : start + LINES_PER_CALL]
        cut = {"truncation": True, "max_length": max_length, "return_overflowing_tokens": True}
        sequences += [{"input_ids": ids} for ids in call(chunk, return_attention_mask=False, **cut)["input_ids"]]
    return sequences


def read_sequences(
    files: Sequence[str | Path],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    held_out: int,
    seed: int,
    progress: bool,
) -> Sequences:
    """The sequences of text files, see `tokenise`, some of them set aside.

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
    sequences = tokenise(files, tokenizer, max_length, progress)
    if len(sequences) < 20:
        raise ValueError(f"the text gives {len(sequences)} sequences, recovery needs 20 or more; give more text")
    return set_aside(sequences, held_out, tokenizer.pad_token_id, seed)


def with_own_labels(
    sequences: Sequences, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, seed: int
) -> Sequences:
    """The sequences with the labels of a language model: tokens that are masked here, or the next tokens.

    A sequence is masked once, the same in every pass, as BERT's own were.

    Args:
        sequences: Without labels.
        model: A masked or causal language model; says which labels.
        tokenizer: Of the model; with a mask token where it masks.
        seed: Of what is masked.

    Raises:
        ValueError: If the model is no language model, or its tokenizer has no mask token.
    """
    name = type(model).__name__
    kind = next((kind for kind in (MASKED, CAUSAL) if name in CLASSES[kind]), None)
    if kind is None or model.config.is_encoder_decoder:
        raise ValueError(f"{name} is no masked or causal language model; leave language_model out")
    if kind == CAUSAL:
        label = _next_tokens
    elif tokenizer.mask_token_id is None:
        raise ValueError(f"the tokenizer of {name} has no mask token; leave language_model out")
    else:
        label = _Masking(tokenizer, min(len(tokenizer), table_rows(model)), seed)
    parts = [[label(row["input_ids"]) for row in part] for part in (sequences.training, sequences.held_out)]
    training, held_out = ([row for row in part if set(row["labels"]) != {UNSCORED}] for part in parts)
    if not training or bool(held_out) != bool(sequences.held_out):
        raise ValueError("too few sequences hold a token that can be masked; does the tokenizer know the text?")
    return Sequences(training, held_out, sequences.pad)


def _next_tokens(ids: list[int]) -> Example:
    return {"input_ids": ids, "labels": ids}  # the model compares each with the one before


class _Masking:
    """Masks tokens, each on its own, as BERT's first training did."""

    def __init__(self, tokenizer: Any, vocabulary: int, seed: int) -> None:
        self.mask, self.vocabulary, self.draw = tokenizer.mask_token_id, vocabulary, random.Random(seed)
        self.special = set(tokenizer.all_special_ids)

    def __call__(self, ids: list[int]) -> Example:
        words = [None if token in self.special else place for place, token in enumerate(ids)]
        places = set(choose_places(words, MASK_PROBABILITY, self.draw))
        inputs = [
            replacement(token, self.mask, self.vocabulary, self.draw) if place in places else token
            for place, token in enumerate(ids)
        ]
        return {"input_ids": inputs, "labels": [t if i in places else UNSCORED for i, t in enumerate(ids)]}


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
