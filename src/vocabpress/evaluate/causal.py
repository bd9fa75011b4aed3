"""Perplexity of a causal language model over a whole text, in windows that overlap by half.

The text is one stream, its lines joined by line feeds. Windows advance by half their length and score the tokens that
no earlier window scored, so that all but the first tokens have at least half a window of context (the strided
perplexity of transformers' documentation). If the tokenizer starts texts with a special token, each window starts with
it; else the first token of the text is not scored.

A tied head reads the compressed table, as the input does, because the checkpoint has no other. If the original is
given, the predictions are compared with its own, and the head is also tried with the original's table.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field

from vocabpress.evaluate.language import CAUSAL, load_language_model, longest_input, tokens_of
from vocabpress.evaluate.scores import ScoredSequence, averages, score
from vocabpress.evaluate.task import Measurement, Subject, Task
from vocabpress.settings import AtLeast1


@dataclass(frozen=True)
class CausalPerplexity(Task):
    """Task ``clm``."""

    reads_text: ClassVar[bool] = True

    window: Annotated[int, Field(ge=4)] = 512  # tokens, at most what the model reads
    batch_size: AtLeast1 = 4  # windows at a time; the result does not depend on it
    subset: AtLeast1 | None = None  # lines to take from the start of the text; None takes all

    def measure(self, subject: Subject) -> Measurement:
        text = "\n".join(subject.lines("perplexity")[: self.subset])
        model, tokenizer = load_language_model(subject, CAUSAL)
        ids = tokens_of(text, tokenizer, model)
        if len(ids) < 2:
            raise ValueError("the text is a single token, nothing to predict; give more text")
        windows = overlapping_windows(ids, first_token(tokenizer), longest_input(model, tokenizer, self.window))
        scores, deciles = score(subject, model, CAUSAL, windows, ids, self.batch_size, filler=0)
        nats, size = scores["nll"], len(text.encode())
        metrics = {
            **averages(scores, {name: name.replace("nll", "perplexity") for name in scores}),
            "nll_per_token": float(nats.mean()),
            "bits_per_byte": float(nats.sum()) / math.log(2) / size,
            "tokens": float(len(nats)),
        }
        return Measurement(metrics, {"bytes": size, "nll_deciles": deciles})


def first_token(tokenizer: Any) -> int | None:
    """The token that the tokenizer adds before a text, or None."""
    plain, special = (tokenizer("a", add_special_tokens=add)["input_ids"] for add in (False, True))
    begins = tokenizer.bos_token_id is not None and special[:1] == [tokenizer.bos_token_id] != plain
    return special[0] if begins else None


def overlapping_windows(ids: Sequence[int], begin: int | None, length: int) -> list[ScoredSequence]:
    """Windows of ``length`` tokens, at least 4, over a stream; each token is scored once.

    Each window starts with the token ``begin``; if that is None, the first token of the stream is not scored.
    """
    before = [] if begin is None else [begin]
    room = length - len(before)
    windows, done = [], 0 if before else 1
    for start in range(0, len(ids), room // 2):
        end = min(start + room, len(ids))
        if end > done:
            inputs, known = [*before, *ids[start:end]], len(before) + done - start
            # The logits at a position predict the next token.
            windows.append(ScoredSequence(inputs, range(known - 1, len(inputs) - 1), inputs[known:]))
            done = end
    return windows
