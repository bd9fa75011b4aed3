"""SQuAD, fine-tuned: exact match and F1 on the development questions.

The protocol is that of BERT (Devlin et al., NAACL 2019) and transformers' ``run_qa``: windows of the paragraph, logits
of the start and of the end of the answer, the best span of all windows. Papers often tune the threshold of version 2.0
on the development set. Here it is always 0, because nothing is tuned on reported data.

The data are the official JSON files (Rajpurkar et al., EMNLP 2016 and ACL 2018), or the same from the hub. The hidden
test set is not public.
"""

from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from transformers import AutoModelForQuestionAnswering

from vocabpress.evaluate.finetuned.glue import choose
from vocabpress.evaluate.finetuned.glue_data import load_hub
from vocabpress.evaluate.finetuned.trainer import fine_tune, predict
from vocabpress.evaluate.finetuned.training import FineTuningTask, Length, need, prepare
from vocabpress.evaluate.finetuned.windows import MARGIN, answers, split_paragraphs
from vocabpress.evaluate.questions import read_layout
from vocabpress.evaluate.task import Measurement, Subject
from vocabpress.settings import AtLeast0, AtLeast1, Positive

if TYPE_CHECKING:
    from datasets import Dataset

HUB = {"1.1": "rajpurkar/squad", "2.0": "rajpurkar/squad_v2"}


def read_squad(version: str, subject: Subject) -> "tuple[Dataset, Dataset]":
    """Training and development questions, as in `read_questions`; the hub's without a folder."""
    if subject.data is None:
        splits = load_hub(HUB[version])
        return splits["train"], splits["validation"]
    train, dev = (f"{split}-v{version}.json" for split in ("train", "dev"))
    files = (subject.file(f"SQuAD/{name}", f"squad/{name}") for name in (train, dev))
    train, dev = (read_questions(file, version) for file in files)
    return train, dev


def read_questions(file: Path, version: str) -> "Dataset":
    """The questions of one file, with the hub's columns, which are those of `read_layout`.

    A ValueError, too, if an id is there twice, an answer not at its place, or in version 1.1 a question has none.
    """
    questions = read_layout(file)
    seen: set[str] = set()
    for question in questions:
        name, answers = f"{file}: question {question['id']}", question["answers"]
        if question["id"] in seen:
            raise ValueError(f"{file}: the id {question['id']} occurs twice; give SQuAD's own file")
        if version == "1.1" and not answers["text"]:
            raise ValueError(f"{name} has no answer; that is version 2.0, use squad2")
        for text, start in zip(*answers.values(), strict=True):
            if start < 0 or not question["context"].startswith(text, start):
                raise ValueError(f"{name}: the answer {text!r} is not at character {start} of its paragraph")
        seen.add(question["id"])
    return need("datasets").Dataset.from_list(questions)


def squad_metrics(questions: Iterable[Any], found: Sequence[str]) -> dict[str, float]:
    """Exact match and F1 of an answer to each question, times 100, as in the official scripts.

    Returns:
        ``exact_match`` and ``f1``; if some questions have no answer, for which ``""`` is right, also
        ``exact_match_answerable``, ``f1_answerable`` and ``accuracy_unanswerable``, each over those questions.
    """
    answered = list(zip(questions, found, strict=True))
    metrics = _scores(answered)
    some, none = ([each for each in answered if bool(each[0]["answers"]["text"]) == kind] for kind in (True, False))
    if none:
        metrics["accuracy_unanswerable"] = _scores(none)["exact_match"]
    if none and some:
        metrics |= {f"{name}_answerable": value for name, value in _scores(some).items()}
    return metrics


def _scores(answered: Sequence[tuple[Any, str]]) -> dict[str, float]:
    predicted = [{"id": question["id"], "prediction_text": text} for question, text in answered]
    wanted = [
        {"id": question["id"], "answers": question["answers"] | {"text": question["answers"]["text"] or [""]}}
        for question, _ in answered
    ]
    scores = need("torchmetrics.functional.text").squad(predicted, wanted)
    return {name: float(value) for name, value in scores.items()}


@dataclass(frozen=True)
class Squad(FineTuningTask):
    """Extractive question answering; a row is a window of a question's paragraph."""

    version: Literal["1.1", "2.0"] = "1.1"  # 2.0 has questions without an answer
    _: KW_ONLY
    epochs: AtLeast1 = 2
    learning_rate: Positive = 3e-5
    max_length: Length = 384
    stride: AtLeast0 = 128  # overlap of neighbouring windows, in tokens

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_length < self.stride + 2 * MARGIN:
            raise ValueError(
                f"max_length is at least stride + {2 * MARGIN}, got {self.max_length} with stride {self.stride}"
            )

    def measure(self, subject: Subject) -> Measurement:
        questions, dev = read_squad(self.version, subject)
        questions = choose(questions, self.subset)
        model, tokenizer = prepare(subject, AutoModelForQuestionAnswering, self.max_length)
        windows, asked = (
            split_paragraphs(part, tokenizer, self.max_length, self.stride, subject.progress)
            for part in (questions, dev)
        )
        trained = fine_tune(model, tokenizer, windows, self, subject)
        logits = predict(model, tokenizer, asked, ("start_logits", "end_logits"), self, subject.progress)
        found = answers(list(dev["context"]), asked, logits, may_be_absent=self.version == "2.0")
        sizes = {"train": len(questions), "train_windows": len(windows), "dev": len(dev)}
        return Measurement(squad_metrics(dev, found), {"rows": sizes, "trained_parameters": trained})
