"""Token weights by learning: the gates of DiscBlock-D.

"Block-wise Word Embedding Compression Revisited: Better Weighting and Structuring", Lee, Lee, Moon, Findings of EMNLP
2021, and its public code. A gate for each token, at first its TF-IDF over the largest one, says how many coordinates of
its row are kept; gates, and five square layers that make up for what is masked, are trained by plain SGD while the
model is frozen:

    loss = loss of the task + 25 ||0.95 - (1 - g)||_2      over the whole vocabulary, g clamped to [0.001, 1]

The epoch is kept whose gates make the best table by block SVD, judged on held-out text.

The loss of the task is that of a fine-tuned model on the rows of a task of GLUE, or that of a language model on text.

Our choices: where there is neither, the distance of the model's hidden states from those without gates, relative and
averaged over its layers as in `recover`, so that text without labels will do; the start counts as an epoch, so that the
gates are never worse than TF-IDF on what is held out; the learning rate falls after the first third of the epochs, as
in the published 30.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, PreTrainedModel

from vocabpress.budget import Budget
from vocabpress.calibrate.calibration import Calibration
from vocabpress.calibrate.counts import tfidf
from vocabpress.calibrate.gated import LEAST_GATE, MOST_GATE, Gated, Rows
from vocabpress.evaluate.finetuned.training import padded
from vocabpress.files import check_place
from vocabpress.fitting.quantise import Factors
from vocabpress.hf.checkpoint import named_class, open_model, open_tokenizer
from vocabpress.hf.compress import check_device
from vocabpress.hf.folders import find_folder
from vocabpress.hf.modules import TokenEmbedding
from vocabpress.hf.original import Original
from vocabpress.methods import DiscBlock
from vocabpress.progress import Bar
from vocabpress.recover.lesson import Lesson, Source, read_lesson
from vocabpress.recover.loop import ready
from vocabpress.recover.objective import terms, trace
from vocabpress.recover.pair import check_classifier
from vocabpress.recover.settings import Recovery
from vocabpress.recover.text import UNSCORED, Example, batch_plan

RATE_DECAY = 1.15


@dataclass(frozen=True)
class GateSettings:
    """How gates are learned; the numbers are the paper's unless said otherwise.

    Attributes:
        epochs: Passes over the text; the paper has 30.
        batch_size: Sequences a step.
        max_length: Tokens of a sequence.
        held_out: Sequences that are never trained on, at most a tenth of all.
        learning_rate: Of SGD; after the first third of the epochs each divides it by 1.15.
        clip: The most that the gradient's norm may be.
        sparsity: What 1 - g is drawn to.
        sparsity_weight: How strongly.
        temperature: Of the Gumbel softmax that selects a layer.
        blocks: Of the layers, and of the tables that are judged.
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


@dataclass(frozen=True)
class GateReport:
    """What the learning of gates did.

    Attributes:
        output: The file written.
        budget: Of the tables that were judged.
        loss: What is trained on and judged by: ``"hidden"``, the relative error of the hidden states; ``"model"``, a
            language model's own loss; or the name of the task.
        held_out: That loss on held-out sequences, with the table that the gates make: at the start (TF-IDF), and after
            each epoch.
        best_epoch: Whose gates were written; 0 is the start.
        mean_gate: Of what was written.
        training_sequences: At hand.
        held_out_sequences: Set aside.
        seconds: Of it all.
    """

    output: str
    budget: str
    loss: str
    held_out: list[float]
    best_epoch: int
    mean_gate: float
    training_sequences: int
    held_out_sequences: int
    seconds: float


def learn_gates(
    model: str | Path,
    output: str | Path,
    *,
    text: Sequence[str | Path] = (),
    task: str | None = None,
    data: str | Path | None = None,
    budget: Budget | None = None,
    settings: GateSettings | None = None,
    seed: int = 0,
    device: str | None = None,
    progress: bool = False,
) -> GateReport:
    """Learn gates for the tokens of a model, and write them as a `Calibration`, for `compress(calibration=…)`.

    Args:
        model: A hub id, or a folder; not compressed. With a task, a classifier that was fine-tuned for it.
        output: The file to write; one that is there is replaced, when all is done.
        text: UTF-8 text files, a sequence and a document of the TF-IDF a line.
        task: Instead of text: a task of GLUE, whose training rows and labels are learned from.
        data: Folder of the data sets; None takes the hub's.
        budget: Of the tables that are judged; ratio 25 to float32 if None.
        settings: How long and how fast; None takes the defaults.
        seed: Of what is held out, the order of the text, and the noise.
        device: Where to run; None stays on the CPU.
        progress: Whether to draw progress bars on stderr.

    Raises:
        ValueError: With one line that says what was wrong and what to try; nothing was written then.
    """
    begun = time.perf_counter()
    settings, budget = settings or GateSettings(), budget or Budget.ratio(25)
    check_place(output)
    check_device(device)
    source = Source(text, task, None if data is None else Path(data))
    folder = find_folder(model)
    opened, tokenizer = _open(folder, source, settings)
    table = Original.of(opened).weight
    recovery = Recovery(
        batch_size=settings.batch_size,
        max_length=settings.max_length,
        held_out=settings.held_out,
        language_model=settings.language_model,
    )
    lesson = read_lesson(source, opened, tokenizer, recovery, seed, progress)
    scores = tfidf(source.documents(progress), tokenizer, len(table))
    place = torch.device(device or "cpu")
    opened.to(place)  # pyright: ignore[reportArgumentType]
    best, held_out = _Learning(opened, scores / scores.max(), lesson, settings, budget, seed, place).learn(progress)
    texts = tuple(Path(file).name for file in text) or ((task,) if task else ())
    Calibration(weights=best, source="gates", texts=texts).save(output)
    return GateReport(
        output=str(output),
        budget=str(budget),
        loss=task or ("model" if settings.language_model else "hidden"),
        held_out=held_out,
        best_epoch=min(range(len(held_out)), key=held_out.__getitem__),
        mean_gate=float(best.mean()),
        training_sequences=len(lesson.sequences.training),
        held_out_sequences=len(lesson.sequences.held_out),
        seconds=time.perf_counter() - begun,
    )


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


