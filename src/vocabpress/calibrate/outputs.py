"""Outputs of a model for batches of text, to be differentiated for a calibration.

The output is

* the sentence embedding, of length 1, of a model that sentence-transformers knows;
* the prediction of a language model: the log-probability of a word drawn from it;
* else the last hidden states, each of length 1.

Embeddings and states are multiplied by random vectors and summed, because a gradient needs a scalar.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from vocabpress.evaluate.batches import by_length
from vocabpress.evaluate.language import CAUSAL, MASKED, head_kind, longest_input
from vocabpress.evaluate.sentences import open_encoder
from vocabpress.hf.checkpoint import named_class, open_model, open_tokenizer
from vocabpress.recover.text import (
    UNSCORED,
    Batch,
    Sequences,
    lengths_of,
    ready,
    tokenise,
    tokenise_stream,
    with_own_labels,
    with_passages,
)
from vocabpress.texts import read_lines

FAST_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")  # what processors call their products of it


class Ran(NamedTuple):
    """What a model gave for a batch.

    Attributes:
        value: A scalar to be differentiated.
        counts: Which embedded tokens count, (batch, tokens).
        predicts: At which positions a language model predicts, (batch, tokens); None for other models.
        probability: The predicted probability of each token, summed over these positions, (V); None for other models.
    """

    value: Tensor
    counts: Tensor
    predicts: Tensor | None = None
    probability: Tensor | None = None


Output = Callable[[], Ran]
"""Runs the model on a batch."""


@dataclass(frozen=True)
class Outputs:
    """Outputs of a frozen model for text: ``of`` is their kind, and ``sequences`` the number of sequences."""

    model: PreTrainedModel
    of: Literal["sentence", "predictions", "hidden"]
    sequences: int
    batches: Sequence[Output]


@dataclass(frozen=True)
class Reading:
    """How text is read for a calibration: arguments of `vocabpress.calibrate.calibrate`, and two fields more.

    Attributes:
        stream: Whether lines that follow one another are read together: by a causal language model as windows of one
            stream, by a sentence encoder in part as passages. Without, each line is a text.
        dtype: In which the model of tokens runs.
    """

    text: Sequence[str | Path]
    sequences: int
    batch_size: int
    max_length: int
    seed: int
    device: torch.device
    progress: bool
    stream: bool = False
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        if min(self.sequences, self.batch_size) < 1 or self.max_length < 4:
            raise ValueError(
                "sequences and batch_size are at least 1 and max_length 4, "
                f"got {self.sequences}, {self.batch_size}, {self.max_length}"
            )
        if not self.text:
            raise ValueError("a calibration reads text; give --text FILE, or text=[…]")


def dtype_to_run_in(stored: torch.dtype, device: torch.device) -> torch.dtype:
    """Bfloat16 for what is stored in it, where that halves the time; else float32."""
    able = device.type != "cpu" or any(torch.cpu.get_capabilities().get(name) for name in FAST_BFLOAT16)
    return stored if stored == torch.bfloat16 and able else torch.float32


def read_outputs(folder: Path, reading: Reading) -> Outputs:
    """Open the model in a folder, and prepare its outputs."""
    return (_of_sentences if (folder / "modules.json").is_file() else _of_tokens)(folder, reading)


def _of_sentences(folder: Path, reading: Reading) -> Outputs:
    encoder: Any = open_encoder(folder, str(reading.device))
    encoder.requires_grad_(False)
    encoder.max_seq_length = min(reading.max_length, encoder.max_seq_length or reading.max_length)
    draw = torch.Generator().manual_seed(reading.seed)

    def output(sentences: list[str]) -> Output:
        def run() -> Ran:
            features = encoder.tokenize(sentences)
            features |= {k: v.to(reading.device) for k, v in features.items() if isinstance(v, Tensor)}
            embedded = nn.functional.normalize(encoder(features)["sentence_embedding"], dim=-1)
            return Ran(_projected(embedded, draw), features["attention_mask"].bool())

        return run

    lines = list(dict.fromkeys(read_lines(reading.text, reading.progress)))
    texts = _drawn(with_passages(lines, reading.seed) if reading.stream else lines, reading, draw)
    prompts = [prompt for prompt in encoder.prompts.values() if prompt] or [""]
    texts = [f"{prompts[number % len(prompts)]}{text}" for number, text in enumerate(texts)]
    batches = by_length(list(map(len, texts)), reading.batch_size, longest_first=False)
    batches = [output([texts[row] for row in rows]) for rows in batches]
    return Outputs(encoder[0].auto_model, "sentence", len(texts), batches)


def _of_tokens(folder: Path, reading: Reading) -> Outputs:
    kind = head_kind(folder)
    model = open_model(folder, named_class(folder), dtype=reading.dtype) if kind else _without_head(folder)
    kind = None if model.config.is_encoder_decoder else kind
    model.to(reading.device).requires_grad_(False)  # pyright: ignore[reportArgumentType]
    tokenizer, draw = open_tokenizer(folder), torch.Generator().manual_seed(reading.seed)

    def output(batch: Batch) -> Output:
        def run() -> Ran:
            labels, counts = batch.pop("labels", None), batch["attention_mask"].bool()
            found: Any = model(**batch)
            if labels is None:
                return Ran(_projected(nn.functional.normalize(found[0][counts], dim=-1), draw), counts)
            scored = labels != UNSCORED
            predicts = scored if kind == MASKED else nn.functional.pad(scored[:, 1:], (0, 1))  # a causal model: ahead
            logs = found.logits[predicts].float().log_softmax(-1)
            predicted = logs.detach().exp()
            words = predicted.cpu().multinomial(1, generator=draw).to(reading.device)
            return Ran(logs.gather(1, words).sum(), counts, predicts, predicted.sum(0))

        return run

    read = tokenise_stream if reading.stream and kind == CAUSAL else tokenise
    length = longest_input(model, tokenizer, reading.max_length)
    examples = _drawn(read(reading.text, tokenizer, length, reading.progress), reading, draw)
    sequences = Sequences(examples, [], tokenizer.pad_token_id or 0)  # pyright: ignore[reportArgumentType]
    if kind in (MASKED, CAUSAL):
        sequences = with_own_labels(sequences, model, tokenizer, reading.seed)
    examples = sequences.training
    batches = by_length(lengths_of(examples), reading.batch_size, longest_first=False)
    batches = [output(ready(sequences.collate([examples[i] for i in b]), model, reading.device)) for b in batches]
    return Outputs(model, "predictions" if kind else "hidden", len(examples), batches)


def _without_head(folder: Path) -> PreTrainedModel:
    try:
        return open_model(folder, AutoModel)
    except ValueError:  # such as an encoder whose type has a decoder, too
        return open_model(folder, named_class(folder)).base_model  # pyright: ignore[reportReturnType]


def _drawn(items: list[Any], reading: Reading, draw: torch.Generator) -> list[Any]:
    return [items[i] for i in torch.randperm(len(items), generator=draw)[: reading.sequences].tolist()]


def _projected(vectors: Tensor, draw: torch.Generator) -> Tensor:
    return (vectors * torch.randn(vectors.shape, generator=draw).to(vectors.device)).sum()
