"""Token weights by learning: the gates of DiscBlock-D.

"Block-wise Word Embedding Compression Revisited: Better Weighting and Structuring", Lee, Lee, Moon, Findings of EMNLP
2021, and its public code. A gate for each token, at first its TF-IDF over the largest one, says how many coordinates of
its row are kept; gates, and five square layers that make up for what is masked, are trained by plain SGD while the
model is frozen:

    loss = loss of the task + 25 ||0.95 - (1 - g)||_2      over the whole vocabulary, g clamped to [0.001, 1]

The epoch is kept whose gates make the best table by block SVD, judged on held-out text.

Our choices: instead of a task's loss, the distance of the model's hidden states from those without gates, relative and
averaged over its layers as in `recover`, so that text without labels will do; the start counts as an epoch, so that the
gates are never worse than TF-IDF on the held-out text; the learning rate falls after the first third of the epochs, as
in the published 30.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from vocabpress.budget import Budget
from vocabpress.fitting.quantise import Factors
from vocabpress.hf.checkpoint import find_folder, open_model, open_tokenizer
from vocabpress.hf.compress import check_device
from vocabpress.hf.modules import TokenEmbedding
from vocabpress.hf.tables import input_table
from vocabpress.methods import DiscBlock
from vocabpress.recover.gated import LEAST_GATE, MOST_GATE, Gated
from vocabpress.recover.loop import ready
from vocabpress.recover.objective import Batch, Traces, terms, trace
from vocabpress.recover.text import Example, Sequences, batch_plan, read_sequences
from vocabpress.weights import read_lines, save_weights, tfidf

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
        held_out: Relative error of the hidden states on held-out text, with the table that the gates make: at the start
            (TF-IDF), and after each epoch.
        best_epoch: Whose gates were written; 0 is the start.
        mean_gate: Of what was written.
        training_sequences: At hand.
        held_out_sequences: Set aside.
        seconds: Of it all.
    """

    output: str
    budget: str
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
    text: Sequence[str | Path],
    budget: Budget | None = None,
    settings: GateSettings | None = None,
    seed: int = 0,
    device: str | None = None,
    progress: bool = False,
) -> GateReport:
    """Learn gates for the tokens of a model, and write them as token weights, for `compress(weights=…)`.

    Args:
        model: A hub id, or a folder; not compressed.
        output: The file to write; one that is there is replaced, when all is done.
        text: UTF-8 text files, a sequence and a document of the TF-IDF a line.
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
    if Path(output).is_dir() or not Path(output).absolute().parent.is_dir():
        raise ValueError(f"can't write {output}: it is a folder, or in none; give a file, such as gates.safetensors")
    check_device(device)
    folder = find_folder(model)
    opened, tokenizer = open_model(folder), open_tokenizer(folder)
    _, table = input_table(opened)
    scores = tfidf(read_lines(text, progress), tokenizer, len(table))
    sequences = read_sequences(text, tokenizer, settings.max_length, settings.held_out, seed, progress)
    place = torch.device(device or "cpu")
    opened.to(place)  # pyright: ignore[reportArgumentType]
    lesson = _Lesson(opened, scores / scores.max(), sequences, settings, budget, seed, place)
    best, held_out = lesson.learn(progress)
    save_weights(best, output)
    return GateReport(
        output=str(output),
        budget=str(budget),
        held_out=held_out,
        best_epoch=min(range(len(held_out)), key=held_out.__getitem__),
        mean_gate=float(best.mean()),
        training_sequences=len(sequences.training),
        held_out_sequences=len(sequences.held_out),
        seconds=time.perf_counter() - begun,
    )


class _Lesson:
    """One training run; the model's embedding is replaced by a `Gated` one."""

    def __init__(
        self,
        model: PreTrainedModel,
        gates: Tensor,
        sequences: Sequences,
        settings: GateSettings,
        budget: Budget,
        seed: int,
        device: torch.device,
    ) -> None:
        self.model, self.sequences, self.settings = model, sequences, settings
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
        with tqdm(total=len(plan), desc="learning gates", unit="step", disable=not progress) as bar:
            for epoch in range(1, settings.epochs + 1):
                late = max(0, epoch - -(-settings.epochs // 3))
                optimiser.param_groups[0]["lr"] = settings.learning_rate / RATE_DECAY**late
                for chosen in plan[(epoch - 1) * steps : epoch * steps]:
                    self._step([self.sequences.training[index] for index in chosen], optimiser)
                    bar.update()
                errors.append(self._judge())
                if errors[-1] < min(errors[:-1]):
                    best = self.gated.gates.detach().cpu().clone()
                bar.set_postfix(epoch=epoch, held_out=f"{errors[-1]:.4g}", best=f"{min(errors):.4g}")
        return best, errors

    def _step(self, rows: list[Example], optimiser: torch.optim.Optimizer) -> None:
        batch = ready(self.sequences.collate(rows), self.model, self.device)
        with torch.no_grad():
            aim = self._trace(batch)
        gated, settings = self.gated, self.settings
        with gated.reading(gated.gated):
            found = self._trace(batch)
        sparse = (settings.sparsity - (1 - gated.gates)).norm()
        loss = terms(found, aim, batch["attention_mask"])["hidden"] + settings.sparsity_weight * sparse
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(gated.trained(), settings.clip)
        optimiser.step()
        gated.gates.data.clamp_(LEAST_GATE, MOST_GATE)

    def _trace(self, batch: Batch) -> Traces:
        return trace(self.model, batch, logits=False)

    @torch.no_grad()
    def _judge(self) -> float:
        """Relative error of the hidden states on held-out text, with the table that the gates as they are make."""
        settings, original = self.settings, self.gated.original
        method = DiscBlock(settings.blocks, settings.factors)
        table = method.fit(self.gated.weight, budget=self.budget, token_weights=self.gated.gates.detach())
        rows = TokenEmbedding(table, original, owner=False).forward
        summed, tokens = 0.0, 0
        for held in _batches(
            sorted(self.sequences.held_out, key=lambda example: len(example["input_ids"])), settings.batch_size
        ):
            batch = ready(self.sequences.collate(held), self.model, self.device)
            aim = self._trace(batch)
            with self.gated.reading(rows):
                found = self._trace(batch)
            count = int(batch["attention_mask"].sum())
            summed += float(terms(found, aim, batch["attention_mask"])["hidden"]) * count
            tokens += count
        return summed / tokens


def _batches(rows: list[Example], size: int) -> list[list[Example]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]
