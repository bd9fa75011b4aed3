"""SQuAD, fine-tuned: exact match and F1 on the development questions.

The protocol is that of BERT (Devlin et al., NAACL 2019) and transformers' ``run_qa``: windows of the paragraph, logits
of the start and of the end of the answer, the best span of all windows. The threshold of version 2.0, which papers
often tune on the development set, stays at 0: our choice, because nothing here is tuned on what is reported.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from transformers import AutoModelForQuestionAnswering

from vocabpress.evaluate.finetuned.glue import choose
from vocabpress.evaluate.finetuned.rows import padding
from vocabpress.evaluate.finetuned.squad_data import HUB, Question, read_squad
from vocabpress.evaluate.finetuned.training import Recipe, keep, need, predict, prepare, train
from vocabpress.evaluate.finetuned.windows import MARGIN, answers, cut
from vocabpress.evaluate.task import Measurement, Subject, Task


def squad_metrics(questions: Sequence[Question], found: Sequence[str]) -> dict[str, float]:
    """Exact match and F1, times 100, as the official scripts count them.

    Args:
        questions: A question without answers has the right answer ``""``.
        found: The answer to each.

    Returns:
        ``exact_match`` and ``f1``; where some questions have no answer, also ``exact_match_answerable``,
        ``f1_answerable`` and ``accuracy_unanswerable``, each over the questions that it names.
    """
    metrics = _scores(questions, found)
    groups = {kind: [i for i, q in enumerate(questions) if bool(q.answers) == kind] for kind in (True, False)}
    if groups[False]:
        none = _scores([questions[i] for i in groups[False]], [found[i] for i in groups[False]])
        metrics["accuracy_unanswerable"] = none["exact_match"]
        if groups[True]:
            some = _scores([questions[i] for i in groups[True]], [found[i] for i in groups[True]])
            metrics |= {f"{name}_answerable": value for name, value in some.items()}
    return metrics


def _scores(questions: Sequence[Question], found: Sequence[str]) -> dict[str, float]:
    need("torchmetrics")
    from torchmetrics.functional.text import squad

    predicted = [{"id": q.key, "prediction_text": text} for q, text in zip(questions, found, strict=True)]
    wanted = [
        {
            "id": q.key,
            "answers": {"text": [text for text, _ in q.answers] or [""], "answer_start": [at for _, at in q.answers]},
        }
        for q in questions
    ]
    scores = squad(predicted, wanted)  # pyright: ignore[reportArgumentType]
    return {name: float(value) for name, value in scores.items()}


@dataclass(frozen=True)
class Squad(Task):
    """Extractive question answering.

    Attributes:
        version: ``"1.1"``, or ``"2.0"`` with questions that have no answer.
        epochs: As in `Recipe`, and so are the next two.
        batch_size: Windows in a step.
        learning_rate: At the end of the warmup.
        max_length: Tokens of a window.
        stride: Tokens that neighbouring windows share.
        subset: Training questions, those of `choose`; None takes all.
        train_table: As in `Recipe`.
        precision: As in `Recipe`.
    """

    seeded: ClassVar[bool] = True
    fine_tunes: ClassVar[bool] = True

    version: str = "1.1"
    epochs: int = 2
    batch_size: int = 32
    learning_rate: float = 3e-5
    max_length: int = 384
    stride: int = 128
    subset: int | None = None
    train_table: bool = True
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.version not in HUB:
            raise ValueError(f"unknown version {self.version!r} of SQuAD; choose from {', '.join(HUB)}")
        if self.stride < 0 or self.max_length < self.stride + 2 * MARGIN:
            raise ValueError(
                f"max_length is at least stride + {2 * MARGIN}, got {self.max_length} with stride {self.stride}"
            )
        if self.subset is not None and self.subset < 1:
            raise ValueError(f"subset is at least 1, got {self.subset}")
        self.recipe()

    def recipe(self) -> Recipe:
        """The part of the fields that says how to train."""
        return Recipe(self.epochs, self.batch_size, self.learning_rate, self.train_table, self.precision)

    def measure(self, subject: Subject) -> Measurement:
        need("torchmetrics")
        questions, dev = read_squad(self.version, subject)
        questions = choose(questions, self.subset)
        model, tokenizer = prepare(subject, AutoModelForQuestionAnswering, self.max_length)
        collate = padding(tokenizer)
        windows = cut(questions, tokenizer, self.max_length, self.stride, subject.progress)
        trained = train(model, windows.rows, collate, self.recipe(), subject)
        keep(model, tokenizer, subject)
        asked = cut(dev, tokenizer, self.max_length, self.stride, subject.progress)
        logits = predict(model, asked.rows, collate, ("start_logits", "end_logits"), self.recipe(), subject)
        found = answers(dev, asked, logits, may_be_absent=self.version == "2.0")
        sizes = {"train": len(questions), "train_windows": len(windows.rows), "dev": len(dev)}
        return Measurement(squad_metrics(dev, found), {"rows": sizes, "trained_parameters": trained})
