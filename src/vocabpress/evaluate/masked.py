"""Zero-shot perplexity of masked tokens, by the protocol of "Direction is what you need".

The protocol (Balazy et al., RepL4NLP 2021, read off their code): line by line, at most 512 tokens; the "=" of headings
removed, then lines of fewer than 20 words dropped; whole-word masking of 15 %; a fixed seed; ``exp`` of the mean loss.
Ours: one masking, drawn line after line, so that it depends on the text and the seed and not on the batches, and the
mean is over all masked tokens, not over batches.

In their code the output head still read the original's table: swapping in a new input parameter untied it. A
checkpoint that stores the compressed table alone has no other table to read at its tied head. Both are measured, under
names that say which is which.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from vocabpress.evaluate.batches import encode_lines
from vocabpress.evaluate.language import (
    MASKED,
    ScoredSequence,
    load_language_model,
    longest_input,
    perplexity,
    score,
    table_rows,
)
from vocabpress.evaluate.task import Measurement, Subject, Task

BECOMES_MASK, BECOMES_RANDOM = 0.8, 0.1  # the rest stays as it is, as in BERT


@dataclass(frozen=True)
class MaskedPerplexity(Task):
    """Task ``mlm``.

    Attributes:
        block: Tokens of a line at most; less where the model reads fewer.
        mask_probability: Share of a line's tokens that are masked.
        min_tokens: Words, separated by spaces, of the shortest line that is read.
        batch_size: Lines at a time; the result does not depend on it.
        subset: Lines to take from the start of those long enough; None takes all.
    """

    seeded: ClassVar[bool] = True
    reads_text: ClassVar[bool] = True
    minimum: ClassVar[Mapping[str, int]] = {"block": 8, "batch_size": 1, "subset": 1}

    block: int = 512
    mask_probability: float = 0.15
    min_tokens: int = 20
    batch_size: int = 8
    subset: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.mask_probability < 1:
            raise ValueError(f"mask_probability is between 0 and 1, got {self.mask_probability}")

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
        nats, deciles = score(subject, model, MASKED, masked, text, self.batch_size, tokenizer.pad_token_id or 0)
        named = {"nll": "head_compressed", "nll_head_original": "head_original", "nll_original": "original"}
        metrics = {f"perplexity_{named[name]}": perplexity(loss) for name, loss in nats.items()}
        details = {"lines": len(masked), "nll_deciles": deciles}
        return Measurement(metrics | {"tokens_masked": float(len(nats["nll"]))}, details)


def long_lines(lines: Sequence[str], min_tokens: int) -> list[str]:
    """The lines without "=" tokens, those with fewer than so many words left out."""
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
    """Tokenise lines and mask whole words of each, as the tokenizer splits them; lines that have none are left out.

    Args:
        lines: Text.
        tokenizer: A fast one, with a mask token.
        vocabulary: Tokens that a random replacement is drawn from.
        length: Tokens of a line at most, special ones included.
        probability: Share of the tokens to mask.
        seed: Decides words and replacements.
        progress: Whether to draw a progress bar.

    Raises:
        ValueError: If nothing is masked.
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
    """The tokens of a line before some were masked."""
    right = dict(zip(line.places, line.targets, strict=True))
    return [right.get(place, token) for place, token in enumerate(line.inputs)]


def choose_places(words: Sequence[int | None], probability: float, draw: random.Random) -> list[int]:
    """Which tokens of a line to mask: whole words in random order, as long as they fit into the share.

    BERT's rule: the share is at least one token; a word that would exceed it is passed over, and the next is tried.
    ``words`` has for each token the number of its word, None for special tokens, which the share does not count.
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
    """What stands for a masked token: the mask, or a random token, or itself, as in BERT."""
    chance = draw.random()
    if chance < BECOMES_MASK:
        return mask
    return draw.randrange(vocabulary) if chance < BECOMES_MASK + BECOMES_RANDOM else token
