"""Zero-shot perplexity of masked tokens, by the protocol of "Direction is what you need".

The protocol (Balazy et al., RepL4NLP 2021, from their code): line by line, at most 512 tokens; the "=" of headings
removed, then lines of fewer than 20 words dropped; whole-word masking of 15 %; a fixed seed; ``exp`` of the mean loss.
Our changes: one masking, drawn line after line, which depends on the text and the seed but not on the batches; and the
mean is over all masked tokens, not over batches.

In their code the output head still read the original's table, because the new input parameter untied it. The tied head
of a checkpoint that stores only the compressed table has no other table. Both are measured, under separate names.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field

from vocabpress.evaluate.batches import encode_lines
from vocabpress.evaluate.language import MASKED, load_language_model, longest_input, table_rows
from vocabpress.evaluate.scores import ScoredSequence, averages, score
from vocabpress.evaluate.task import Measurement, Subject, Task
from vocabpress.settings import AtLeast1

BECOMES_MASK, BECOMES_RANDOM = 0.8, 0.1  # others do not change, as in BERT


@dataclass(frozen=True)
class MaskedPerplexity(Task):
    """Task ``mlm``."""

    seeded: ClassVar[bool] = True
    reads_text: ClassVar[bool] = True

    block: Annotated[int, Field(ge=8)] = 512  # tokens of a line, at most what the model reads
    mask_probability: Annotated[float, Field(gt=0, lt=1)] = 0.15  # share of a line's tokens that are masked
    min_tokens: int = 20  # of a line, counted in words that are separated by spaces; shorter ones are left out
    batch_size: AtLeast1 = 8  # lines at a time; the result does not depend on it
    subset: AtLeast1 | None = None  # lines to take from the start of those that are long enough; None takes all

    def measure(self, subject: Subject) -> Measurement:
        lines = long_lines(subject.lines("masked perplexity"), self.min_tokens)[: self.subset]
        if not lines:
            raise ValueError(f"no line of the text has {self.min_tokens} words; lower min_tokens, or give other text")
        model, tokenizer = load_language_model(subject, MASKED)
        if tokenizer.mask_token_id is None:
            raise ValueError("the tokenizer has no mask token; is this a masked language model?")
        if not tokenizer.is_fast:
            raise ValueError("whole-word masking needs a fast tokenizer (tokenizer.json), which knows its words")
        rows = min(len(tokenizer), table_rows(model))
        length = longest_input(model, tokenizer, self.block)
        masked = mask_lines(lines, tokenizer, rows, length, self.mask_probability, subject.seed, subject.progress)
        text = [token for line in masked for token in unmasked(line)]
        scores, deciles = score(subject, model, MASKED, masked, text, self.batch_size, tokenizer.pad_token_id or 0)
        named = {"nll": "head_compressed", "nll_head_original": "head_original", "nll_original": "original"}
        metrics = averages(scores, {name: f"perplexity_{ending}" for name, ending in named.items()})
        details = {"lines": len(masked), "nll_deciles": deciles}
        return Measurement(metrics | {"tokens_masked": float(len(scores["nll"]))}, details)


def long_lines(lines: Sequence[str], min_tokens: int) -> list[str]:
    """The lines without "=" tokens that have at least ``min_tokens`` words."""
    cleaned = ([word for word in line.split() if word != "="] for line in lines)
    return [" ".join(words) for words in cleaned if len(words) >= max(min_tokens, 1)]


def mask_lines(
    lines: Sequence[str],
    tokenizer: Any,
    vocabulary: int,
    length: int,
    probability: float,
    seed: int,
    progress: bool = False,
) -> list[ScoredSequence]:
    """Tokenise lines and mask whole words of each, as the tokenizer splits them; lines without words are left out.

    A line has at most ``length`` tokens; random replacements are drawn from the first ``vocabulary`` tokens.
    """
    draw, found = random.Random(seed), []
    for encoded in encode_lines(lines, tokenizer, length, progress):
        for row, ids in enumerate(encoded["input_ids"]):
            places = choose_places(encoded.word_ids(row), probability, draw)
            inputs = list(ids)
            for place in places:
                inputs[place] = replacement(ids[place], tokenizer.mask_token_id, vocabulary, draw)
            if places:
                found.append(ScoredSequence(inputs, places, [ids[place] for place in places]))
    if not found:
        raise ValueError("no line holds a word that can be masked; does the tokenizer belong to the text's language?")
    return found


def unmasked(line: ScoredSequence) -> list[int]:
    """The tokens of a line before masking."""
    right = dict(zip(line.places, line.targets, strict=True))
    return [right.get(place, token) for place, token in enumerate(line.inputs)]


def choose_places(words: Sequence[int | None], probability: float, draw: random.Random) -> list[int]:
    """Positions to mask in a line: whole words in random order, as long as they fit into the share.

    BERT's rule: the share is at least one token; a word that would exceed it is skipped.
    ``words`` has for each token the number of its word, None for special tokens, which do not count for the share.
    """
    groups: dict[int, list[int]] = {}
    for place, word in enumerate(words):
        if word is not None:
            groups.setdefault(word, []).append(place)
    most = max(1, round(probability * sum(map(len, groups.values()))))
    order = list(groups.values())
    draw.shuffle(order)
    chosen: list[int] = []
    for places in order:
        if len(chosen) + len(places) <= most:
            chosen += places
    return sorted(chosen)


def replacement(token: int, mask: int, vocabulary: int, draw: random.Random) -> int:
    """The input for a masked token: the mask, a random token, or itself, as in BERT."""
    chance = draw.random()
    if chance < BECOMES_MASK:
        return mask
    return draw.randrange(vocabulary) if chance < BECOMES_MASK + BECOMES_RANDOM else token
