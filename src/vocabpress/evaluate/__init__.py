"""Tasks that measure a model; each is a module."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vocabpress.evaluate.agreement import ModelAgreement
from vocabpress.evaluate.causal import CausalPerplexity
from vocabpress.evaluate.finetuned.glue import Glue
from vocabpress.evaluate.finetuned.squad import Squad
from vocabpress.evaluate.generation import Generation
from vocabpress.evaluate.masked import MaskedPerplexity
from vocabpress.evaluate.retrieval import ParagraphRetrieval
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
    "generation": Generation(),
    "sts": SentenceSimilarity(),
    "retrieval": ParagraphRetrieval(),
    "similarity": WordSimilarity(),
    "agreement": ModelAgreement(),
    **{name: Glue(name) for name in GLUE},
    "squad": Squad("1.1"),
    "squad2": Squad("2.0"),
}


def make_task(name: str, **settings: Any) -> Task:
    """A task by its name in TASKS; values of its fields that are text are converted to the field's type.

    Raises:
        ValueError: If the name or a field is unknown, or a value is invalid.
    """
    return task_from(name, settings)


def task_from(name: str, settings: Mapping[str, Any], *, strict: bool = False) -> Task:
    """As `make_task`; ``strict`` refuses text for a field that is a number."""
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; choose from {', '.join(TASKS)}")
    task = TASKS[name]
    return replace(task, **read_settings(f"task {name}", type(task), settings, strict=strict))  # pyright: ignore[reportArgumentType]


__all__ = ["GLUE", "TASKS", "Labels", "Measurement", "Subject", "Task", "evaluate", "make_task", "task_from"]
