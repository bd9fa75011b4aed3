"""The interface of tasks: a task measures a model, alone or against its original."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from transformers import PreTrainedModel

from vocabpress.hf.checkpoint import open_model, open_tokenizer
from vocabpress.settings import check_settings
from vocabpress.texts import read_lines


@dataclass(frozen=True)
class Measurement:
    """The result of a task."""

    metrics: dict[str, float]  # finite
    details: dict[str, Any] = field(default_factory=dict)  # other data as JSON: deciles, curves, lists


@dataclass(frozen=True)
class Subject:
    """A model with the data to measure it."""

    model: Path  # folder of the model, compressed or not
    against: Path | None = None  # folder of the original, for tasks that compare
    data: Path | None = None  # folder of the data sets, each in its own layout
    text: Sequence[Path] = ()  # UTF-8 files
    device: str = "cpu"
    seed: int = 0
    work: Path | None = None  # folder of the checkpoints of an interrupted run; None saves none
    keep: Path | None = None  # folder to create for the fine-tuned model, if the task trains one; None saves none
    progress: bool = False

    def original(self, why: str) -> Path:
        """The folder of the original, or a ValueError that ``why`` needs it."""
        if self.against is None:
            raise ValueError(f"{why} needs the original model; give it with --against")
        return self.against

    def load(self, loader: Any, whole: bool = True, dtype: str = "float32") -> PreTrainedModel:
        """The model on the device; see `vocabpress.hf.checkpoint.open_model`."""
        return open_model(self.model, loader, whole, dtype).to(self.device)  # pyright: ignore[reportArgumentType]

    def load_original(self, loader: Any, why: str, dtype: str = "float32") -> PreTrainedModel:
        """The original on the device; ``why`` as in `original`."""
        return open_model(self.original(why), loader, dtype=dtype).to(self.device)  # pyright: ignore[reportArgumentType]

    def tokenizer(self) -> Any:
        """The model's tokenizer; a ValueError if there is none."""
        return open_tokenizer(self.model)

    def lines(self, why: str) -> list[str]:
        """The lines of the text files that are not blank; a ValueError if there is no text or it can't be read."""
        if not self.text:
            raise ValueError(f"{why} needs text; give UTF-8 files with --text")
        return list(read_lines(self.text))

    def compared_with_itself(self) -> bool:
        """Whether the original is the model."""
        return self.against is not None and self.against.resolve() == self.model.resolve()

    def file(self, *names: str) -> Path:
        """The first existing file of relative paths such as ``"RTE/dev.tsv"``; a ValueError if there is none."""
        if self.data is None:
            raise ValueError(f"this task needs {names[0]}; give the folder that holds it with --data")
        for name in names:
            if (self.data / name).exists():
                return self.data / name
        raise ValueError(f"{self.data} has no {' and no '.join(names)}; give the folder of the data sets with --data")


class Task(ABC):
    """One way to measure a model. A subclass is a frozen dataclass; its fields are settings.

    Attributes:
        seeded: Whether the result depends on the seed.
        reads_text: Whether it reads the text files.
        fine_tunes: Whether it trains the model first, and can save it.
        compares: Whether it measures the original beside the model, so that it need not run on the original itself.
    """

    seeded: ClassVar[bool] = False
    reads_text: ClassVar[bool] = False
    fine_tunes: ClassVar[bool] = False
    compares: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_settings(self)

    @abstractmethod
    def measure(self, subject: Subject) -> Measurement:
        """Run the task.

        Raises:
            ValueError: In one line what is missing or wrong.
        """
