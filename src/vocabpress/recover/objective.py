"""The distance of a student's forward pass from its teacher's: the terms of KroneckerBERT's distillation.

L = w_emb L_emb + w_hidden L_hidden + w_att L_att + w_ffn L_ffn + w_logits L_logits + w_student L_student (Tahaei et
al., NAACL 2022, section 3.3). L_emb compares the embedding layer's output, L_att the attention scores before the
softmax, L_ffn the outputs of the feed-forward blocks, L_logits the predictions; L_student is the student's own loss
if there are labels.

The paper's terms are plain: mean squared errors, added up over the layers (``normalised=False``, and no L_hidden).
Ours, by default: each squared error is divided by the mean square of the teacher's numbers, and layers are averaged, so
that 1 means "as wrong as zeros" for each term of any model; L_hidden reads each layer's output after its residual
connection. L_sentence adds up, for each sentence, the squared error of its embedding, of unit length, and those of its
inner products with the other embeddings of the batch. The paper does not define the rest. Here padding does not count;
predictions are compared by KL divergence at temperature 1, a prediction of one number by its squared error.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vocabpress.evaluate.pooling import pooled
from vocabpress.recover.listen import Heard, listening
from vocabpress.recover.settings import Recovery
from vocabpress.recover.text import Batch, Sequences, ready


@dataclass(frozen=True)
class Traces:
    """Outputs of a forward pass.

    Attributes:
        states: The embedding output first, then each layer's output; (batch, tokens, width) each.
        heard: Attention scores and outputs of feed-forward blocks, if the model records them.
        logits: (batch, tokens, V) of a language model, (batch, classes) of a classifier, else None.
        loss: The model's own, if the batch has labels.
        sentences: Embeddings of unit length, (batch, width), of a model that pools its states, else None.
    """

    states: tuple[Tensor, ...]
    heard: Heard
    logits: Tensor | None
    loss: Tensor | None = None
    sentences: Tensor | None = None


def trace(model: nn.Module, batch: Batch, logits: bool, pooling: str | None = None) -> Traces:
    """Run a model, and return what `terms` compares; ``pooling`` is how its states become an embedding, if they do."""
    with listening() as heard:
        output: Any = model(**batch, output_hidden_states=True)
    states = output.get("hidden_states") or (*output.encoder_hidden_states, *output.decoder_hidden_states)
    found = output.get("logits") if logits else None
    sentences = None if pooling is None else pooled(states[-1], batch["attention_mask"], pooling)
    return Traces(tuple(states), heard, found, output.get("loss") if "labels" in batch else None, sentences)


def terms(student: Traces, teacher: Traces, mask: Tensor, normalised: bool = True) -> dict[str, Tensor]:
    """The terms of the loss, unweighted, as far as the models have them.

    Args:
        student: Outputs of the compressed model.
        teacher: Outputs of the original on the same batch.
        mask: (batch, tokens), 0 for padding.
        normalised: Whether squared errors are relative to the teacher's squares and layers are averaged; if not, they
            are means, and layers are added up.
    """
    tokens = mask.bool()[..., None]
    layers = [_error(s, t, tokens, normalised) for s, t in zip(student.states, teacher.states, strict=True)]
    scores = zip(student.heard.scores, teacher.heard.scores, strict=True)
    ffn = zip(student.heard.ffn, teacher.heard.ffn, strict=True)
    errors = {
        "embedding": layers[:1],
        "hidden": layers[1:],  # a static embedding has no layer after its table
        "attention": [_error(s, t, _counted(t, c, mask), normalised) for (s, _), (t, c) in scores],
        "ffn": [_error(s, t, tokens, normalised) for s, t in ffn],
    }
    together = torch.mean if normalised else torch.sum
    found = {name: together(torch.stack(each)) for name, each in errors.items() if each}
    if teacher.logits is not None and student.logits is not None:
        found["logits"] = _prediction_error(student.logits, teacher.logits, mask)
    if student.sentences is not None and teacher.sentences is not None:
        found["sentence"] = _sentence_error(student.sentences, teacher.sentences)
    if student.loss is not None:
        found["student"] = student.loss
    return found


def batch_terms(
    student: nn.Module, teacher: nn.Module, batch: Batch, settings: Recovery, pooling: str | None = None
) -> dict[str, Tensor]:
    """The terms of one batch whose weight is not zero, unweighted; ``pooling`` as in `trace`."""
    wanted = settings.logits > 0
    pooling = pooling if settings.sentence > 0 else None
    with torch.no_grad():
        aim = trace(teacher, {name: tensor for name, tensor in batch.items() if name != "labels"}, wanted, pooling)
    found = terms(trace(student, batch, wanted, pooling), aim, batch["attention_mask"], settings.normalised)
    return {name: value for name, value in found.items() if settings.weights[name] > 0}


def weighted(found: dict[str, Any], settings: Recovery) -> Any:
    """The loss, from its terms."""
    return sum(settings.weights[name] * value for name, value in found.items())


@torch.no_grad()
def held_out_terms(
    student: nn.Module,
    teacher: nn.Module,
    sequences: Sequences,
    settings: Recovery,
    device: torch.device,
    pooling: str | None = None,
) -> dict[str, float]:
    """The loss's terms, unweighted, over all held-out sequences; a batch counts by its labels, or its tokens."""
    student.eval()
    sums: dict[str, float] = {}
    counted = 0
    for each in sequences.held_out_batches(settings.batch_size):
        batch = ready(each, teacher, device)
        row_labels = "labels" in batch and batch["labels"].dim() == 1
        count = len(batch["labels"]) if row_labels else int(batch["attention_mask"].sum())
        counted += count
        for name, value in batch_terms(student, teacher, batch, settings, pooling).items():
            sums[name] = sums.get(name, 0.0) + float(value) * count
    return {name: value / counted for name, value in sums.items()}


def _error(student: Tensor, teacher: Tensor, counts: Tensor, normalised: bool) -> Tensor:
    """Squared error over squared size, or mean squared error, over the entries whose ``counts`` is true."""
    student, teacher, shares = student.float(), teacher.float(), counts.float()
    error = ((student - teacher).square() * shares).sum()
    if not normalised:
        return error / shares.expand_as(teacher).sum().clamp(min=1)
    return error / (teacher.square() * shares).sum().clamp(min=torch.finfo(teacher.dtype).tiny)


def _sentence_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared errors of embeddings and of all their inner products, a sentence on average."""
    errors = (student - teacher).square().sum() + (student @ student.T - teacher @ teacher.T).square().sum()
    return errors / len(teacher)


def _counted(scores: Tensor, counts: Tensor | None, mask: Tensor) -> Tensor:
    """Which attention scores count: all but those of padding queries and masked keys."""
    counts = torch.ones_like(scores, dtype=torch.bool) if counts is None else counts.expand_as(scores)
    if mask.shape[1] == scores.shape[2]:  # a cross-attention's queries may be another sequence's
        counts = counts & mask.bool()[:, None, :, None]
    return counts


def _prediction_error(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    guess, aim = ((part[mask.bool()] if part.dim() == 3 else part).float() for part in (student, teacher))
    if aim.shape[-1] == 1:
        return nn.functional.mse_loss(guess, aim)
    guess, aim = guess.log_softmax(-1), aim.log_softmax(-1)
    return nn.functional.kl_div(guess, aim, reduction="batchmean", log_target=True)
