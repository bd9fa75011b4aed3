"""A Trainer that an interrupted run goes on from, to the same numbers as one that was not interrupted."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments

from vocabpress.evaluate.finetuned.rows import Collate, Rows
from vocabpress.progress import Bar


class TrainingBar(TrainerCallback):
    """A progress bar on stderr; the Trainer's own also writes to stdout."""

    def __init__(self, shown: bool) -> None:
        self.shown, self.bar = shown, Bar(disable=True)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar = Bar(total=state.max_steps, initial=state.global_step, desc="fine-tuning", disable=not self.shown)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.update()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.close()


def make_trainer(
    model: PreTrainedModel, rows: Rows, collate: Collate, arguments: TrainingArguments, progress: bool
) -> Any:
    """A Trainer of transformers that saves and restores all that it trains, and writes nothing to stdout."""
    from safetensors.torch import save_model
    from transformers import PrinterCallback, Trainer  # here, because it loads half of the extra `train`

    class PlainStateTrainer(Trainer):
        """Saves the numbers that it trains.

        `save_pretrained` would round the table to its stored dtype and give its tensors other names, so that a resumed
        run would go on with the table it started from.
        """

        def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
            folder = Path(output_dir or arguments.output_dir or ".")
            folder.mkdir(parents=True, exist_ok=True)
            save_model(model, str(folder / "model.safetensors"))

    trainer = PlainStateTrainer(
        model=model, args=arguments, train_dataset=rows, data_collator=collate, callbacks=[TrainingBar(progress)]
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def fingerprint(model: PreTrainedModel, rows: Rows, settings: dict[str, Any]) -> str:
    """Of all that a run depends on, so that it can't go on from what another left."""
    digest = hashlib.blake2b(json.dumps(settings).encode(), digest_size=8)
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    for name, column in rows.inputs.items():
        digest.update(name.encode())
        for ids in column:
            digest.update(ids.tobytes())
    digest.update(json.dumps(rows.labels).encode())
    return digest.hexdigest()


def last_checkpoint(place: Path) -> str | None:
    """The newest checkpoint that was written to its end: its state file comes last."""
    found: list[tuple[int, Path]] = []
    for state in place.glob("checkpoint-*/trainer_state.json"):
        try:
            found.append((json.loads(state.read_text(encoding="utf-8"))["global_step"], state.parent))
        except (ValueError, KeyError):  # cut off while it was written
            continue
    return str(max(found)[1]) if found else None
