"""How far a student's forward pass is from its teacher's: the terms of KroneckerBERT's distillation.

L = w_emb L_emb + w_hidden L_hidden + w_att L_att + w_logits L_logits (Tahaei et al., NAACL 2022, section 3.3, without
the loss of the task itself, because the text has no labels). L_emb compares the embedding layer's output, L_hidden
each layer's output, L_att the attention scores before the softmax, L_logits the predictions.

Ours, where the paper is silent or models differ: each squared error is divided by the mean square of the teacher's
numbers, and layers are averaged, so that 1 means "as wrong as zeros" for each term of any model; L_hidden reads the
layer's output after its residual connection; the logits are compared by KL divergence at temperature 1.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vocabpress.recover.attention import Scores, listening

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Traces:
    """What a forward pass left behind.

    Attributes:
        states: The embedding output first, then each layer's output; (batch, tokens, width) each.
        scores: See `Scores`.
        logits: (batch, tokens, V), or None where the model has no head of a language model.
    """

    states: tuple[Tensor, ...]
    scores: Scores
    logits: Tensor | None


def trace(model: nn.Module, batch: Batch, logits: bool) -> Traces:
    """Run a model and keep what `terms` compares."""
    with listening() as scores:
        output: Any = model(**batch, output_hidden_states=True)
    states = output.get("hidden_states") or (*output.encoder_hidden_states, *output.decoder_hidden_states)
    found = output.get("logits") if logits else None
    return Traces(tuple(states), scores, found if found is not None and found.dim() == 3 else None)


def _relative(student: Tensor, teacher: Tensor, counts: Tensor) -> Tensor:
    """Squared error over squared size, where ``counts`` says so."""
    kept = counts.to(student.dtype)
    error = ((student - teacher).square() * kept).sum()
    return error / (teacher.square() * kept).sum().clamp(min=torch.finfo(teacher.dtype).tiny)


def _mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean()


def terms(student: Traces, teacher: Traces, mask: Tensor) -> dict[str, Tensor]:
    """The terms of the loss, unweighted; those that the models have no numbers for are left out.

    Args:
        student: Of the compressed model.
        teacher: Of the original, on the same batch.
        mask: (batch, tokens), 1 for tokens and 0 for padding.
    """
    tokens = mask.bool()[..., None]
    layers = [_relative(s.float(), t.float(), tokens) for s, t in zip(student.states, teacher.states, strict=True)]
    found = {"embedding": layers[0], "hidden": _mean(layers[1:])}
    if teacher.scores:
        pairs = zip(student.scores, teacher.scores, strict=True)
        found["attention"] = _mean([_attention(s, t, counts, mask) for (s, _), (t, counts) in pairs])
    if teacher.logits is not None and student.logits is not None:
        aim, guess = (logits.float()[mask.bool()].log_softmax(-1) for logits in (teacher.logits, student.logits))
        found["logits"] = nn.functional.kl_div(guess, aim, reduction="batchmean", log_target=True)
    return found


def _attention(student: Tensor, teacher: Tensor, counts: Tensor | None, mask: Tensor) -> Tensor:
    """Of one layer; queries that are padding do not count, nor do keys that the mask hides."""
    counts = torch.ones_like(teacher, dtype=torch.bool) if counts is None else counts.expand_as(teacher)
    if mask.shape[1] == teacher.shape[2]:  # a cross-attention's queries may be another sequence's
        counts = counts & mask.bool()[:, None, :, None]
    return _relative(student.float(), teacher.float(), counts)
