"""The metric of a model: in which directions an error of an embedded token changes what the model says.

M = E[g^T g], g the gradient of a random projection of the output with respect to an embedded token, over the tokens of
unlabelled text. The output is

* the sentence embedding, of length 1, of a model that sentence-transformers knows;
* the prediction of a language model: g is then the gradient of the log-probability of a word drawn from it, so that M
  is the Fisher information of the embedding layer (Amari, 1998);
* else the last hidden states, each of length 1.

What a fit does with it: `vocabpress.metric`.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from vocabpress.evaluate.language import CAUSAL, MASKED, head_kind
from vocabpress.evaluate.sentences import open_encoder
from vocabpress.hf.checkpoint import named_class, open_model, open_tokenizer
from vocabpress.hf.compress import check_device
from vocabpress.hf.folders import find_folder
from vocabpress.hf.modules import TokenEmbedding
from vocabpress.metric import save_metric
from vocabpress.progress import Bar
from vocabpress.recover.loop import ready
from vocabpress.recover.text import UNSCORED, read_sequences, with_own_labels
from vocabpress.tensorfile import check_place
from vocabpress.texts import read_lines

Output = Callable[[], tuple[Tensor, Tensor]]
"""Runs the model: a number to be derived, and which of the embedded tokens count, (batch, tokens)."""


@dataclass(frozen=True)
class MetricReport:
    """What was measured.

    Attributes:
        output: The file written.
        of: ``"sentence"``, ``"predictions"`` or ``"hidden"``.
        sequences: Read.
        tokens: In them, over which the metric is a mean.
        effective_rank: Of the metric, ``(trace)^2 / trace of the square``: d if all directions matter alike.
        seconds: Of it all.
    """

    output: str
    of: str
    sequences: int
    tokens: int
    effective_rank: float
    seconds: float


def measure_metric(
    model: str | Path,
    output: str | Path,
    *,
    text: Sequence[str | Path],
    sequences: int = 3000,
    batch_size: int = 16,
    max_length: int = 128,
    seed: int = 0,
    device: str | None = None,
    progress: bool = False,
) -> MetricReport:
    """Measure the metric of a model on text, and write it for ``compress(metric=…)``.

    Args:
        model: A hub id, or a folder; not compressed.
        output: The file to write.
        text: UTF-8 text files, a sequence a line.
        sequences: At most so many, drawn from the text.
        batch_size: Sequences a step.
        max_length: Tokens of a sequence.
        seed: Of the draw, and of the projections.
        device: Where to run; None stays on the CPU.
        progress: Whether to draw progress bars on stderr.

    Raises:
        ValueError: With one line that says what was wrong and what to try; nothing was written then.
    """
    begun = time.perf_counter()
    if min(sequences, batch_size) < 1 or max_length < 4:
        raise ValueError(
            f"sequences and batch_size are at least 1 and max_length 4, got {sequences}, {batch_size}, {max_length}"
        )
    if not text:
        raise ValueError("a metric is measured on text; give --text FILE, or text=[…]")
    check_place(output)
    check_device(device)
    folder, place = find_folder(model), torch.device(device or "cpu")
    of = "sentence" if (folder / "modules.json").is_file() else "predictions" if head_kind(folder) else "hidden"
    reader = (_Sentences if of == "sentence" else _Tokens)(folder, place, seed)
    batches = reader.batches(text, sequences, batch_size, max_length, progress)
    embeddings, summed, counted = _embeddings(reader.model), torch.zeros(()), 0
    for run in Bar(batches, desc="metric", disable=not progress):
        gradients = gradients_of(embeddings, run).double()
        summed, counted = summed + (gradients.T @ gradients).cpu(), counted + len(gradients)
    metric = summed / counted
    save_metric(metric, output)
    rank = float(metric.trace() ** 2 / metric.square().sum())
    return MetricReport(str(output), of, reader.read, counted, rank, time.perf_counter() - begun)


def gradients_of(embeddings: Sequence[nn.Module], run: Output) -> Tensor:
    """The gradient at each embedded token that counts, (tokens, d), of what ``run`` returns.

    Args:
        embeddings: What turns ids into rows: those of an encoder and of its decoder may be two.
        run: Runs the model.
    """
    leaves: list[Tensor] = []

    def cut(_module: nn.Module, _inputs: Any, rows: Tensor) -> Tensor:
        leaves.append(rows.detach().requires_grad_())
        return leaves[-1]

    hooks = [embedding.register_forward_hook(cut) for embedding in embeddings]
    try:
        with torch.enable_grad():
            value, counts = run()
        gradients = torch.autograd.grad(value, leaves)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat([gradient[counts] for gradient in gradients])


class _Sentences:
    """A sentence encoder; the output is its embedding of a sentence."""

    def __init__(self, folder: Path, device: torch.device, seed: int) -> None:
        self.encoder: Any = open_encoder(folder, str(device))
        self.encoder.requires_grad_(False)
        self.draw = torch.Generator().manual_seed(seed)
        self.model: PreTrainedModel = self.encoder[0].auto_model
        self.device, self.read = device, 0

    def batches(
        self, text: Sequence[str | Path], most: int, batch_size: int, max_length: int, progress: bool
    ) -> Iterator[Output]:
        """A forward pass for each batch."""
        self.encoder.max_seq_length = min(max_length, self.encoder.max_seq_length or max_length)
        lines = list(dict.fromkeys(read_lines(text, progress)))
        picked = [lines[i] for i in torch.randperm(len(lines), generator=self.draw)[:most].tolist()]
        self.read = len(picked)
        picked.sort(key=len)
        return (self._output(picked[start : start + batch_size]) for start in range(0, len(picked), batch_size))

    def _output(self, sentences: list[str]) -> Output:
        def run() -> tuple[Tensor, Tensor]:
            features = self.encoder.tokenize(sentences)
            features |= {k: v.to(self.device) for k, v in features.items() if isinstance(v, Tensor)}
            embedded = nn.functional.normalize(self.encoder(features)["sentence_embedding"], dim=-1)
            projected = embedded * torch.randn(embedded.shape, generator=self.draw).to(self.device)
            return projected.sum(), features["attention_mask"].bool()

        return run


class _Tokens:
    """Any other model: the output is what it predicts, or its last hidden states."""

    def __init__(self, folder: Path, device: torch.device, seed: int) -> None:
        self.kind = head_kind(folder)
        self.model = open_model(folder, named_class(folder) if self.kind else AutoModel)
        self.model.to(device).requires_grad_(False)  # pyright: ignore[reportArgumentType]
        self.tokenizer = open_tokenizer(folder)
        self.draw = torch.Generator().manual_seed(seed)
        self.device, self.seed, self.read = device, seed, 0

    def batches(
        self, text: Sequence[str | Path], most: int, batch_size: int, max_length: int, progress: bool
    ) -> Iterator[Output]:
        """A forward pass for each batch."""
        sequences = read_sequences(text, self.tokenizer, max_length, 1, self.seed, progress)
        if self.kind in (MASKED, CAUSAL):
            sequences = with_own_labels(sequences, self.model, self.tokenizer, self.seed)
        examples = sorted(sequences.training[:most], key=lambda example: len(example["input_ids"]))
        self.read = len(examples)
        batches = (examples[start : start + batch_size] for start in range(0, len(examples), batch_size))
        return (self._output(ready(sequences.collate(batch), self.model, self.device)) for batch in batches)

    def _output(self, batch: dict[str, Tensor]) -> Output:
        def run() -> tuple[Tensor, Tensor]:
            labels, counts = batch.pop("labels", None), batch["attention_mask"].bool()
            output: Any = self.model(**batch)
            if labels is None:
                states = nn.functional.normalize(output[0][counts], dim=-1)
                return (states * torch.randn(states.shape, generator=self.draw).to(self.device)).sum(), counts
            logs = output.logits[_predicts(labels, self.kind)].float().log_softmax(-1)
            drawn = logs.detach().exp().cpu().multinomial(1, generator=self.draw).to(self.device)
            return logs.gather(1, drawn).sum(), counts

        return run


def _predicts(labels: Tensor, kind: str | None) -> Tensor:
    """Which positions predict a label: a causal model's the one before it."""
    scored = labels != UNSCORED
    return scored if kind == MASKED else nn.functional.pad(scored[:, 1:], (0, 1))


def _embeddings(model: PreTrainedModel) -> list[nn.Module]:
    """All modules that embed tokens by the input table.

    Raises:
        ValueError: If the model is compressed.
    """
    first: Any = model.get_input_embeddings()
    if isinstance(first, TokenEmbedding):
        raise ValueError("the model is compressed already; measure the original")
    return [module for module in model.modules() if isinstance(module, nn.Embedding) and module.weight is first.weight]
