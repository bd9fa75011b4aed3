"""How far a student's forward pass is from its teacher's: the terms of KroneckerBERT's distillation.

L = w_emb L_emb + w_hidden L_hidden + w_att L_att + w_ffn L_ffn + w_logits L_logits + w_student L_student (Tahaei et
al., NAACL 2022, section 3.3). L_emb compares the embedding layer's output, L_att the attention scores before the
softmax, L_ffn the outputs of the feed-forward blocks, L_logits the predictions; L_student is the student's own loss
where there are labels.

The paper's terms are plain: mean squared errors, added up over the layers (``normalised=False``, and no L_hidden).
Ours, by default: each squared error is divided by the mean square of the teacher's numbers, and layers are averaged, so
that 1 means "as wrong as zeros" for each term of any model; L_hidden reads each layer's output after its residual
connection. Where the paper is silent: padding does not count; predictions are compared by KL divergence at temperature
1, a prediction of one number by its squared error.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vocabpress.recover.listen import Heard, listening
from vocabpress.recover.settings import Recovery
from vocabpress.recover.text import Batch, Sequences, ready


@dataclass(frozen=True)
class Traces:
    """What a forward pass left behind.

    Attributes:
        states: The embedding output first, then each layer's output; (batch, tokens, width) each.
        heard: Attention scores and outputs of feed-forward blocks, where the model was made to hand them over.
        logits: (batch, tokens, V) of a language model, (batch, classes) of a classifier; None of others.
        loss: The model's own, where the batch has labels.
    """

    states: tuple[Tensor, ...]
    heard: Heard
    logits: Tensor | None
    loss: Tensor | None = None


def trace(model: nn.Module, batch: Batch, logits: bool) -> Traces:
    """Run a model and keep what `terms` compares."""
    with listening() as heard:
        output: Any = model(**batch, output_hidden_states=True)
    states = output.get("hidden_states") or (*output.encoder_hidden_states, *output.decoder_hidden_states)
    found = output.get("logits") if logits else None
    return Traces(tuple(states), heard, found, output.get("loss") if "labels" in batch else None)


def terms(student: Traces, teacher: Traces, mask: Tensor, normalised: bool = True) -> dict[str, Tensor]:
    """The terms of the loss, unweighted; those that the models have no numbers for are left out.

    Args:
        student: What the compressed model left behind.
        teacher: What the original did, on the same batch.
        mask: (batch, tokens), 1 for tokens and 0 for padding.
        normalised: Whether squared errors are relative to the teacher's squares and layers are averaged; if not, they
            are means, and layers are added up.
    """
    tokens = mask.bool()[..., None]
    errors = _Errors(normalised)
    layers = [errors.of(s, t, tokens) for s, t in zip(student.states, teacher.states, strict=True)]
    found = {"embedding": layers[0]}
    if len(layers) > 1:  # a static embedding has none after its table
        found["hidden"] = errors.together(layers[1:])
    if teacher.heard.scores:
        pairs = zip(student.heard.scores, teacher.heard.scores, strict=True)
        found["attention"] = errors.together([errors.of(s, t, _counted(t, c, mask)) for (s, _), (t, c) in pairs])
    if teacher.heard.ffn:
        pairs = zip(student.heard.ffn, teacher.heard.ffn, strict=True)
        found["ffn"] = errors.together([errors.of(s, t, tokens) for s, t in pairs])
    if teacher.logits is not None and student.logits is not None:
        found["logits"] = _predictions(student.logits, teacher.logits, mask)
    if student.loss is not None:
        found["student"] = student.loss
    return found


def batch_terms(student: nn.Module, teacher: nn.Module, batch: Batch, settings: Recovery) -> dict[str, Tensor]:
    """The terms of one batch whose weight is not zero, unweighted."""
    wanted = settings.logits > 0
    with torch.no_grad():
        aim = trace(teacher, {name: tensor for name, tensor in batch.items() if name != "labels"}, wanted)
    found = terms(trace(student, batch, wanted), aim, batch["attention_mask"], settings.normalised)
    return {name: value for name, value in found.items() if settings.weights[name] > 0}


def weighted(found: dict[str, Any], settings: Recovery) -> Any:
    """The loss, from its terms."""
    return sum(settings.weights[name] * value for name, value in found.items())


@torch.no_grad()
def held_out_terms(
    student: nn.Module, teacher: nn.Module, sequences: Sequences, settings: Recovery, device: torch.device
) -> dict[str, float]:
    """The loss's terms, unweighted, on all held-out sequences; each batch counts by its labels, or its tokens."""
    student.eval()
    sums: dict[str, float] = {}
    counted = 0
    for each in sequences.held_out_batches(settings.batch_size):
        batch = ready(each, teacher, device)
        of_rows = "labels" in batch and batch["labels"].dim() == 1
        count = len(batch["labels"]) if of_rows else int(batch["attention_mask"].sum())
        counted += count
        for name, value in batch_terms(student, teacher, batch, settings).items():
            sums[name] = sums.get(name, 0.0) + float(value) * count
    return {name: value / counted for name, value in sums.items()}


@dataclass(frozen=True)
class _Errors:
    normalised: bool

    def of(self, student: Tensor, teacher: Tensor, counts: Tensor) -> Tensor:
        """Squared error over squared size, or the mean squared error, where ``counts`` says so."""
        student, teacher, shares = student.float(), teacher.float(), counts.float()
        error = ((student - teacher).square() * shares).sum()
        if not self.normalised:
            return error / shares.expand_as(teacher).sum().clamp(min=1)
        return error / (teacher.square() * shares).sum().clamp(min=torch.finfo(teacher.dtype).tiny)

    def together(self, layers: Sequence[Tensor]) -> Tensor:
        """The mean of all layers, or their sum."""
        stacked = torch.stack(list(layers))
        return stacked.mean() if self.normalised else stacked.sum()


def _counted(scores: Tensor, counts: Tensor | None, mask: Tensor) -> Tensor:
    """Which scores of an attention count: not those of queries that are padding, nor of keys that the mask hides."""
    counts = torch.ones_like(scores, dtype=torch.bool) if counts is None else counts.expand_as(scores)
    if mask.shape[1] == scores.shape[2]:  # a cross-attention's queries may be another sequence's
        counts = counts & mask.bool()[:, None, :, None]
    return counts


def _predictions(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    guess, aim = ((part[mask.bool()] if part.dim() == 3 else part).float() for part in (student, teacher))
    if aim.shape[-1] == 1:
        return nn.functional.mse_loss(guess, aim)
    guess, aim = guess.log_softmax(-1), aim.log_softmax(-1)
    return nn.functional.kl_div(guess, aim, reduction="batchmean", log_target=True)
