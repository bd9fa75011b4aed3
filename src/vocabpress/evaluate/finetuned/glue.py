"""GLUE, fine-tuned: nine tasks on the development sets, and three data sets of another kind.

The protocol is that of transformers' ``run_glue``: the recipe of `training.py` beside this file on the training split,
the metrics of the benchmark (Wang et al., ICLR 2019) times 100 on the development split after the last epoch. No epoch
and no setting is chosen by the development split.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from vocabpress.evaluate.finetuned.elsewhere import read_elsewhere
from vocabpress.evaluate.finetuned.glue_data import LAYOUTS, Row, read_task
from vocabpress.evaluate.finetuned.rows import Rows, padding, tokenise
from vocabpress.evaluate.finetuned.training import Recipe, keep, need, predict, prepare, train
from vocabpress.evaluate.task import Measurement, Subject, Task

SUBSET_SEED = 0
Scores = dict[str, float]
Item = TypeVar("Item")


def accuracy(logits: Tensor, labels: Tensor) -> Scores:
    """Share of right classes, times 100; logits (rows, classes), labels (rows)."""
    functional = need("torchmetrics").functional
    found = functional.accuracy(logits.argmax(-1), labels.long(), task="multiclass", num_classes=logits.shape[1])
    return {"accuracy": 100 * float(found)}


def accuracy_and_f1(logits: Tensor, labels: Tensor) -> Scores:
    """Accuracy, and F1 of class 1, times 100."""
    found = need("torchmetrics").functional.f1_score(logits.argmax(-1), labels.long(), task="binary")
    return accuracy(logits, labels) | {"f1": 100 * float(found)}


def matthews(logits: Tensor, labels: Tensor) -> Scores:
    """Matthews correlation, times 100; 0 where one class is predicted for all."""
    found = need("torchmetrics").functional.matthews_corrcoef(logits.argmax(-1), labels.long(), task="binary")
    return {"matthews": 100 * float(found)}


def correlations(logits: Tensor, labels: Tensor) -> Scores:
    """Pearson and Spearman correlation with the scores, times 100; 0 where the same is predicted for all.

    Args:
        logits: Shape (rows, 1).
        labels: Shape (rows).
    """
    functional, predicted, wanted = need("torchmetrics").functional, logits[:, 0].double(), labels.double()
    if bool((predicted == predicted[0]).all()):
        return {"pearson": 0.0, "spearman": 0.0}
    found = {
        "pearson": functional.pearson_corrcoef(predicted, wanted),
        "spearman": functional.spearman_corrcoef(predicted, wanted),
    }
    return {name: 100 * float(value) for name, value in found.items()}


METRICS: dict[str, Callable[[Tensor, Tensor], Scores]] = {
    "cola": matthews,
    "sst2": accuracy,
    "mrpc": accuracy_and_f1,
    "stsb": correlations,
    "qqp": accuracy_and_f1,
    "mnli": accuracy,
    "qnli": accuracy,
    "rte": accuracy,
    "wnli": accuracy,
}


def choose(rows: Sequence[Item], subset: int | None) -> list[Item]:
    """The first rows of an order that no seed changes, so that all seeds and models train on the same ones."""
    order = list(range(len(rows)))
    if subset is not None:
        random.Random(SUBSET_SEED).shuffle(order)
    return [rows[index] for index in order[:subset]]


@dataclass(frozen=True)
class Glue(Task):
    """A task of GLUE.

    Attributes:
        task: A key of `LAYOUTS`.
        epochs: As in `Recipe`, and so are the next two.
        batch_size: Rows in a step.
        learning_rate: At the end of the warmup.
        max_length: Tokens; longer rows are cut.
        subset: Training rows, those of `choose`; None takes all.
        train_table: As in `Recipe`.
        precision: As in `Recipe`.
    """

    seeded: ClassVar[bool] = True
    fine_tunes: ClassVar[bool] = True

    task: str = "rte"
    epochs: int = 3
    batch_size: int = 32
    learning_rate: float = 2e-5
    max_length: int = 128
    subset: int | None = None
    train_table: bool = True
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.task not in LAYOUTS:
            raise ValueError(f"unknown GLUE task {self.task!r}; choose from {', '.join(LAYOUTS)}")
        if self.max_length < 8 or (self.subset is not None and self.subset < 1):
            raise ValueError(f"max_length is at least 8 and subset at least 1, got {self.max_length} and {self.subset}")
        self.recipe()

    def recipe(self) -> Recipe:
        """The part of the fields that says how to train."""
        return Recipe(self.epochs, self.batch_size, self.learning_rate, self.train_table, self.precision)

    def measure(self, subject: Subject) -> Measurement:
        need("torchmetrics")
        rows, dev = read_task(self.task, subject)
        elsewhere = read_elsewhere(self.task, subject.data)
        rows = choose(rows, self.subset)
        classes = len(LAYOUTS[self.task].classes) or 1
        kind = "regression" if classes == 1 else "single_label_classification"
        model, tokenizer = prepare(
            subject, AutoModelForSequenceClassification, self.max_length, num_labels=classes, problem_type=kind
        )

        trained = train(model, self.encode(tokenizer, rows, subject), padding(tokenizer), self.recipe(), subject)
        keep(model, tokenizer, subject)
        metrics = self.judge(model, tokenizer, dev, subject)
        for metric, part in elsewhere.items():
            labels = torch.tensor([row[2] for row in part])
            metrics[metric] = accuracy(self._logits(model, tokenizer, part, subject), labels)["accuracy"]
        sizes = {"train": len(rows)} | {split: len(part) for split, part in (dev | elsewhere).items()}
        return Measurement(metrics, {"rows": sizes, "trained_parameters": trained})

    def encode(self, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], subject: Subject) -> Rows:
        """Rows of the task, tokenised, with their labels."""
        texts, labels = [row[:2] for row in rows], [row[2] for row in rows]
        return tokenise(tokenizer, texts, labels, self.max_length, subject.progress)

    def judge(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dev: dict[str, list[Row]], subject: Subject
    ) -> Scores:
        """The task's metrics, times 100, on the development rows.

        Args:
            model: Fine-tuned for the task.
            tokenizer: Its own, with a token to pad with.
            dev: Split -> its rows, as `read_task` gives them.
            subject: Says whether there are progress bars.

        Raises:
            ValueError: If the model gives a number that is not finite.
        """
        metrics: Scores = {}
        for split, part in dev.items():
            labels = torch.tensor([row[2] for row in part])
            found = METRICS[self.task](self._logits(model, tokenizer, part, subject), labels)
            ending = split.removeprefix("dev")  # of MNLI: _matched, _mismatched
            metrics |= {f"{metric}{ending}": value for metric, value in found.items()}
        return metrics

    def _logits(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, part: Sequence[Row], subject: Subject
    ) -> Tensor:
        rows = self.encode(tokenizer, part, subject)
        found = predict(model, rows, padding(tokenizer), ("logits",), self.recipe(), subject)
        return torch.stack([row for (row,) in found])
