"""Text through a model: batches, and of each what the model says, from which a calibration takes gradients.

What is looked at is

* the sentence embedding, of length 1, of a model that sentence-transformers knows;
* the prediction of a language model: the log-probability of a word drawn from it;
* else the last hidden states, each of length 1.

Embeddings and states are seen through random projections, so that one number stands for all of theirs.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from vocabpress.evaluate.language import CAUSAL, MASKED, head_kind
from vocabpress.evaluate.sentences import open_encoder
from vocabpress.hf.checkpoint import named_class, open_model, open_tokenizer
from vocabpress.recover.loop import ready
from vocabpress.recover.text import UNSCORED, Sequences, tokenise, with_own_labels
from vocabpress.texts import read_lines

Output = Callable[[], tuple[Tensor, Tensor]]
"""Runs the model: a number to be derived, and which of the embedded tokens count, (batch, tokens)."""


def open_outputs(folder: Path, device: torch.device, seed: int) -> "Sentences | Tokens":
    """The model in a folder, ready to be read: `model`, `of`, `batches`."""
    return (Sentences if (folder / "modules.json").is_file() else Tokens)(folder, device, seed)


class Sentences:
    """A sentence encoder; the output is its embedding of a sentence."""

    of: Literal["sentence"] = "sentence"

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


class Tokens:
    """Any other model: the output is what it predicts, or its last hidden states."""

    def __init__(self, folder: Path, device: torch.device, seed: int) -> None:
        self.kind = head_kind(folder)
        self.of: Literal["predictions", "hidden"] = "predictions" if self.kind else "hidden"
        self.model = open_model(folder, named_class(folder) if self.kind else AutoModel)
        self.model.to(device).requires_grad_(False)  # pyright: ignore[reportArgumentType]
        self.tokenizer = open_tokenizer(folder)
        self.draw = torch.Generator().manual_seed(seed)
        self.device, self.seed, self.read = device, seed, 0

    def batches(
        self, text: Sequence[str | Path], most: int, batch_size: int, max_length: int, progress: bool
    ) -> Iterator[Output]:
        """A forward pass for each batch."""
        every = tokenise(text, self.tokenizer, max_length, progress)
        order = torch.randperm(len(every), generator=torch.Generator().manual_seed(self.seed)).tolist()
        sequences = Sequences([every[i] for i in order], [], self.tokenizer.pad_token_id or 0)
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
