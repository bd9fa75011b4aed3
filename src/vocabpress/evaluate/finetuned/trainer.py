"""Fine-tuning by transformers' Trainer; an interrupted run resumes with the same result."""

import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import (
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)

from vocabpress.evaluate.batches import by_length
from vocabpress.evaluate.finetuned.training import INPUTS, FineTuningTask, quiet
from vocabpress.evaluate.task import Subject
from vocabpress.hf.compact import TOKENIZER, make_compact
from vocabpress.hf.modules import owned_tables
from vocabpress.hf.writing import check_output, save, written_at_once
from vocabpress.progress import Bar

if TYPE_CHECKING:
    from datasets import Dataset

WARMUP = 0.1  # share of all steps, as in BERT's fine-tuning
EVALUATION_BATCHES = 2  # training batches in an evaluation batch, which stores no activations


class TrainingBar(TrainerCallback):
    """A progress bar on stderr; the Trainer's own bar also writes to stdout."""

    def __init__(self, shown: bool) -> None:
        self.shown, self.bar = shown, Bar(disable=True)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar = Bar(total=state.max_steps, initial=state.global_step, desc="fine-tuning", disable=not self.shown)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.update()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.close()


def fine_tune(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: "Dataset", task: FineTuningTask, subject: Subject
) -> int:
    """Fine-tune in place, by the rule at the top of `training.py`; write the result to `Subject.keep`.

    With `Subject.work` the state is saved after each epoch, and a run of the same model, rows, settings and seed
    resumes from it. Returns the number of trained values.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    for parameter in model.get_input_embeddings().parameters():
        parameter.requires_grad_(task.train_table)
    with tempfile.TemporaryDirectory() as scratch, quiet():
        place = Path(scratch) if subject.work is None else subject.work / _fingerprint(model, rows, task, subject)
        _train(model, tokenizer, rows, _arguments(place, task, subject), subject.progress)
    for table in owned_tables(model).values():
        table.round_to_stored()
    if subject.keep is not None:
        with written_at_once(check_output(subject.keep)) as temporary:
            save(model, temporary)
            tokenizer.save_pretrained(temporary)
            if (temporary / TOKENIZER).is_file():
                make_compact(temporary / TOKENIZER)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _train(model: PreTrainedModel, tokenizer: Any, rows: "Dataset", arguments: TrainingArguments, shown: bool) -> None:
    from safetensors.torch import save_model
    from transformers import PrinterCallback, Trainer  # slow imports, from the extra `train`

    def save_trained(output_dir: str, _internal_call: bool = False) -> None:
        """Save in training precision.

        `save_pretrained` would round the table to its stored dtype and rename its tensors, so that a resumed run would
        start with the untrained table.
        """
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        save_model(model, str(Path(output_dir) / "model.safetensors"))

    collate = DataCollatorWithPadding(tokenizer)
    trainer: Any = Trainer(model, arguments, collate, train_dataset=rows, callbacks=[TrainingBar(shown)])
    trainer.remove_callback(PrinterCallback)
    trainer.save_model = save_trained
    trainer.train(resume_from_checkpoint=last_checkpoint(Path(arguments.output_dir or "")))


def _arguments(place: Path, task: FineTuningTask, subject: Subject) -> TrainingArguments:
    device = torch.device(subject.device)
    arguments = TrainingArguments(
        output_dir=str(place),
        num_train_epochs=task.epochs,
        per_device_train_batch_size=task.batch_size,
        learning_rate=task.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=WARMUP,
        weight_decay=0.0,
        train_sampling_strategy="group_by_length",
        bf16=task.precision == "bfloat16",
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
    arguments._n_gpu = 1  # more GPUs would silently multiply the batch
    return arguments


def _fingerprint(model: PreTrainedModel, rows: "Dataset", task: FineTuningTask, subject: Subject) -> str:
    """A digest of everything that a run depends on, so that it does not resume from another run."""
    settings = {**asdict(task), "seed": subject.seed}
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=8)
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    for batch in rows.iter(1000):
        digest.update(json.dumps(batch, sort_keys=True).encode())
    return digest.hexdigest()


def last_checkpoint(place: Path) -> str | None:
    """The newest complete checkpoint; its state file is written last."""
    found: list[tuple[int, Path]] = []
    for file in place.glob("checkpoint-*/trainer_state.json"):
        try:
            found.append((TrainerState.load_from_json(str(file)).global_step, file.parent))
        except (ValueError, TypeError):  # incomplete
            continue
    return str(max(found)[1]) if found else None


@torch.inference_mode()
def predict(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: "Dataset",
    outputs: Sequence[str],
    task: FineTuningTask,
    progress: bool = False,
) -> list[tuple[Tensor, ...]]:
    """The named outputs of a model for each row, float32 on the CPU, padded as in their batch."""
    model.eval()
    collate = DataCollatorWithPadding(tokenizer)
    rows = rows.select_columns([name for name in INPUTS if name in rows.column_names])
    found: list[tuple[Tensor, ...]] = [()] * len(rows)
    batches = list(by_length(list(map(len, rows["input_ids"])), EVALUATION_BATCHES * task.batch_size))
    with torch.autocast(model.device.type, torch.bfloat16, enabled=task.precision == "bfloat16"):
        for batch in Bar(batches, desc="predicting", disable=not progress):
            inputs = collate([rows[row] for row in batch])
            out = model(**{name: tensor.to(model.device) for name, tensor in inputs.items()})
            columns = [out[name].float().cpu() for name in outputs]
            if not all(bool(column.isfinite().all()) for column in columns):
                raise ValueError("the fine-tuned model gives NaN or infinite values; lower its learning_rate")
            for row, values in zip(batch, zip(*columns, strict=True), strict=True):
                found[row] = values
    return found
