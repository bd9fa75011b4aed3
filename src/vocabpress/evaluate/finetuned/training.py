"""Fine-tuning by one rule for every checkpoint, compressed or not.

Every `nn.Parameter` of the model is trained, those of the table included. The table's codes are integers and do not
change. All methods and the original follow this rule, because different rules would decide comparisons: in the code of
"Direction is what you need" (Balazy et al., RepL4NLP 2021) the autoencoder's decoder was trained in fine-tuning, the
second factor of the SVD that it was compared with was not. ``train_table=False`` freezes the table of every method.

After training, compressed tables and linear maps are rounded to their stored dtype (float16 by default), so that the
results belong to the reported size.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed
from transformers.utils import logging as transformers_logging

from vocabpress.evaluate.language import longest_input
from vocabpress.evaluate.task import Subject, Task
from vocabpress.progress import Bar
from vocabpress.settings import AtLeast1, Positive

if TYPE_CHECKING:
    from datasets import Dataset

INPUTS = ("input_ids", "token_type_ids")  # padding makes the attention mask
Length = Annotated[int, Field(ge=8)]


@dataclass(frozen=True, kw_only=True)
class FineTuningTask(Task):
    """A task that trains first: AdamW without weight decay, linear decay after a tenth of warmup."""

    seeded: ClassVar[bool] = True
    fine_tunes: ClassVar[bool] = True

    epochs: AtLeast1 = 3
    batch_size: AtLeast1 = 32
    learning_rate: Positive = 2e-5  # at the end of the warmup
    max_length: Length = 128  # tokens of an input
    subset: AtLeast1 | None = None  # training rows, chosen by a fixed seed; None takes all
    train_table: bool = True  # whether the parameters of the token table are trained
    precision: Literal["float32", "bfloat16"] = "float32"  # of autocast; parameters are always float32


def need(module: str) -> Any:
    """Import a package of the extra ``train``; a ValueError if it is not installed."""
    try:
        return import_module(module)
    except ImportError:
        raise ValueError(f"this task needs {module}; install it with: pip install 'vocabpress[train]'") from None


@dataclass(frozen=True)
class Headed:
    """A loader for `Subject.load`: an auto class of transformers with the config of the head.

    A head that the checkpoint lacks, or has in another shape, is initialised; all other weights must exist.
    """

    loader: Any
    settings: dict[str, Any] = field(default_factory=dict)

    def from_pretrained(self, folder: Path, **options: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
        """As the auto class; a ValueError if a weight below the head is missing or of another shape."""
        model, info = self.loader.from_pretrained(folder, ignore_mismatched_sizes=True, **self.settings, **options)
        lost = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
        below = sorted(key for key in lost if key.startswith(f"{model.base_model_prefix}.") and "pooler" not in key)
        if below:
            raise ValueError(f"it holds no {below[0]} that fits, and the model would start from random numbers")
        return model, info


def prepare(
    subject: Subject, loader: Any, max_length: int, **head: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model with a head that the subject's seed initialises, and its tokenizer with a padding token.

    ``head`` is the config of the head, such as ``num_labels``. A ValueError if the model reads fewer tokens.
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
    """The tokenizer with a padding token; a ValueError if no token can be one."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise ValueError(f"the tokenizer of {folder} has no token to pad with; set its pad_token")
    return tokenizer


def check_length(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
    """Raise a ValueError if sequences are longer than what the model reads."""
    limit = longest_input(model, tokenizer, max_length)
    if max_length > limit:
        raise ValueError(f"max_length is {max_length}, the model reads {limit} tokens; lower it")


def map_rows(rows: "Dataset", function: Any, replaced: Sequence[str], progress: bool) -> "Dataset":
    """`Dataset.map` in memory, with our progress bar.

    ``function`` makes new columns from the columns of a batch and its row numbers; columns in ``replaced`` are removed.
    """
    with quiet(), Bar(total=len(rows), desc="tokenising", disable=not progress) as bar:

        def step(columns: Any, numbers: list[int]) -> dict[str, list[Any]]:
            bar.update(len(numbers))
            return function(columns, numbers)

        options = {"batched": True, "with_indices": True, "keep_in_memory": True, "new_fingerprint": "in-memory"}
        return rows.map(step, remove_columns=list(replaced), **options)


@contextmanager
def quiet() -> Iterator[None]:
    """Without warnings of transformers, such as of an initialised head, and without progress bars of libraries."""
    with ExitStack() as restored:
        restored.callback(transformers_logging.set_verbosity, transformers_logging.get_verbosity())
        transformers_logging.set_verbosity_error()
        for library in (transformers_logging, sys.modules.get("datasets")):
            if library is not None and library.is_progress_bar_enabled():
                restored.callback(library.enable_progress_bar)
                library.disable_progress_bar()
        yield