class _Learning:
    """One training run; the model's embedding is replaced by a `Gated` one."""

    def __init__(
        self,
        model: PreTrainedModel,
        gates: Tensor,
        lesson: Lesson,
        settings: GateSettings,
        budget: Budget,
        seed: int,
        device: torch.device,
    ) -> None:
        self.model, self.sequences, self.settings = model, lesson.sequences, settings
        self.labelled = lesson.labelled
        self.budget, self.seed, self.device = budget, seed, device
        model.requires_grad_(False)
        generator = torch.Generator(device).manual_seed(seed)
        embedding: Any = model.get_input_embeddings()
        self.gated = Gated(embedding, gates, settings.blocks, settings.temperature, generator)
        model.set_input_embeddings(self.gated)

    def learn(self, progress: bool) -> tuple[Tensor, list[float]]:
        """The best gates, shape (V) on the CPU, and the held-out errors at the start and after each epoch."""
        settings = self.settings
        best, errors = self.gated.gates.detach().cpu().clone(), [self._judge()]
        optimiser = torch.optim.SGD(self.gated.trained(), lr=settings.learning_rate)
        lengths = [len(example["input_ids"]) for example in self.sequences.training]
        steps = max(1, len(lengths) // settings.batch_size)
        plan = batch_plan(lengths, settings.batch_size, settings.epochs * steps, self.seed)
        with Bar(total=len(plan), desc="learning gates", disable=not progress) as bar:
            for epoch in range(1, settings.epochs + 1):
                late = max(0, epoch - -(-settings.epochs // 3))
                optimiser.param_groups[0]["lr"] = settings.learning_rate / RATE_DECAY**late
                for chosen in plan[(epoch - 1) * steps : epoch * steps]:
                    self._step([self.sequences.training[index] for index in chosen], optimiser)
                    bar.update()
                errors.append(self._judge())
                if errors[-1] < min(errors[:-1]):
                    best = self.gated.gates.detach().cpu().clone()
                bar.set_note(epoch=epoch, held_out=f"{errors[-1]:.4g}", best=f"{min(errors):.4g}")
        return best, errors

    def _step(self, rows: list[Example], optimiser: torch.optim.Optimizer) -> None:
        gated, settings = self.gated, self.settings
        error, _ = self._error(rows, gated.gated)
        sparse = (settings.sparsity - (1 - gated.gates)).norm()
        loss = error + settings.sparsity_weight * sparse
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(gated.trained(), settings.clip)
        optimiser.step()
        gated.gates.data.clamp_(LEAST_GATE, MOST_GATE)

    def _error(self, examples: list[Example], rows: Rows) -> tuple[Tensor, int]:
        """The loss that is not sparsity's, with other rows in the embedding, and how much the batch counts."""
        batch = ready(self.sequences.collate(examples), self.model, self.device)
        if self.labelled:
            with self.gated.reading(rows):
                loss: Any = self.model(**batch).loss
            return loss, int((batch["labels"] != UNSCORED).sum())
        with torch.no_grad():
            aim = trace(self.model, batch, logits=False)
        with self.gated.reading(rows):
            found = trace(self.model, batch, logits=False)
        errors = terms(found, aim, batch["attention_mask"])
        return errors.get("hidden", errors["embedding"]), int(batch["attention_mask"].sum())

    @torch.no_grad()
    def _judge(self) -> float:
        """The loss on what is held out, with the table that the gates as they are make."""
        settings = self.settings
        method = DiscBlock(settings.blocks, settings.factors)
        table = method.fit(self.gated.weight, budget=self.budget, token_weights=self.gated.gates.detach())
        rows = TokenEmbedding(table, self.gated.original, owner=False).forward
        examples = sorted(self.sequences.held_out, key=lambda example: len(example["input_ids"]))
        summed, counted = 0.0, 0
        for start in range(0, len(examples), settings.batch_size):
            error, count = self._error(examples[start : start + settings.batch_size], rows)
            summed, counted = summed + float(error) * count, counted + count
        return summed / counted
