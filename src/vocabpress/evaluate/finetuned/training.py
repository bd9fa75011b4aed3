"""Fine-tuning by one rule for every checkpoint, compressed or not.

Everything that is continuous trains: every `nn.Parameter` of the model, of the table as of the rest. The table's codes
are integers and stay. The rule is the same for every method and for the original, because an unequal one decides
comparisons: in the code of "Direction is what you need" (Balazy et al., RepL4NLP 2021) the autoencoder's decoder was
trained in fine-tuning and the second factor of the SVD that it was compared with was not. `Recipe.train_table` freezes
the whole table, again for all alike.

After training each compressed table, and linear map, is rounded to what a checkpoint stores of it (float16 by default),
so that the numbers belong to the size that is reported beside them.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
    set_seed,
)
from transformers.utils import logging as transformers_logging

from vocabpress.evaluate.finetuned.resume import fingerprint, last_checkpoint, make_trainer
from vocabpress.evaluate.finetuned.rows import Collate, Rows
from vocabpress.evaluate.language import longest_input
from vocabpress.evaluate.task import Subject
from vocabpress.hf.modules import owned_tables
from vocabpress.hf.writing import check_output, save, written_at_once
from vocabpress.progress import Bar

WARMUP = 0.1  # of all steps, as BERT was fine-tuned
EVALUATION_BATCHES = 2  # an evaluation batch holds so many training batches: it keeps no activations
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Recipe:
    """How a checkpoint is fine-tuned: AdamW without weight decay, linear decay after a tenth of warmup.

    Attributes:
        epochs: Passes over the training rows.
        batch_size: Rows in a step.
        learning_rate: At the end of the warmup.
        train_table: Whether the continuous part of the token table trains.
        precision: ``"float32"``, or ``"bfloat16"`` for autocast; parameters are float32 either way.
    """

    epochs: int = 3
    batch_size: int = 32
    learning_rate: float = 2e-5
    train_table: bool = True
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or not self.learning_rate > 0:
            raise ValueError(
                "epochs and batch_size are at least 1 and learning_rate is above 0, "
                f"got {self.epochs}, {self.batch_size}, {self.learning_rate}"
            )
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
    """An auto class of transformers that is told which head to build; stands where `Subject.load` takes a loader.

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
        ValueError: If the folder can't be loaded, the model reads fewer tokens, or nothing can stand for padding.
    """
    need("accelerate")
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


def keep(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, subject: Subject) -> None:
    """Write a fine-tuned model, with its tokenizer, to the folder that the subject names, if it names one.

    Raises:
        ValueError: If the folder is there and not empty, or can't be written.
    """
    if subject.keep is not None:
        with written_at_once(check_output(subject.keep)) as temporary:
            save(model, temporary)
            tokenizer.save_pretrained(temporary)


def train(model: PreTrainedModel, rows: Rows, collate: Collate, recipe: Recipe, subject: Subject) -> int:
    """Fine-tune in place, by the rule at the top of this file.

    With `Subject.work` the state is saved after each epoch, and a run of the same model, rows, recipe and seed goes on
    from there, with the same result as one that was not interrupted.

    Returns:
        How many numbers were trained.

    Raises:
        ValueError: If the device is none that the Trainer takes.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    for parameter in model.get_input_embeddings().parameters():
        parameter.requires_grad_(recipe.train_table)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    with tempfile.TemporaryDirectory() as scratch, quiet():
        place = (
            Path(scratch)
            if subject.work is None
            else subject.work / fingerprint(model, rows, {**asdict(recipe), "seed": subject.seed})
        )
        arguments = _arguments(place, recipe, subject)
        trainer = make_trainer(model, rows, collate, arguments, subject.progress)
        trainer.train(resume_from_checkpoint=last_checkpoint(place))
    for table in owned_tables(model).values():
        table.round_to_stored()
    return trained


@torch.inference_mode()
def predict(
    model: PreTrainedModel, rows: Rows, collate: Collate, outputs: Sequence[str], recipe: Recipe, subject: Subject
) -> list[tuple[Tensor, ...]]:
    """What the model gives for each row, in their order, float32 on the CPU.

    Args:
        model: Fine-tuned.
        rows: Labels are not read.
        collate: Pads.
        outputs: Names of the model's outputs, such as ``("logits",)``; padded as the batch was.
        recipe: Says the precision, and the batch size.
        subject: Says where to run.

    Raises:
        ValueError: If a number is not finite.
    """
    model.eval()
    lengths = rows.lengths()
    order = sorted(range(len(rows)), key=lengths.__getitem__, reverse=True)
    found: list[tuple[Tensor, ...]] = [()] * len(rows)
    cast = torch.autocast(model.device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16")
    size = EVALUATION_BATCHES * recipe.batch_size
    with Bar(total=len(rows), desc="predicting", disable=not subject.progress) as bar, cast:
        for start in range(0, len(rows), size):
            batch = order[start : start + size]
            inputs = collate([rows.unlabelled(row) for row in batch])
            out = model(**{name: tensor.to(model.device) for name, tensor in inputs.items()})
            columns = [out[name].float().cpu() for name in outputs]
            if not all(bool(column.isfinite().all()) for column in columns):
                raise ValueError("the fine-tuned model gives NaN or infinite values; lower its learning_rate")
            for place, row in enumerate(batch):
                found[row] = tuple(column[place] for column in columns)
            bar.update(len(batch))
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of transformers, a fresh head is what is wanted here, and without its bars."""
    before, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
        if bars:
            transformers_logging.enable_progress_bar()


def _arguments(place: Path, recipe: Recipe, subject: Subject) -> TrainingArguments:
    device = torch.device(subject.device)
    arguments = TrainingArguments(
        output_dir=str(place),
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=WARMUP,
        weight_decay=0.0,
        train_sampling_strategy="group_by_length",
        bf16=recipe.precision == "bfloat16",
        seed=subject.seed,
        use_cpu=device.type == "cpu",
        dataloader_pin_memory=device.type == "cuda",
        save_strategy="no" if subject.work is None else "epoch",
        save_total_limit=1,
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        log_level="error",
    )
    if arguments.device.type != device.type or device.index not in (None, 0):
        raise ValueError(f"can't fine-tune on {device}; take cpu, or cuda with CUDA_VISIBLE_DEVICES set to one GPU")
    arguments._n_gpu = 1  # as the Trainer does itself: more GPUs would silently multiply the batch
    return arguments
