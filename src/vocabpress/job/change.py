"""How much a compression changed what the model is for: its predictions, or its sentence embeddings.

The answers of the original are computed once, before its table is swapped. Then the same model answers again, with any
table in its place.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from vocabpress.evaluate.batches import by_length, encode_lines
from vocabpress.evaluate.language import CLASSES, MASKED, is_causal, logits_at, longest_input
from vocabpress.evaluate.pooling import embed, is_sentence_encoder
from vocabpress.evaluate.scores import divergences
from vocabpress.fitting.table import Table
from vocabpress.hf.checkpoint import open_tokenizer
from vocabpress.hf.original import Original
from vocabpress.hf.report import Change
from vocabpress.job.text import JobText
from vocabpress.methods.base import check_table
from vocabpress.progress import Bar
from vocabpress.recover.text import UNSCORED, Batch, Sequences, lengths_of, ready, with_own_labels

LENGTH = 128  # tokens of a line
BATCH = 8
MOST_TOKENS, FEWEST_TOKENS = 4000, 400  # read by the model
WORK = 3e11  # multiplications, which two cores do in seconds
MOST_LOGITS = 10**8  # of the original, 2 bytes each
LOWEST = -6e4  # a logit less the highest one, in float16
GENERATIVE = ("ForConditionalGeneration", "ForCausalLM", "LMHeadModel")


class NotMeasurable(ValueError):  # noqa: N818
    """The change of this model can't be measured; the message is the reason."""


@dataclass
class Probe:
    """What the original answers to some text.

    Attributes:
        model: The model; its table may be replaced between the answers.
        kind: What it is for.
        folder: Folder of the checkpoint, which says how sentences are pooled.
        batches: Inputs, with ``labels`` for predictions.
        share: One prediction in so many is compared.
        text: Where the text comes from.
        before: The original's answers for each batch: embeddings, (lines, d), or logits, (places, V), in float16.
    """

    model: PreTrainedModel
    kind: Literal["sentences", "predictions"]
    folder: Path
    batches: list[Batch]
    share: int
    text: str
    progress: bool
    before: list[Tensor]

    @torch.no_grad()
    def answer(self, batch: Batch) -> Tensor:
        """The model's answers to a batch."""
        inputs = ready({name: each for name, each in batch.items() if name != "labels"}, self.model, self.model.device)
        if self.kind == "sentences":
            return embed(self.model, inputs, self.folder)
        _, logits = logits_at(self.model, inputs, self.places(batch).to(self.model.device))
        logits = logits.float()
        return (logits - logits.amax(-1, keepdim=True)).clamp(min=LOWEST)

    def places(self, batch: Batch) -> Tensor:
        """The positions of a batch whose predictions are compared, (lines, longest)."""
        scored = batch["labels"] != UNSCORED
        if not self.masks:  # the logits at a position predict the next token
            scored = torch.nn.functional.pad(scored[:, 1:], (0, 1))
        chosen = torch.zeros_like(scored).flatten()
        chosen[scored.flatten().nonzero().flatten()[:: self.share]] = True
        return chosen.view_as(scored)

    def targets(self, batch: Batch) -> Tensor:
        """The right token at each of the `places`."""
        labels = batch["labels"]
        return (labels if self.masks else labels.roll(-1, 1))[self.places(batch)]

    @property
    def masks(self) -> bool:
        """Whether the model predicts masked tokens."""
        return type(self.model).__name__ in CLASSES[MASKED] and not self.model.config.is_encoder_decoder

    def measure(self) -> Change:
        """Compare the answers of the model, as it is now, with those of the original."""
        bar = Bar(self.batches, desc="measuring", disable=not self.progress)
        pairs = ((batch, old.float(), self.answer(batch)) for batch, old in zip(bar, self.before, strict=True))
        if self.kind == "sentences":
            cosines = torch.cat([(old.to(new.device) * new).sum(-1).double() for _, old, new in pairs])
            return Change("sentences", 100 * float(cosines.mean()), self.text, len(cosines))
        found = torch.cat([compare(old, new.cpu(), self.targets(batch)) for batch, old, new in pairs])
        kl, same, nats_before, nats_after = found.mean(0).tolist()
        before, after = _perplexity(nats_before), _perplexity(nats_after)
        return Change("predictions", 100 * math.exp(-max(kl, 0.0)), self.text, len(found), before, after, same)


