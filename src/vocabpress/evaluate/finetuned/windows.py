"""Overlapping windows of paragraphs that are longer than a model's input, and the best answer of all windows."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vocabpress.evaluate.finetuned.training import INPUTS, map_rows

if TYPE_CHECKING:
    from datasets import Dataset

QUESTION_TOKENS = 64  # longer questions are cut, as in BERT's code
ANSWER_TOKENS = 30
BEST = 20  # best starts and ends whose pairs are tried
MARGIN = 8  # tokens of a window for special ones, and for progress


def split_paragraphs(
    questions: "Dataset",
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    stride: int,
    progress: bool = False,
) -> "Dataset":
    """Windows of all questions, in their order, each the question and a part of its paragraph.

    A window has at most ``max_length`` tokens, and shares ``stride`` of the paragraph's with the next. The first answer
    of each question is the target.

    Returns:
        The model's inputs, and ``question``, the number of the question; ``offsets``, (tokens, 2), the characters of
        the paragraph that each token covers, -1 for other tokens; ``absent``, the token whose logits mean that the
        window has no answer; ``start_positions`` and ``end_positions``, the first and the last token of the answer,
        both at ``absent`` if it is not in the window.
    """
    if not tokenizer.is_fast:
        raise ValueError("SQuAD needs a fast tokenizer (tokenizer.json), which knows the characters of its tokens")
    limit = min(QUESTION_TOKENS, max_length - stride - MARGIN)

    def split(columns: dict[str, list[Any]], numbers: list[int]) -> dict[str, list[Any]]:
        asked = [text.lstrip() for text in columns["question"]]
        options: dict[str, Any] = {"truncation": True, "max_length": limit, "return_offsets_mapping": True}
        cut = tokenizer(asked, add_special_tokens=False, **options)["offset_mapping"]
        encoded = tokenizer(
            [text[: part[-1][1] if part else 0] for text, part in zip(asked, cut, strict=True)],
            columns["context"],
            truncation="only_second",
            max_length=max_length,
            stride=stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        found: dict[str, list[Any]] = {name: encoded[name] for name in INPUTS if name in encoded}
        new = [
            _columns_of(encoded, index, numbers[place], columns["answers"][place], tokenizer.cls_token_id)
            for index, place in enumerate(encoded["overflow_to_sample_mapping"])
        ]
        return found | {name: [window[name] for window in new] for name in new[0]}

    return map_rows(questions, split, questions.column_names, progress)


def _columns_of(encoded: Any, index: int, question: int, answers: dict[str, list], cls: Any) -> dict[str, Any]:
    """The columns of one window of a batch besides the model's inputs."""
    ids = encoded["input_ids"][index]
    in_context = np.asarray([part == 1 for part in encoded.sequence_ids(index)])
    offsets = np.where(in_context[:, None], np.asarray(encoded["offset_mapping"][index]), -1)
    absent = ids.index(cls) if cls in ids else 0
    first, last = absent, absent
    if answers["text"]:
        start = answers["answer_start"][0]
        first, last = _tokens_of(offsets, start, start + len(answers["text"][0])) or (absent, absent)
    found = {"question": question, "offsets": offsets.tolist(), "absent": absent}
    return found | {"start_positions": first, "end_positions": last}


def _tokens_of(offsets: np.ndarray, start: int, end: int) -> tuple[int, int] | None:
    """First and last token of the characters from start to end; None if some are outside of the window."""
    inside = np.flatnonzero(offsets[:, 0] >= 0)
    if len(inside) == 0 or offsets[inside[0], 0] > start or offsets[inside[-1], 1] < end:
        return None
    return int(inside[offsets[inside, 0] <= start][-1]), int(inside[offsets[inside, 1] >= end][0])


def best_span(start: Tensor, end: Tensor, offsets: np.ndarray) -> tuple[float, int, int] | None:
    """The score, first character and end of a window's span with the highest sum of logits.

    The 20 best starts and ends, logits of shape (tokens), are combined. A span lies in the paragraph (``offsets`` of
    `split_paragraphs`) and has at most 30 tokens. None if there is no span.
    """
    starts, ends = start.topk(min(BEST, len(start))), end.topk(min(BEST, len(end)))
    scores = starts.values[:, None] + ends.values[None, :]
    length = ends.indices[None, :] - starts.indices[:, None] + 1
    inside = torch.from_numpy(offsets[:, 0] >= 0)
    fits = inside[starts.indices][:, None] & inside[ends.indices][None, :] & (length > 0) & (length <= ANSWER_TOKENS)
    if not bool(fits.any()):
        return None
    best = int(scores.masked_fill(~fits, -torch.inf).argmax())
    first, last = int(starts.indices[best // len(ends.indices)]), int(ends.indices[best % len(ends.indices)])
    return float(scores.flatten()[best]), int(offsets[first, 0]), int(offsets[last, 1])


def answers(
    contexts: Sequence[str],
    windows: Iterable[Any],
    logits: Sequence[tuple[Tensor, ...]],
    may_be_absent: bool,
) -> list[str]:
    """The answer to each question, in its paragraph of ``contexts``: the best span of all its windows.

    With ``may_be_absent`` it is empty if the lowest sum of logits at the windows' ``absent`` tokens is higher: the rule
    of BERT's code for SQuAD 2.0, with threshold 0. The ``logits`` of each window, of starts and of ends, may be padded.
    """
    found = [""] * len(contexts)
    scores = [-float("inf")] * len(contexts)
    nothing = [float("inf")] * len(contexts)
    for window, (start, end) in zip(windows, logits, strict=True):
        place, absent, offsets = window["question"], window["absent"], np.asarray(window["offsets"])
        nothing[place] = min(nothing[place], float(start[absent] + end[absent]))
        span = best_span(start[: len(offsets)], end[: len(offsets)], offsets)
        if span is not None and span[0] > scores[place]:
            scores[place] = span[0]
            found[place] = contexts[place][span[1] : span[2]]
    if not may_be_absent:
        return found
    return ["" if none > score else text for text, score, none in zip(found, scores, nothing, strict=True)]
