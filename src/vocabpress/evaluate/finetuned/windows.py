"""Long paragraphs for short models: overlapping windows, and the answer that their logits say together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vocabpress.evaluate.finetuned.rows import Rows
from vocabpress.evaluate.finetuned.squad_data import Question
from vocabpress.progress import Bar

QUESTION_TOKENS = 64  # longer questions are cut, as in BERT's code
ANSWER_TOKENS = 30
BEST = 20  # starts, and ends, that are looked at
QUESTIONS_PER_CALL = 64
INPUTS = {"input_ids", "token_type_ids"}
MARGIN = 8  # tokens of a window for special ones, and for the window to move on


@dataclass(frozen=True)
class Windows:
    """Windows of questions, each the question and a part of its paragraph.

    Attributes:
        rows: Tokens, and where the answer starts and ends in them; both at `absent` where it is not in the window.
        question: For each window the index of its question.
        offsets: For each window the characters of the paragraph that its tokens stand for, shape (tokens, 2); -1 for
            tokens that are none of it.
        absent: For each window the token whose logits say that it holds no answer.
    """

    rows: Rows
    question: list[int]
    offsets: list[np.ndarray]
    absent: list[int]


def cut(
    questions: Sequence[Question],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    stride: int,
    progress: bool = False,
) -> Windows:
    """Windows of all questions, in their order.

    Args:
        questions: The first answer of each is the one to learn.
        tokenizer: A fast one, which knows the characters of its tokens.
        max_length: Tokens of a window, question and special tokens included.
        stride: Tokens of the paragraph that two neighbouring windows share.
        progress: Whether to draw a progress bar.

    Raises:
        ValueError: If the tokenizer is not fast.
    """
    if not tokenizer.is_fast:
        raise ValueError("SQuAD needs a fast tokenizer (tokenizer.json), which knows the characters of its tokens")
    inputs: dict[str, list[np.ndarray]] = {}
    labels: dict[str, list[float]] = {"start_positions": [], "end_positions": []}
    windows = Windows(Rows(inputs, labels), [], [], [])  # pyright: ignore[reportArgumentType]
    limit = min(QUESTION_TOKENS, max_length - stride - MARGIN)
    with Bar(total=len(questions), desc="tokenising", disable=not progress) as bar:
        for start in range(0, len(questions), QUESTIONS_PER_CALL):
            part = questions[start : start + QUESTIONS_PER_CALL]
            encoded = tokenizer(
                _shortened([question.text.lstrip() for question in part], tokenizer, limit),
                [question.context for question in part],
                truncation="only_second",
                max_length=max_length,
                stride=stride,
                return_overflowing_tokens=True,
                return_offsets_mapping=True,
            )
            for index in range(len(encoded["input_ids"])):
                _add(windows, encoded, index, start, questions, tokenizer.cls_token_id)
            bar.update(len(part))
    return windows


def _shortened(texts: list[str], tokenizer: PreTrainedTokenizerBase, limit: int) -> list[str]:
    """The texts up to the last of ``limit`` tokens."""
    encoded = tokenizer(texts, add_special_tokens=False, truncation=True, max_length=limit, return_offsets_mapping=True)
    ends = [offsets[-1][1] if offsets else 0 for offsets in encoded["offset_mapping"]]
    return [text[:end] for text, end in zip(texts, ends, strict=True)]


def _add(windows: Windows, encoded: Any, index: int, first: int, questions: Sequence[Question], cls: Any) -> None:
    """Append one window of a batch whose first question is number ``first``."""
    ids = encoded["input_ids"][index]
    place = first + encoded["overflow_to_sample_mapping"][index]
    in_context = np.asarray([part == 1 for part in encoded.sequence_ids(index)])
    offsets = np.where(in_context[:, None], np.asarray(encoded["offset_mapping"][index], dtype=np.int32), -1)
    absent = ids.index(cls) if cls in ids else 0
    span = (absent, absent)
    if questions[place].answers:
        text, start = questions[place].answers[0]
        span = _tokens_of(offsets, start, start + len(text)) or span
    for name in INPUTS & encoded.keys():
        windows.rows.inputs.setdefault(name, []).append(np.asarray(encoded[name][index], dtype=np.int32))
    for name, position in zip(("start_positions", "end_positions"), span, strict=True):
        windows.rows.labels[name].append(position)  # pyright: ignore[reportAttributeAccessIssue]
    windows.question.append(place)
    windows.offsets.append(offsets)
    windows.absent.append(absent)


def _tokens_of(offsets: np.ndarray, start: int, end: int) -> tuple[int, int] | None:
    """First and last token of the characters from start to end; None where the window does not hold them whole."""
    inside = np.flatnonzero(offsets[:, 0] >= 0)
    if len(inside) == 0 or offsets[inside[0], 0] > start or offsets[inside[-1], 1] < end:
        return None
    return int(inside[offsets[inside, 0] <= start][-1]), int(inside[offsets[inside, 1] >= end][0])


def best_span(start: Tensor, end: Tensor, offsets: np.ndarray) -> tuple[float, int, int] | None:
    """The span of a window with the highest sum of logits, and its characters.

    Looked at are the 20 best starts with the 20 best ends, in the paragraph, in order, at most 30 tokens long.

    Args:
        start: Logits, shape (tokens).
        end: Likewise.
        offsets: As in `Windows`.

    Returns:
        (score, first character, character after the last), or None where no pair is one.
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
    questions: Sequence[Question], windows: Windows, logits: Sequence[tuple[Tensor, ...]], may_be_absent: bool
) -> list[str]:
    """The answer to each question: the best span of all its windows.

    Where there may be none, it is empty if the lowest sum of logits at the windows' `absent` tokens is above the
    span's: the rule of BERT's code for SQuAD 2.0, its threshold at 0.

    Args:
        questions: As given to `cut`.
        windows: What it gave.
        logits: For each window those of starts and of ends, padded or not.
        may_be_absent: Whether a question may have no answer.
    """
    found = [""] * len(questions)
    scores = [-float("inf")] * len(questions)
    nothing = [float("inf")] * len(questions)
    for place, offsets, absent, (start, end) in zip(
        windows.question, windows.offsets, windows.absent, logits, strict=True
    ):
        nothing[place] = min(nothing[place], float(start[absent] + end[absent]))
        span = best_span(start[: len(offsets)], end[: len(offsets)], offsets)
        if span is not None and span[0] > scores[place]:
            scores[place] = span[0]
            found[place] = questions[place].context[span[1] : span[2]]
    if not may_be_absent:
        return found
    return ["" if none > score else text for text, score, none in zip(found, scores, nothing, strict=True)]
