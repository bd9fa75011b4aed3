"""From text to batches: which sequences are held out, and the order of the batches; both follow from the seed."""

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vocabpress.evaluate.batches import by_length, encode_lines, pad
from vocabpress.evaluate.causal import first_token
from vocabpress.evaluate.language import CAUSAL, CLASSES, MASKED, table_rows
from vocabpress.evaluate.masked import choose_places, replacement
from vocabpress.texts import read_lines

PASSAGES, PASSAGE = 0.3, (2, 7)  # share of texts that are passages, and their lines
POOL = 16  # batches whose sequences are sorted by length together, which saves padding
MASK_PROBABILITY = 0.15  # as BERT was trained
UNSCORED = -100  # the label that transformers' losses ignore

Example = dict[str, Any]
"""Arguments of a model for one sequence: ``input_ids`` and others; ``labels`` is one label, or one a token."""

Batch = dict[str, Tensor]
"""Arguments of a model for several sequences, (batch, longest) each."""


@dataclass(frozen=True)
class Sequences:
    """Tokenised sequences, special tokens included; ``pad`` is the id that pads batches."""

    training: list[Example]
    held_out: list[Example]
    pad: int

    def collate(self, examples: Sequence[Example]) -> Batch:
        """A padded batch, (batch, longest), with its attention mask; labels of whole sequences are (batch)."""
        batch = pad([example["input_ids"] for example in examples], self.pad)
        for name, filler in {"token_type_ids": 0, "labels": UNSCORED}.items():
            if name in examples[0]:
                rows = [example[name] for example in examples]
                of_tokens = isinstance(rows[0], list)
                batch[name] = pad(rows, filler)["input_ids"] if of_tokens else torch.tensor(rows)
        return batch

    def held_out_batches(self, batch_size: int) -> Iterator[Batch]:
        """Batches of the held-out sequences, sorted by length."""
        batches = by_length(lengths_of(self.held_out), batch_size, longest_first=False)
        return (self.collate([self.held_out[row] for row in rows]) for rows in batches)

    def digest(self) -> str:
        """A digest of all sequences, in order."""
        hashed = hashlib.sha256()
        for example in (*self.training, *self.held_out):
            hashed.update(json.dumps(example, sort_keys=True).encode())
        return hashed.hexdigest()


def lengths_of(examples: Sequence[Example]) -> list[int]:
    """Tokens of each sequence."""
    return [len(example["input_ids"]) for example in examples]