def compare(old: Tensor, new: Tensor, targets: Tensor) -> Tensor:
    """For each place KL(old || new), whether the most likely token is the same, and the two losses; (places, 4).

    Args:
        old: Logits of the original, (places, V).
        new: Logits of the compressed model, (places, V).
        targets: The right tokens, (places).
    """
    found = divergences(old, new)
    nats = [cross_entropy(each, targets, reduction="none").double() for each in (old, new)]
    return torch.stack([found["kl"], found["top1_agreement"], *nats], 1)


def _perplexity(nats: float) -> float | None:
    try:
        return math.exp(nats)
    except OverflowError:
        return None


def ask(original: Original, folder: Path, text: JobText, progress: bool = False) -> Probe:
    """Let the original answer to text.

    Args:
        original: A model with its own table.
        folder: Folder of its checkpoint.
        text: Of its lines that are held out as many are read as takes seconds.
        progress: Whether to draw a progress bar on stderr.

    Raises:
        NotMeasurable: If the model has no tokenizer, there is no text, or it can't read text alone.
        ValueError: If the original's answers are NaN.
    """
    model = original.model
    if not text.held_out:
        raise NotMeasurable(text.lacking)
    try:
        tokenizer = open_tokenizer(folder)
        head = _predicts(model, folder, tokenizer)
        sequences = _read(original, tokenizer, text.held_out, head)
        examples = sequences.training
        batches = [
            sequences.collate([examples[row] for row in rows])
            for rows in by_length(lengths_of(examples), BATCH, longest_first=False)
        ]
        scored = sum(int((batch["labels"] != UNSCORED).sum()) for batch in batches) if head else 0
        share = max(1, math.ceil(scored * original.shape[0] / MOST_LOGITS))
        kind = "predictions" if head else "sentences"
        probe = Probe(model, kind, folder, batches, share, text.name, progress, [])
        for batch in Bar(batches, desc="the original", disable=not progress):
            answers = probe.answer(batch)
            probe.before.append((answers.half() if head else answers).cpu())
    except Exception as error:  # models that read more than text fail in as many ways as there are models
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise NotMeasurable(reason) from None
    _check_numbers(original, probe)
    return probe


def _predicts(model: PreTrainedModel, folder: Path, tokenizer: Any) -> bool:
    """Whether a model is for predictions: it has a head, and is no sentence encoder."""
    name = type(model).__name__
    if is_sentence_encoder(folder) or model.get_output_embeddings() is None:
        return False
    if model.config.is_encoder_decoder or name not in CLASSES[MASKED]:
        return is_causal(model) or name.endswith(GENERATIVE)
    return tokenizer.mask_token_id is not None


def _read(original: Original, tokenizer: Any, lines: Sequence[str], head: bool) -> Sequences:
    """Tokenise as many lines as the model reads in seconds, with the labels of a language model if it has a head."""
    model, (rows, width) = original.model, original.shape
    weights = sum(each.numel() for each in model.parameters()) - (0 if head else rows * width)
    room = max(FEWEST_TOKENS, min(MOST_TOKENS, int(WORK / max(weights, 1))))
    examples = list[dict[str, Any]]()
    for part in encode_lines(lines, tokenizer, longest_input(model, tokenizer, LENGTH), False):
        for ids in part["input_ids"]:
            if len(ids) > 1 and room > 0:
                room -= len(ids)
                examples.append({"input_ids": ids})
    sequences = Sequences(examples, [], tokenizer.pad_token_id or 0)
    if not head:
        return sequences
    name = type(model).__name__
    if not model.config.is_encoder_decoder and (name in CLASSES[MASKED] or is_causal(model)):
        return with_own_labels(sequences, model, tokenizer, seed=0)
    return Sequences([{**row, "labels": row["input_ids"]} for row in examples], [], sequences.pad)


def _check_numbers(original: Original, probe: Probe) -> None:
    """Refuse an original whose answers are NaN.

    Raises:
        NotMeasurable: If its dtype may be to blame.
        ValueError: Otherwise.
    """
    if not any(bool(answers.isnan().any()) for answers in probe.before):
        return
    check_table(Table.of(original.weight.detach()))
    if original.model.dtype == torch.float16:
        raise NotMeasurable("in float16 its outputs are NaN")
    raise ValueError(
        f"the outputs of {type(original.model).__name__} are NaN before its table is compressed; repair the checkpoint "
        "first"
    )
