"""What a task is: it takes a model and what it is compared with, and gives numbers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from transformers import PreTrainedModel

from vocabpress.hf.checkpoint import open_model, open_tokenizer
from vocabpress.texts import read_lines


@dataclass(frozen=True)
class Measurement:
    """What a task found.

    Attributes:
        metrics: Name -> value, finite.
        details: What is not one number, as JSON: deciles, curves, lists.
    """

    metrics: dict[str, float]
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """What is measured, and with what.

    Attributes:
        model: Folder of the model, compressed or not.
        against: Folder of the original, for the tasks that compare.
        data: Folder of the data sets, each in its own layout.
        text: UTF-8 text files.
        device: Where to run, e.g. ``"cpu"``.
        seed: Where all randomness comes from.
        work: Folder for what an interrupted run goes on from; None saves nothing.
        keep: Folder to make of the fine-tuned model, where the task makes one; None makes none.
        progress: Whether to draw progress bars on stderr.
    """

    model: Path
    against: Path | None = None
    data: Path | None = None
    text: Sequence[Path] = ()
    device: str = "cpu"
    seed: int = 0
    work: Path | None = None
    keep: Path | None = None
    progress: bool = False

    def original(self, why: str) -> Path:
        """The folder of the original.

        Raises:
            ValueError: If none was given; ``why`` says what it is needed for.
        """
        if self.against is None:
            raise ValueError(f"{why} needs the original model; give it with --against")
        return self.against

    def load(self, loader: Any, whole: bool = True) -> PreTrainedModel:
        """The model on the device, ready to run; see `vocabpress.hf.checkpoint.open_model`."""
        return open_model(self.model, loader, whole).to(self.device)  # pyright: ignore[reportArgumentType]

    def load_original(self, loader: Any, why: str, whole: bool = True) -> PreTrainedModel:
        """The original, as `load` gives the model; ``why`` as in `original`."""
        return open_model(self.original(why), loader, whole).to(self.device)  # pyright: ignore[reportArgumentType]

    def tokenizer(self) -> Any:
        """The model's tokenizer.

        Raises:
            ValueError: If it has none.
        """
        return open_tokenizer(self.model)

    def lines(self, why: str) -> list[str]:
        """The lines of the text files that are not blank.

        Raises:
            ValueError: If no text was given, or a file is missing, empty or not UTF-8.
        """
        if not self.text:
            raise ValueError(f"{why} needs text; give UTF-8 files with --text")
        return list(read_lines(self.text))

    def compared_with_itself(self) -> bool:
        """Whether the original is the model."""
        return self.against is not None and self.against.resolve() == self.model.resolve()

    def file(self, *names: str) -> Path:
        """The first of these files that lies in the folder of data sets.

        Args:
            names: Paths relative to it, such as ``"RTE/dev.tsv"``.

        Raises:
            ValueError: If no folder was given, or none of the files is there.
        """
        if self.data is None:
            raise ValueError(f"this task needs {names[0]}; give the folder that holds it with --data")
        for name in names:
            if (self.data / name).exists():
                return self.data / name
        raise ValueError(f"{self.data} has no {' and no '.join(names)}; give the folder of the data sets with --data")


class Task(ABC):
    """One way to measure a model. A subclass is a frozen dataclass; its fields are what can be chosen.

    Attributes:
        seeded: Whether the result depends on the seed, so that several seeds are worth running.
        reads_text: Whether it reads the text files.
        fine_tunes: Whether it trains the model first, and can keep what it made of it.
        compares: Whether it compares with the original, which alone would score nothing.
        minimum: Field -> its least value.
    """

    seeded: ClassVar[bool] = False
    reads_text: ClassVar[bool] = False
    fine_tunes: ClassVar[bool] = False
    compares: ClassVar[bool] = False
    minimum: ClassVar[Mapping[str, int]] = {}

    def __post_init__(self) -> None:
        for name, least in self.minimum.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} is at least {least}, got {value}")

    @abstractmethod
    def measure(self, subject: Subject) -> Measurement:
        """Run the task.

        Raises:
            ValueError: With one line that says what is missing or wrong.
        """
