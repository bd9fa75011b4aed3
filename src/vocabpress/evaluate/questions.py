"""Questions about paragraphs, in the JSON files of SQuAD (Rajpurkar et al., EMNLP 2016 and ACL 2018)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_layout(file: Path) -> list[dict[str, Any]]:
    """The questions of one file, in its order; a ValueError if it is not in SQuAD's layout, or holds none.

    Each has ``id``, ``question``, ``context``, and ``answers``: several people's ``text`` and ``answer_start``, its
    first character in the context; empty without an answer.
    """
    try:
        questions = list(_questions(json.loads(file.read_text(encoding="utf-8"))))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{file} is not whole JSON (line {error.lineno}, column {error.colno}); download it again"
        ) from None
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not UTF-8; download it again") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is not in SQuAD's layout ({error}); give the official JSON") from None
    if not questions:
        raise ValueError(f"{file} holds no paragraph with a question; give SQuAD's own file")
    return questions


def _questions(stored: Any) -> Iterator[dict[str, Any]]:
    for paragraph in (paragraph for article in stored["data"] for paragraph in article["paragraphs"]):
        for item in paragraph["qas"]:
            texts = [answer["text"] for answer in item["answers"]]
            starts = [int(answer["answer_start"]) for answer in item["answers"]]
            yield {
                "id": str(item["id"]),
                "question": item["question"],
                "context": paragraph["context"],
                "answers": {"text": texts, "answer_start": starts},
            }
