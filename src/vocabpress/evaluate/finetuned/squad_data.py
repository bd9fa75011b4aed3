"""SQuAD's files: questions on paragraphs, with answers that are spans of them.

Read are the official JSON files (Rajpurkar et al., EMNLP 2016 and ACL 2018), or the same data from the hub. The hidden
test set is not public.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vocabpress.evaluate.finetuned.glue_data import load_hub
from vocabpress.evaluate.task import Subject

HUB = {"1.1": "rajpurkar/squad", "2.0": "rajpurkar/squad_v2"}


@dataclass(frozen=True)
class Question:
    """A question.

    Attributes:
        key: Its id.
        text: What is asked.
        context: The paragraph.
        answers: (text, first character in the context); several people's; empty where there is none.
    """

    key: str
    text: str
    context: str
    answers: tuple[tuple[str, int], ...]


def read_squad(version: str, subject: Subject) -> tuple[list[Question], list[Question]]:
    """Training and development questions.

    Args:
        version: ``"1.1"`` or ``"2.0"``.
        subject: Says where the data is; the hub where it says nothing.

    Raises:
        ValueError: If a file is missing or not as SQuAD has it, or the hub can't be reached.
    """
    if subject.data is None:
        splits = load_hub(HUB[version])
        return [_from_hub(row) for row in splits["train"]], [_from_hub(row) for row in splits["validation"]]
    train, dev = (
        read_questions(subject.file(f"SQuAD/{split}-v{version}.json", f"squad/{split}-v{version}.json"), version)
        for split in ("train", "dev")
    )
    return train, dev


def read_questions(file: Path, version: str) -> list[Question]:
    """The questions of one file.

    Raises:
        ValueError: If the file is not whole JSON in SQuAD's layout, holds no paragraph or an id twice, if an answer is
            not where it is said to be, or if version 1.1 has a question without answers.
    """
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        found = list(_questions(stored))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{file} is not whole JSON (line {error.lineno}, column {error.colno}); download it again"
        ) from None
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not UTF-8; download it again") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is not in SQuAD's layout ({error}); give the official JSON") from None
    if not found:
        raise ValueError(f"{file} holds no paragraph with a question; give SQuAD's own file")
    seen: set[str] = set()
    for question in found:
        _check(question, file, version)
        if question.key in seen:
            raise ValueError(f"{file}: the id {question.key} occurs twice; give SQuAD's own file")
        seen.add(question.key)
    return found


def _questions(stored: Any) -> Iterator[Question]:
    for article in stored["data"]:
        for paragraph in article["paragraphs"]:
            context = paragraph["context"]
            for item in paragraph["qas"]:
                answers = tuple((answer["text"], int(answer["answer_start"])) for answer in item["answers"])
                yield Question(str(item["id"]), item["question"], context, answers)


def _check(question: Question, file: Path, version: str) -> None:
    if version == "1.1" and not question.answers:
        raise ValueError(f"{file}: question {question.key} has no answer; that is version 2.0, use squad2")
    for text, start in question.answers:
        if start < 0 or question.context[start : start + len(text)] != text:
            raise ValueError(
                f"{file}: question {question.key}: the answer {text!r} is not at character {start} of its paragraph"
            )


def _from_hub(row: dict[str, Any]) -> Question:
    answers = tuple(zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True))
    return Question(row["id"], row["question"], row["context"], answers)
