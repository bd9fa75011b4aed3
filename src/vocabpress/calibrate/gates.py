"""Token weights by learning: the gates of DiscBlock-D.

"Block-wise Word Embedding Compression Revisited: Better Weighting and Structuring", Lee, Lee, Moon, Findings of EMNLP
2021, and its public code. Each token has a gate, which starts at its TF-IDF over the largest one, and decides how many
coordinates of its row stay. Gates, and five square layers that compensate for masked coordinates, are trained by plain
SGD while the model is frozen:

    loss = loss of the task + 25 ||0.95 - (1 - g)||_2      over the whole vocabulary, g clamped to [0.001, 1]

The best epoch is the one whose gates make the best table by block SVD, evaluated on held-out text.

The loss of the task is that of a fine-tuned model on the rows of a task of GLUE, or that of a language model on text.

Our choices: without either, it is the distance of the model's hidden states from those without gates, relative and
averaged over its layers as in `recover`, so that text without labels suffices. The start counts as an epoch, so that
the gates are never worse than TF-IDF on held-out text. The learning rate falls after the first third of the epochs, as
in the published 30.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from vocabpress.budget import Budget
from vocabpress.calibrate.calibration import Calibration
from vocabpress.calibrate.counts import count_tokens, tfidf
from vocabpress.calibrate.gated import LEAST_GATE, MOST_GATE, Gated, Rows
from vocabpress.evaluate.finetuned.training import padded
from vocabpress.fitting.quantise import Factors
from vocabpress.hf.checkpoint import named_class, open_model, open_tokenizer
from vocabpress.hf.modules import TokenEmbedding
from vocabpress.hf.original import Original
from vocabpress.methods import DiscBlock
from vocabpress.recover.lesson import Lesson, Source, read_lesson
from vocabpress.recover.loop import Training, make_accelerator
from vocabpress.recover.objective import terms, trace
from vocabpress.recover.pair import check_classifier
from vocabpress.recover.settings import LessonSettings
from vocabpress.recover.text import UNSCORED, Batch, ready
from vocabpress.settings import AtLeast1, BlockCount, NotNegative, Positive

if TYPE_CHECKING:
    from accelerate import Accelerator

RATE_DECAY = 1.15


@dataclass(frozen=True, kw_only=True)
class GateSettings(LessonSettings):
    """How gates are learned; the numbers are the paper's unless noted.

    Attributes:
        epochs: Passes over the text; the paper has 30.
        learning_rate: Learning rate of SGD; each epoch after the first third divides it by 1.15.
        clip: Upper limit of the gradient's norm.
        sparsity: Target of 1 - g.
        sparsity_weight: Weight of the distance from it.
        temperature: Temperature of the Gumbel softmax that selects a layer.
        blocks: Number of layers, and of blocks in the evaluated tables.
        factors: Number format of those tables.

    Raises:
        ValueError: If a value is out of range.
    """

    epochs: AtLeast1 = 10
    learning_rate: Positive = 0.5
    clip: Positive = 0.25
    sparsity: Annotated[float, Field(ge=0, le=1)] = 0.95
    sparsity_weight: NotNegative = 25.0
    temperature: Positive = 1.0
    blocks: BlockCount = 5
    factors: Factors = "float16"


def learn_gates(
    folder: Path,
    source: Source,
    *,
    budget: Budget,
    settings: GateSettings,
    seed: int,
    device: str | None,
    progress: bool,
) -> Calibration:
    """Learn gates for a model's tokens, see `vocabpress.calibrate.calibrate`; ``budget`` is of evaluated tables."""
    opened, tokenizer = _open(folder, source, settings)
    rows = Original.of(opened).shape[0]
    lesson = read_lesson(source, opened, tokenizer, settings, seed, progress)
    counts = count_tokens(source.documents(progress), tokenizer, rows)
    scores = tfidf(source.documents(progress), tokenizer, rows)
    accelerator = make_accelerator(device or "cpu")
    opened.to(accelerator.device)  # pyright: ignore[reportArgumentType]
    learning = Learning(opened, scores / scores.max(), lesson, settings, budget, seed, accelerator)
    losses, best = learning.learn(progress and accelerator.is_main_process)
    return Calibration(best, counts, "gates", tokens=int(counts.double().sum()), losses=tuple(losses))


