"""What a student learns from: unlabelled text, or the rows of a task with the task's own metrics."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vocabpress.evaluate import GLUE, TASKS
from vocabpress.evaluate.finetuned.glue import Glue
from vocabpress.evaluate.finetuned.glue_data import LAYOUTS, TEXTS, read_glue
from vocabpress.evaluate.finetuned.training import check_length, need
from vocabpress.evaluate.language import is_causal, longest_input
from vocabpress.evaluate.task import Subject
from vocabpress.recover.settings import LessonSettings
from vocabpress.recover.text import Sequences, set_aside, tokenise, tokenise_stream, with_own_labels
from vocabpress.texts import read_lines

FEWEST = 20  # sequences to learn from


@dataclass(frozen=True)
class Source:
    """Where a lesson comes from.

    Attributes:
        text: UTF-8 text files, a sequence a line; empty if there is a task.
        task: A task of GLUE, or None.
        data: Folder of the data sets; None takes the hub's.

    Raises:
        ValueError: If there are both text and a task, or neither, or the task is unknown.
    """

    text: Sequence[str | Path] = ()
    task: str | None = None
    data: Path | None = None

    def __post_init__(self) -> None:
        if bool(self.text) == (self.task is not None):
            raise ValueError("there is text to learn from, or the rows of a task; give one of --text and --task")
        if self.task is not None and self.task not in GLUE:
            raise ValueError(f"unknown task {self.task!r}; choose from {', '.join(GLUE)}")

    @property
    def classes(self) -> int:
        """Numbers that a model of the task predicts: its classes, or one score."""
        return len(LAYOUTS[self.task].classes) or 1 if self.task is not None else 0

    def documents(self, progress: bool = False) -> Iterable[str]:
        """The lines of the text, or the sentences of each of the task's training rows."""
        if self.task is None:
            return read_lines(self.text, progress)
        rows, _ = read_glue(self.task, Subject(Path(), data=self.data, progress=progress))
        return (" ".join(row[name] for name in TEXTS if row.get(name)) for row in rows)  # pyright: ignore


@dataclass(frozen=True)
class Lesson:
    """Sequences, with labels or without.

    ``judge`` gives the metrics of a model, at a precision, on the task's development rows, which choose nothing; none
    for text.
    """

    sequences: Sequences
    labelled: bool
    judge: Callable[[PreTrainedModel, Any], dict[str, float]] = lambda model, precision: {}


def read_lesson(
    source: Source,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: LessonSettings,
    seed: int,
    progress: bool,
) -> Lesson:
    """Read text or a task's rows, tokenise them, and set some sequences aside.

    The model is the student or the teacher. The tokenizer needs a padding token if there is a task.

    Raises:
        ValueError: If the text or the rows are unusable, or too short.
    """
    if source.task is None:
        read: Any = tokenise
        if settings.stream:
            causal = is_causal(model)
            read = partial(tokenise_stream, least=FEWEST) if causal else partial(tokenise, passages=seed)
        examples = read(source.text, tokenizer, longest_input(model, tokenizer, settings.max_length), progress)
        if len(examples) < FEWEST:
            raise ValueError(
                f"the text gives {len(examples)} sequences, recovery needs {FEWEST} or more; give more text"
            )
        sequences = set_aside(examples, settings.held_out, tokenizer.pad_token_id, seed)
        if settings.language_model:
            sequences = with_own_labels(sequences, model, tokenizer, seed)
        return Lesson(sequences, settings.language_model)
    need("torchmetrics")
    check_length(model, tokenizer, settings.max_length)
    chosen: Any = TASKS[source.task]
    task: Glue = replace(chosen, max_length=settings.max_length, batch_size=settings.batch_size)
    subject = Subject(Path(), data=source.data, seed=seed, progress=progress)
    rows, dev = read_glue(source.task, subject)
    if len(rows) < FEWEST:
        count = f"{len(rows)} training rows, recovery needs {FEWEST} or more"
        raise ValueError(f"{task.task} has {count}; give GLUE's own files")
    examples = task.encode(tokenizer, rows, progress).to_list()
    filler = model.config.pad_token_id if model.config.pad_token_id is not None else tokenizer.pad_token_id
    sequences = set_aside(examples, settings.held_out, filler, seed)
    return Lesson(sequences, True, lambda m, p: replace(task, precision=p).judge(m, tokenizer, dev, subject))
