"""Fine-tuning by one rule for every checkpoint, compressed or not.

Everything that is continuous trains: every `nn.Parameter` of the model, of the table as of the rest. The table's codes
are integers and stay. The rule is the same for every method and for the original, because an unequal one decides
comparisons: in the code of "Direction is what you need" (Balazy et al., RepL4NLP 2021) the autoencoder's decoder was
trained in fine-tuning and the second factor of the SVD that it was compared with was not. `train_table` freezes the
whole table, again for all alike.

After training each compressed table, and linear map, is rounded to what a checkpoint stores of it (float16 by default),
so that the numbers belong to the size that is reported beside them.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed
from transformers.utils import logging as transformers_logging

from vocabpress.evaluate.language import longest_input
from vocabpress.evaluate.task import Subject, Task
from vocabpress.progress import Bar

if TYPE_CHECKING:
    from datasets import Dataset

PRECISIONS = ("float32", "bfloat16")
INPUTS = ("input_ids", "token_type_ids")  # the attention mask is made where rows are padded


@dataclass(frozen=True, kw_only=True)
class FineTuningTask(Task):
    """A task that trains first: AdamW without weight decay, linear decay after a tenth of warmup.

    Attributes:
        epochs: Passes over the training rows.
        batch_size: Rows in a step.
        learning_rate: At the end of the warmup.
        max_length: Tokens of an input.
        subset: Training rows, those of `choose`; None takes all.
        train_table: Whether the continuous part of the token table trains.
        precision: ``"float32"``, or ``"bfloat16"`` for autocast; parameters are float32 either way.
    """

    seeded: ClassVar[bool] = True
    fine_tunes: ClassVar[bool] = True
    minimum: ClassVar[Mapping[str, int]] = {"epochs": 1, "batch_size": 1, "max_length": 8, "subset": 1}

    epochs: int = 3
    batch_size: int = 32
    learning_rate: float = 2e-5
    max_length: int = 128
    subset: int | None = None
    train_table: bool = True
    precision: str = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate is above 0, got {self.learning_rate}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"unknown precision {self.precision!r}; choose from {', '.join(PRECISIONS)}")


def need(module: str) -> Any:
    """Import a package of the extra ``train``.

    Raises:
        ValueError: If it is not installed.
    """
    try:
        return import_module(module)
    except ImportError:
        raise ValueError(f"this task needs {module}; install it with: pip install 'vocabpress[train]'") from None


@dataclass(frozen=True)
class Headed:
    """An auto class of transformers with the head to build; stands where `Subject.load` takes a loader.

    A head that the checkpoint has not, or has in another shape, starts fresh; anything else must be there.
    """

    loader: Any
    settings: dict[str, Any] = field(default_factory=dict)

    def from_pretrained(self, folder: Path, **options: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
        """As the auto class does.

        Raises:
            ValueError: If a weight of the model below the head is missing or of another shape.
        """
        model, info = self.loader.from_pretrained(folder, ignore_mismatched_sizes=True, **self.settings, **options)
        lost = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
        below = sorted(key for key in lost if key.startswith(f"{model.base_model_prefix}.") and "pooler" not in key)
        if below:
            raise ValueError(f"it holds no {below[0]} that fits, and the model would start from random numbers")
        return model, info


def prepare(
    subject: Subject, loader: Any, max_length: int, **head: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model with a head that the subject's seed initialises, and its tokenizer with a token to pad with.

    Args:
        subject: What is measured.
        loader: An auto class of transformers.
        max_length: Tokens of the longest input.
        head: Settings of the config that say what head, such as ``num_labels``.

    Raises:
        ValueError: If a package of the extra ``train`` is missing, the folder can't be loaded, the model reads fewer
            tokens, or nothing can stand for padding.
    """
    for module in ("accelerate", "torchmetrics"):
        need(module)
    tokenizer = padded(subject.tokenizer(), subject.model)
    set_seed(subject.seed)
    with quiet():
        model = subject.load(Headed(loader, head), whole=False)
    if getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    check_length(model, tokenizer, max_length)
    return model, tokenizer


def padded(tokenizer: Any, folder: Path) -> Any:
    """The tokenizer with a token to pad with.

    Raises:
        ValueError: If nothing can stand for one.
    """
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise ValueError(f"the tokenizer of {folder} has no token to pad with; set its pad_token")
    return tokenizer


def check_length(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
    """Refuse sequences that are longer than what the model reads.

    Raises:
        ValueError: With the longest that it reads.
    """
    limit = longest_input(model, tokenizer, max_length)
    if max_length > limit:
        raise ValueError(f"max_length is {max_length}, the model reads {limit} tokens; lower it")


def map_rows(rows: "Dataset", function: Any, replaced: Sequence[str], progress: bool) -> "Dataset":
    """`Dataset.map` in memory, with a progress bar of ours.

    Args:
        rows: Any.
        function: Makes new columns of the columns of some rows and the numbers of those rows.
        replaced: Columns that are gone afterwards.
        progress: Whether to draw the bar.
    """
    with quiet(), Bar(total=len(rows), desc="tokenising", disable=not progress) as bar:

        def step(columns: Any, numbers: list[int]) -> dict[str, list[Any]]:
            bar.update(len(numbers))
            return function(columns, numbers)

        options = {"batched": True, "with_indices": True, "keep_in_memory": True, "new_fingerprint": "in-memory"}
        return rows.map(step, remove_columns=list(replaced), **options)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of transformers, a fresh head is what is wanted here, and without bars other than ours."""
    with ExitStack() as restored:
        restored.callback(transformers_logging.set_verbosity, transformers_logging.get_verbosity())
        transformers_logging.set_verbosity_error()
        for library in (transformers_logging, sys.modules.get("datasets")):
            if library is not None and library.is_progress_bar_enabled():
                restored.callback(library.enable_progress_bar)
                library.disable_progress_bar()
        yield
