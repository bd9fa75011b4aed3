"""Training blocks of text, and the training run shared by both reference models."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments


@dataclass(frozen=True)
class Recipe:
    """Length and learning rate of a training run.

    Attributes:
        steps: Optimiser steps.
        batch_size: Blocks a step.
        block: Tokens of a block.
        learning_rate: Peak rate of AdamW, after a linear warm-up over 5 % of the steps; then a cosine to zero.
    """

    steps: int
    batch_size: int
    block: int
    learning_rate: float


class Blocks(Dataset):
    """Blocks of token ids of equal length.

    Args:
        ids: One stream of tokens; an incomplete last block is left out.
        block: Tokens of a block.
        start: Tokens at the start of each block, such as ``[CLS]``; they count in its length.
        end: Tokens at its end, such as ``[SEP]``.
    """

    def __init__(self, ids: list[int], block: int, start: tuple[int, ...] = (), end: tuple[int, ...] = ()) -> None:
        inner = block - len(start) - len(end)
        count = len(ids) // inner
        body = torch.tensor(ids[: count * inner]).view(count, inner)
        before, after = (torch.tensor(side, dtype=torch.long).expand(count, len(side)) for side in (start, end))
        self.blocks = torch.cat([before, body, after], dim=1)

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.blocks[index]}


def stream(tokenizer: PreTrainedTokenizerBase, documents: Iterable[list[str]], separator: tuple[int, ...]) -> list[int]:
    """All documents as one stream of token ids, ``separator`` after each paragraph."""
    paragraphs = [paragraph for document in documents for paragraph in document]
    encoded = tokenizer(paragraphs, add_special_tokens=False, verbose=False)["input_ids"]
    return [token for ids in encoded for token in (*ids, *separator)]


def train(
    model: PreTrainedModel,
    blocks: Dataset,
    recipe: Recipe,
    output: Path,
    collate: Any,
    trainer: type[Trainer] = Trainer,
) -> None:
    """Train in bfloat16 autocast; a second call continues from the last checkpoint."""
    arguments = TrainingArguments(
        output_dir=str(output / "checkpoints"),
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        warmup_steps=recipe.steps // 20,
        lr_scheduler_type="cosine",
        weight_decay=0.01,
        bf16=True,
        use_cpu=not torch.cuda.is_available(),
        logging_steps=25,
        save_steps=200,
        save_total_limit=1,
        report_to=[],
        remove_unused_columns=False,
        seed=0,
    )
    run = trainer(model=model, args=arguments, train_dataset=blocks, data_collator=collate)
    run.train(resume_from_checkpoint=any((output / "checkpoints").glob("checkpoint-*")))