def _open(folder: Path, source: Source, settings: GateSettings) -> tuple[PreTrainedModel, Any]:
    """The model, with its head if the loss needs it, and its tokenizer."""
    if source.task is None:
        loader = named_class(folder) if settings.language_model else AutoModel
        return open_model(folder, loader), open_tokenizer(folder)
    opened = open_model(folder, named_class(folder))
    check_classifier(opened, f"the model {folder}", source)
    return opened, padded(open_tokenizer(folder), folder)


@dataclass
class Learning:
    """One training run, from the gates ``start``, (V); ``budget`` is the size of the evaluated tables.

    The embedding of the model, on the accelerator's device, is replaced by a `Gated` one; all else is frozen.
    """

    model: PreTrainedModel
    start: Tensor
    lesson: Lesson
    settings: GateSettings
    budget: Budget
    seed: int
    accelerator: "Accelerator"

    def __post_init__(self) -> None:
        self.model.requires_grad_(False)
        generator = torch.Generator(self.accelerator.device).manual_seed(self.seed)
        embedding: Any = self.model.get_input_embeddings()
        self.gated = Gated(embedding, self.start, self.settings.blocks, self.settings.temperature, generator)
        self.model.set_input_embeddings(self.gated)

    def learn(self, progress: bool) -> tuple[list[float], Tensor]:
        """Held-out losses at the start and after each epoch, and the best gates, (V) on the CPU."""
        settings, sequences, gates = self.settings, self.lesson.sequences, self.gated.gates
        steps = max(1, len(sequences.training) // settings.batch_size)  # of an epoch
        training = Training(
            self.model,
            torch.optim.SGD(self.gated.parameters(recurse=False), lr=settings.learning_rate),
            rate=lambda step: RATE_DECAY ** -max(0, step // steps + 1 - -(-settings.epochs // 3)),
            loss=self._loss,
            judge=self.judge,
            sequences=sequences,
            batch_size=settings.batch_size,
            steps=settings.epochs * steps,
            look_every=steps,
            accelerator=self.accelerator,
            seed=self.seed,
            title="learning gates" if progress else "",
            clip=settings.clip,
            after_step=lambda: gates.data.clamp_(LEAST_GATE, MOST_GATE),
        )
        start = gates.detach().cpu().clone()
        done = training.train(self.judge())
        found = [tensor for name, tensor in done.best.items() if name.endswith(".gates")]
        return done.losses, found[0] if found else start

    def _loss(self, model: nn.Module, batch: Batch) -> Tensor:
        error, _ = self._error(model, batch, self.gated.gated)
        sparse = (self.settings.sparsity - (1 - self.gated.gates)).norm()
        return error + self.settings.sparsity_weight * sparse

    def _error(self, model: nn.Module, batch: Batch, rows: Rows) -> tuple[Tensor, int]:
        """The loss without sparsity, with other rows in the embedding, and the weight of the batch."""
        if self.lesson.labelled:
            with self.gated.reading(rows):
                loss: Any = model(**batch).loss
            return loss, int((batch["labels"] != UNSCORED).sum())
        with torch.no_grad():
            aim = trace(self.model, batch, logits=False)
        with self.gated.reading(rows):
            found = trace(model, batch, logits=False)
        errors = terms(found, aim, batch["attention_mask"])
        return errors.get("hidden", errors["embedding"]), int(batch["attention_mask"].sum())

    @torch.no_grad()
    def judge(self) -> float:
        """The held-out loss, with a table that is compressed by the current gates."""
        settings = self.settings
        method = DiscBlock(settings.blocks, settings.factors)
        table = method.fit(self.gated.weight, budget=self.budget, token_weights=self.gated.gates.detach())
        rows = TokenEmbedding(table, self.gated.original, owner=False).forward
        summed, counted = 0.0, 0
        for batch in self.lesson.sequences.held_out_batches(settings.batch_size):
            error, count = self._error(self.model, ready(batch, self.model, self.accelerator.device), rows)
            summed, counted = summed + float(error) * count, counted + count
        return summed / counted
