"""GLUE, fine-tuned: nine tasks on the development sets, and three out-of-distribution data sets.

The protocol is that of transformers' ``run_glue``: the recipe of `training.py` beside this file on the training split,
the metrics of the benchmark (Wang et al., ICLR 2019) times 100 on the development split after the last epoch. The
development split chooses no epoch and no setting.
"""

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from vocabpress.evaluate.finetuned.glue_data import LAYOUTS, TEXTS, read_glue, read_other_data
from vocabpress.evaluate.finetuned.trainer import fine_tune, predict
from vocabpress.evaluate.finetuned.training import INPUTS, FineTuningTask, map_rows, need, prepare
from vocabpress.evaluate.pairs import pearson, spearman
from vocabpress.evaluate.task import Measurement, Subject

if TYPE_CHECKING:
    from datasets import Dataset

SUBSET_SEED = 0
TASK_METRICS = {
    "cola": ("matthews",),
    "stsb": ("pearson", "spearman"),
    **dict.fromkeys(("mrpc", "qqp"), ("accuracy", "f1")),
    **dict.fromkeys(("sst2", "mnli", "qnli", "rte", "wnli"), ("accuracy",)),
}


def score_predictions(metric: str, logits: Tensor, labels: Tensor) -> float:
    """A metric of TASK_METRICS, times 100; a correlation with constant predictions is 0, ``f1`` is that of class 1.

    Logits are (rows, classes), or (rows, 1) for scores; labels (rows).
    """
    if metric in ("pearson", "spearman"):
        correlation = pearson if metric == "pearson" else spearman
        return 100 * correlation(logits[:, 0].double(), labels.double())
    functional, given = need("torchmetrics").functional, (logits.argmax(-1), labels.long())
    if metric == "accuracy":
        return 100 * float(functional.accuracy(*given, task="multiclass", num_classes=logits.shape[1]))
    function = functional.f1_score if metric == "f1" else functional.matthews_corrcoef
    return 100 * float(function(*given, task="binary"))


def choose(rows: "Dataset", subset: int | None) -> "Dataset":
    """Rows chosen by a fixed seed, so that all seeds and models train on the same ones."""
    if subset is None:
        return rows
    order = list(range(len(rows)))
    random.Random(SUBSET_SEED).shuffle(order)
    return rows.select(order[:subset])


@dataclass(frozen=True)
class Glue(FineTuningTask):
    """A task of GLUE; ``task`` is a key of `LAYOUTS`."""

    task: str = "rte"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.task not in LAYOUTS:
            raise ValueError(f"unknown GLUE task {self.task!r}; choose from {', '.join(LAYOUTS)}")

    def measure(self, subject: Subject) -> Measurement:
        rows, dev = read_glue(self.task, subject)
        dev |= read_other_data(self.task, subject.data)
        rows = choose(rows, self.subset)
        classes = len(LAYOUTS[self.task].classes) or 1
        kind = "regression" if classes == 1 else "single_label_classification"
        model, tokenizer = prepare(
            subject, AutoModelForSequenceClassification, self.max_length, num_labels=classes, problem_type=kind
        )
        trained = fine_tune(model, tokenizer, self.encode(tokenizer, rows, subject.progress), self, subject)
        metrics = self.judge(model, tokenizer, dev, subject)
        sizes = {"train": len(rows)} | {split: len(part) for split, part in dev.items()}
        return Measurement(metrics, {"rows": sizes, "trained_parameters": trained})

    def encode(self, tokenizer: PreTrainedTokenizerBase, rows: "Dataset", progress: bool = False) -> "Dataset":
        """Rows of the task, tokenised, truncated, not padded, with their labels."""

        def tokenise(columns: Any, numbers: list[int]) -> dict[str, list[list[int]]]:
            texts = (columns["text"], columns.get("text_pair"))
            encoded = tokenizer(*texts, truncation=True, max_length=self.max_length)
            return {name: encoded[name] for name in INPUTS if name in encoded}

        return map_rows(rows, tokenise, [name for name in TEXTS if name in rows.column_names], progress)

    def judge(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dev: "dict[str, Dataset]", subject: Subject
    ) -> dict[str, float]:
        """The task's metrics, times 100, on development rows; accuracy on out-of-distribution rows."""
        metrics = {}
        for split, part in dev.items():
            encoded = self.encode(tokenizer, part, subject.progress)
            found = predict(model, tokenizer, encoded, ("logits",), self, subject.progress)
            logits, labels = torch.stack([row for (row,) in found]), torch.tensor(list(part["labels"]))
            if split.startswith("dev"):  # MNLI has _matched and _mismatched
                names = {f"{metric}{split.removeprefix('dev')}": metric for metric in TASK_METRICS[self.task]}
            else:
                names = {split: "accuracy"}
            metrics |= {name: score_predictions(metric, logits, labels) for name, metric in names.items()}
        return metrics
