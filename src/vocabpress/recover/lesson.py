"""What a student is trained on: unlabelled text, or the rows of a task; and what it is judged by besides its loss."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vocabpress.evaluate import GLUE, TASKS
from vocabpress.evaluate.finetuned.glue import Glue
from vocabpress.evaluate.finetuned.glue_data import LAYOUTS, TEXTS, read_glue
from vocabpress.evaluate.finetuned.training import check_length, need
from vocabpress.evaluate.task import Subject
from vocabpress.recover.settings import Recovery
from vocabpress.recover.text import Example, Sequences, set_aside, tokenise, with_own_labels
from vocabpress.texts import read_lines


@dataclass(frozen=True)
class Source:
    """Where a lesson comes from.

    Attributes:
        text: UTF-8 text files, a sequence a line; empty where there is a task.
        task: A task of GLUE, or None.
        data: Folder of the data sets; None takes the hub's.

    Raises:
        ValueError: If there is both text and a task, or neither, or the task is unknown.
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
    """Sequences, and the development rows of their task.

    Attributes:
        sequences: To train on, and held out.
        labelled: Whether they have labels.
        task: How a model is judged on the development rows; None where there are none.
        dev: Split -> its rows.
        subject: Says where to run.
        tokenizer: The models' own, with a token to pad with.
    """

    sequences: Sequences
    labelled: bool
    task: Glue | None = None
    dev: dict[str, Any] | None = None
    subject: Subject | None = None
    tokenizer: PreTrainedTokenizerBase | None = None

    def judge(self, model: PreTrainedModel) -> dict[str, float]:
        """The task's metrics on its development rows, which nothing is chosen by; nothing for text."""
        if self.task is None or self.dev is None or self.subject is None or self.tokenizer is None:
            return {}
        return self.task.judge(model, self.tokenizer, self.dev, self.subject)


def read_lesson(
    source: Source,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: Recovery,
    seed: int,
    progress: bool,
) -> Lesson:
    """Read text or a task's rows, tokenise them, and set some sequences aside.

    Args:
        source: Says which.
        model: The student, or the teacher.
        tokenizer: The same for both; with a token to pad with where there is a task.
        settings: Say how long sequences are, and how many are held out.
        seed: Decides the choice, and what is masked.
        progress: Whether to draw progress bars on stderr.

    Raises:
        ValueError: If the text or the rows are unusable, or too few.
    """
    if source.task is not None:
        return _task_lesson(source, source.task, model, tokenizer, settings, seed, progress)
    examples = tokenise(source.text, tokenizer, settings.max_length, progress)
    if len(examples) < 20:
        raise ValueError(f"the text gives {len(examples)} sequences, recovery needs 20 or more; give more text")
    sequences = set_aside(examples, settings.held_out, tokenizer.pad_token_id, seed)
    if settings.language_model:
        sequences = with_own_labels(sequences, model, tokenizer, seed)
    return Lesson(sequences, settings.language_model)


def _task_lesson(
    source: Source,
    name: str,
    model: PreTrainedModel,
    tokenizer: Any,
    settings: Recovery,
    seed: int,
    progress: bool,
) -> Lesson:
    need("torchmetrics")
    check_length(model, tokenizer, settings.max_length)
    chosen: Any = TASKS[name]
    task: Glue = replace(
        chosen, max_length=settings.max_length, batch_size=settings.batch_size, precision=settings.precision
    )
    subject = Subject(Path(), data=source.data, seed=seed, progress=progress)
    rows, dev = read_glue(name, subject)
    examples: list[Example] = task.encode(tokenizer, rows, progress).to_list()
    if len(examples) < 20:
        raise ValueError(f"{name} has {len(examples)} training rows, recovery needs 20 or more; give GLUE's own files")
    filler = model.config.pad_token_id if model.config.pad_token_id is not None else tokenizer.pad_token_id
    sequences = set_aside(examples, settings.held_out, filler, seed)
    return Lesson(sequences, True, task, dev, subject, tokenizer)