def set_aside(sequences: Sequence[Example], held_out: int, filler: Any, seed: int) -> Sequences:
    """Draw sequences to be held out, at most ``held_out`` and a tenth of all; ``filler``, if not None, pads batches."""
    order = torch.randperm(len(sequences), generator=torch.Generator().manual_seed(seed)).tolist()
    aside = max(1, min(held_out, len(sequences) // 10))
    return Sequences(
        training=[sequences[i] for i in order[aside:]],
        held_out=[sequences[i] for i in order[:aside]],
        pad=0 if filler is None else filler,  # masked out, so any id works
    )


def with_passages(lines: Sequence[str], seed: int) -> list[str]:
    """Texts of one line, and among them passages of several lines that follow one another."""
    chance, texts, start = random.Random(seed), list[str](), 0
    while start < len(lines):
        count = chance.randint(*PASSAGE) if chance.random() < PASSAGES else 1
        texts.append(" ".join(lines[start : start + count]))
        start += count
    return texts


def tokenise(
    files: Sequence[str | Path],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    progress: bool,
    passages: int | None = None,
) -> list[Example]:
    """The sequences of UTF-8 text files, special tokens included: a line each, or a passage of several.

    A longer line becomes several sequences; of equal lines only the first is used. ``passages`` is the seed of
    `with_passages`; None makes none.

    Raises:
        ValueError: If a file is unusable.
    """
    lines = list(dict.fromkeys(read_lines(files, progress)))  # a repeated line must not be trained on and held out
    lines = lines if passages is None else with_passages(lines, passages)
    options = {"return_attention_mask": False, "return_overflowing_tokens": True}
    encoded = encode_lines(lines, tokenizer, max_length, progress, **options)
    return [{"input_ids": ids} for part in encoded for ids in part["input_ids"]]


def tokenise_stream(
    files: Sequence[str | Path], tokenizer: PreTrainedTokenizerBase, length: int, progress: bool, least: int = 1
) -> list[Example]:
    """The sequences of text files as a causal language model reads them: windows of one stream of lines.

    Windows do not overlap. They have ``length`` tokens, or fewer in a short text, so that there are ``least`` of them.
    If the tokenizer starts texts with a special token, each starts with it.

    Raises:
        ValueError: If a file is unusable.
    """
    lines = [f"{line}\n" for line in dict.fromkeys(read_lines(files, progress))]
    options = {"return_attention_mask": False, "add_special_tokens": False, "verbose": False}
    encoded = encode_lines(lines, tokenizer, None, progress, **options)
    stream = [token for part in encoded for ids in part["input_ids"] for token in ids]
    begin = first_token(tokenizer)
    before = [] if begin is None else [begin]
    room = max(1, min(length - len(before), len(stream) // least))
    starts = range(0, len(stream) - room + 1, room)
    return [{"input_ids": [*before, *stream[start : start + room]]} for start in starts]


def with_own_labels(
    sequences: Sequences, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, seed: int
) -> Sequences:
    """Add the labels of a language model: masked tokens or next tokens, by the class of the model.

    A sequence is masked once, the same in every epoch, as in BERT's first training.

    Raises:
        ValueError: If the model is no language model, or a masked one's tokenizer has no mask token.
    """
    name = type(model).__name__
    kind = next((kind for kind in (MASKED, CAUSAL) if name in CLASSES[kind]), None)
    if kind is None or model.config.is_encoder_decoder:
        raise ValueError(f"{name} is no masked or causal language model; leave language_model out")
    mask: Any = tokenizer.mask_token_id
    if kind == MASKED and mask is None:
        raise ValueError(f"the tokenizer of {name} has no mask token; leave language_model out")
    vocabulary, special = min(len(tokenizer), table_rows(model)), set(tokenizer.all_special_ids)
    draw = random.Random(seed)

    def label(ids: list[int]) -> Example:
        if kind == CAUSAL:
            return {"input_ids": ids, "labels": ids}  # the model shifts them itself
        tokens = [None if token in special else place for place, token in enumerate(ids)]  # single, not whole words
        places = set(choose_places(tokens, MASK_PROBABILITY, draw))
        inputs = [replacement(t, mask, vocabulary, draw) if i in places else t for i, t in enumerate(ids)]
        return {"input_ids": inputs, "labels": [t if i in places else UNSCORED for i, t in enumerate(ids)]}

    parts = [[label(row["input_ids"]) for row in part] for part in (sequences.training, sequences.held_out)]
    training, held_out = ([row for row in part if set(row["labels"]) != {UNSCORED}] for part in parts)
    if not training or bool(held_out) != bool(sequences.held_out):
        raise ValueError("too few sequences have a token that can be masked; does the tokenizer know the text?")
    return Sequences(training, held_out, sequences.pad)


def ready(batch: Batch, model: nn.Module, device: torch.device) -> Batch:
    """A batch on the device, with the decoder's input if the model has an encoder and a decoder."""
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    config: Any = model.config
    if config.is_encoder_decoder:
        batch["decoder_input_ids"] = batch["input_ids"]
    return batch


def batch_plan(lengths: Sequence[int], batch_size: int, batches: int, seed: int) -> list[list[int]]:
    """Numbers of the sequences of each batch of a whole run.

    Each epoch has a new order; pools of batches are sorted by length and their batches shuffled. An incomplete batch
    is left out, unless there is no other.
    """
    plan: list[list[int]] = []
    generator, full = torch.Generator().manual_seed(seed + 1), len(lengths) // batch_size * batch_size or len(lengths)
    while len(plan) < batches:
        order = torch.randperm(len(lengths), generator=generator)[:full].tolist()
        for start in range(0, full, POOL * batch_size):
            pool = order[start : start + POOL * batch_size]
            made = list(by_length([lengths[row] for row in pool], batch_size, longest_first=False))
            plan += [[pool[i] for i in made[j]] for j in torch.randperm(len(made), generator=generator).tolist()]
    return plan[:batches]
