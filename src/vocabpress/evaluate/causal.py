"""Perplexity of a causal language model over a whole text, in windows that overlap by half.

The text is one stream, its lines joined by line feeds. Each window moves on by half its length and scores the tokens
that no window before it scored, so that all but the first few have at least half a window of context (the strided
perplexity of transformers' documentation). Where the tokenizer begins texts with a token of its own, each window begins
with it; else the very first token of the text is context alone.

A tied head reads the compressed table, as the input does: a checkpoint that holds nothing else can't do otherwise. With
the original at hand its table is also tried at the head.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from vocabpress.evaluate.language import (
    CAUSAL,
    ScoredSequence,
    load_language_model,
    longest_input,
    perplexity,
    score,
    table_rows,
)
from vocabpress.evaluate.task import Measurement, Subject, Task


@dataclass(frozen=True)
class CausalPerplexity(Task):
    """Task ``clm``.

    Attributes:
        window: Tokens that the model sees at once; less where it reads fewer.
        batch_size: Windows at a time; the result does not depend on it.
        subset: Lines to take from the start of the text; None takes all.
    """

    reads_text: ClassVar[bool] = True
    minimum: ClassVar[Mapping[str, int]] = {"window": 4, "batch_size": 1, "subset": 1}

    window: int = 512
    batch_size: int = 4
    subset: int | None = None

    def measure(self, subject: Subject) -> Measurement:
        text = "\n".join(subject.lines("perplexity")[: self.subset])
        model, tokenizer = load_language_model(subject, CAUSAL)
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) < 2:
            raise ValueError("the text is a single token, nothing to predict; give more text")
        if max(ids) >= table_rows(model):
            raise ValueError(f"the tokenizer gives id {max(ids)}, the table has {table_rows(model)} rows")
        windows = overlapping_windows(ids, first_token(tokenizer), longest_input(model, tokenizer, self.window))
        nats, deciles = score(subject, model, CAUSAL, windows, ids, self.batch_size, filler=0)
        size = len(text.encode())
        metrics = {
            "perplexity": perplexity(nats["nll"]),
            "nll_per_token": float(nats["nll"].mean()),
            "bits_per_byte": float(nats["nll"].sum()) / math.log(2) / size,
            "tokens": float(len(nats["nll"])),
        }
        for name in nats.keys() - {"nll"}:
            metrics[name.replace("nll", "perplexity")] = perplexity(nats[name])
        return Measurement(metrics, {"bytes": size, "nll_deciles": deciles})


def first_token(tokenizer: Any) -> int | None:
    """The token that the tokenizer puts before a text by itself; None where it puts none."""
    plain, special = (tokenizer("a", add_special_tokens=add)["input_ids"] for add in (False, True))
    begins = tokenizer.bos_token_id is not None and special[:1] == [tokenizer.bos_token_id] != plain
    return special[0] if begins else None


def overlapping_windows(ids: Sequence[int], begin: int | None, length: int) -> list[ScoredSequence]:
    """Windows over a stream; every token is scored once, the first of all only where a token comes before it.

    Args:
        ids: The stream.
        begin: What stands before each window, or None.
        length: Tokens of a window, ``begin`` included, at least 4.
    """
    before = [] if begin is None else [begin]
    room = length - len(before)
    windows, done = [], 0 if before else 1
    for start in range(0, len(ids), room // 2):
        end = min(start + room, len(ids))
        if end > done:
            inputs, known = [*before, *ids[start:end]], len(before) + done - start
            # The logits at a position say what the next token is.
            windows.append(ScoredSequence(inputs, range(known - 1, len(inputs) - 1), inputs[known:]))
            done = end
    return windows
