"""Token weights by learning: the gates of DiscBlock-D.

"Block-wise Word Embedding Compression Revisited: Better Weighting and Structuring", Lee, Lee, Moon, Findings of EMNLP
2021, and its public code. A gate for each token, at first its TF-IDF over the largest one, says how many coordinates of
its row stay; gates, and five square layers that make up for what is masked, are trained by plain SGD while the
model is frozen:

    loss = loss of the task + 25 ||0.95 - (1 - g)||_2      over the whole vocabulary, g clamped to [0.001, 1]

The epoch wins whose gates make the best table by block SVD, judged on held-out text.

The loss of the task is that of a fine-tuned model on the rows of a task of GLUE, or that of a language model on text.

Our choices: where there is neither, the distance of the model's hidden states from those without gates, relative and
averaged over its layers as in `recover`, so that text without labels will do; the start counts as an epoch, so that the
gates are never worse than TF-IDF on what is held out; the learning rate falls after the first third of the epochs, as
in the published 30.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
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
from vocabpress.recover.settings import Recovery
from vocabpress.recover.text import UNSCORED, Batch, ready

if TYPE_CHECKING:
    from accelerate import Accelerator

RATE_DECAY = 1.15


@dataclass(frozen=True)
class GateSettings:
    """How gates are learned; the numbers are the paper's where nothing else is written.

    Attributes:
        epochs: Passes over the text; the paper has 30.
        batch_size: Sequences a step.
        max_length: Tokens of a sequence.
        held_out: Sequences that are never trained on, at most a tenth of all.
        learning_rate: Of SGD; after the first third of the epochs each divides it by 1.15.
        clip: The most that the gradient's norm may be.
        sparsity: What 1 - g is drawn to.
        sparsity_weight: How strongly.
        temperature: The Gumbel softmax that selects a layer divides by it.
        blocks: How many layers, and how many blocks of the tables that are judged.
        factors: Number format of those tables.
        language_model: Whether the loss on text is the model's own, as a masked or causal language model.

    Raises:
        ValueError: If a value is out of range.
    """

    epochs: int = 10
    batch_size: int = 16
    max_length: int = 128
    held_out: int = 256
    learning_rate: float = 0.5
    clip: float = 0.25
    sparsity: float = 0.95
    sparsity_weight: float = 25.0
    temperature: float = 1.0
    blocks: int = 5
    factors: Factors = "float16"
    language_model: bool = False

    def __post_init__(self) -> None:
        DiscBlock(self.blocks, self.factors)  # refuses both in its own words
        for name, least in (("epochs", 1), ("batch_size", 1), ("held_out", 1), ("max_length", 4)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("learning_rate", "clip", "temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.sparsity <= 1 or self.sparsity_weight < 0:
            raise ValueError(
                f"sparsity is 0 to 1 and its weight not negative, got {self.sparsity} and {self.sparsity_weight}"
            )


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
    """Learn gates for the tokens of a model; see `vocabpress.calibrate.calibrate`.

    Raises:
        ValueError: If the model or the source is unusable, or the budget too small.
    """
    opened, tokenizer = _open(folder, source, settings)
    rows = Original.of(opened).shape[0]
    recovery = Recovery(
        batch_size=settings.batch_size,
        max_length=settings.max_length,
        held_out=settings.held_out,
        language_model=settings.language_model,
    )
    lesson = read_lesson(source, opened, tokenizer, recovery, seed, progress)
    counts = count_tokens(source.documents(progress), tokenizer, rows)
    scores = tfidf(source.documents(progress), tokenizer, rows)
    accelerator = make_accelerator(device or "cpu")
    opened.to(accelerator.device)  # pyright: ignore[reportArgumentType]
    learning = Learning(opened, scores / scores.max(), lesson, settings, budget, seed, accelerator)
    losses, best = learning.learn(progress and accelerator.is_main_process)
    return Calibration(best, counts, "gates", tokens=int(counts.double().sum()), losses=tuple(losses))


def _open(folder: Path, source: Source, settings: GateSettings) -> tuple[PreTrainedModel, Any]:
    """The model, with its head where the loss needs it, and its tokenizer.

    Raises:
        ValueError: If it can't be opened, or is no classifier of the task.
    """
    if source.task is None:
        loader = named_class(folder) if settings.language_model else AutoModel
        return open_model(folder, loader), open_tokenizer(folder)
    opened = open_model(folder, named_class(folder))
    check_classifier(opened, f"the model {folder}", source)
    return opened, padded(open_tokenizer(folder), folder)


@dataclass
class Learning:
    """One training run; the model's embedding is replaced by a `Gated` one, and everything else of it frozen.

    Attributes:
        model: On the accelerator's device.
        start: Gates to start from, (V).
        lesson: What they are trained on.
        settings: How.
        budget: The size of the tables that are judged.
        seed: Decides the order of the sequences, and the noise.
        accelerator: See `make_accelerator`.
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
        """The held-out losses at the start and after each epoch, and the best gates, shape (V) on the CPU."""
        settings, sequences, gates = self.settings, self.lesson.sequences, self.gated.gates
        steps = max(1, len(sequences.training) // settings.batch_size)
        training = Training(
            self.model,
            torch.optim.SGD(self.gated.trained(), lr=settings.learning_rate),
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
        """The loss that is not sparsity's, with other rows in the embedding, and how much the batch counts."""
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
        """The loss on what is held out, with the table that the gates as they are make."""
        settings = self.settings
        method = DiscBlock(settings.blocks, settings.factors)
        table = method.fit(self.gated.weight, budget=self.budget, token_weights=self.gated.gates.detach())
        rows = TokenEmbedding(table, self.gated.original, owner=False).forward
        summed, counted = 0.0, 0
        for batch in self.lesson.sequences.held_out_batches(settings.batch_size):
            error, count = self._error(self.model, ready(batch, self.model, self.accelerator.device), rows)
            summed, counted = summed + float(error) * count, counted + count
        return summed / counted
