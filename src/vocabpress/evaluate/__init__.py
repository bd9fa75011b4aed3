"""What a compressed model costs, measured: one file per task."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vocabpress.evaluate.agreement import ModelAgreement
from vocabpress.evaluate.causal import CausalPerplexity
from vocabpress.evaluate.finetuned.glue import Glue
from vocabpress.evaluate.finetuned.squad import Squad
from vocabpress.evaluate.masked import MaskedPerplexity
from vocabpress.evaluate.run import Labels, evaluate
from vocabpress.evaluate.similarity import WordSimilarity
from vocabpress.evaluate.sts import SentenceSimilarity
from vocabpress.evaluate.table import TableErrors
from vocabpress.evaluate.task import Measurement, Subject, Task
from vocabpress.settings import read_settings

GLUE = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli")
TASKS: dict[str, Task] = {
    "reconstruction": TableErrors(),
    "mlm": MaskedPerplexity(),
    "clm": CausalPerplexity(),
    "sts": SentenceSimilarity(),
    "similarity": WordSimilarity(),
    "agreement": ModelAgreement(),
    **{name: Glue(name) for name in GLUE},
    "squad": Squad("1.1"),
    "squad2": Squad("2.0"),
}


def make_task(name: str, **settings: Any) -> Task:
    """A task by name, for command lines and plan files.

    Args:
        name: A key of TASKS.
        settings: Values of its fields; text is converted to the field's type.

    Raises:
        ValueError: If the name, a field or a value is none of the task's.
    """
    return task_from(name, settings)


def task_from(name: str, settings: Mapping[str, Any], *, strict: bool = False) -> Task:
    """As `make_task`; ``strict`` refuses text where a field is a number.

    Raises:
        ValueError: If the name, a field or a value is none of the task's.
    """
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; choose from {', '.join(TASKS)}")
    task = TASKS[name]
    return replace(task, **read_settings(f"task {name}", type(task), settings, strict=strict))  # pyright: ignore[reportArgumentType]


__all__ = ["GLUE", "TASKS", "Labels", "Measurement", "Subject", "Task", "evaluate", "make_task", "task_from"]
