"""Losses of a language model at chosen tokens, alone and beside its original's predictions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vocabpress.embeddings import Dense
from vocabpress.evaluate.batches import by_length, pad
from vocabpress.evaluate.language import load_original, logits_at, table_rows
from vocabpress.evaluate.task import Subject
from vocabpress.hf.modules import TiedHead
from vocabpress.hf.swap import uninstall
from vocabpress.hf.tables import input_table_name, module_name
from vocabpress.progress import Bar
from vocabpress.reconstruction import frequency_deciles

POSITIONS_PER_CHUNK = 1024  # positions whose logits are converted to float32 at a time


@dataclass(frozen=True)
class ScoredSequence:
    """Input tokens, with ``targets``, the right tokens for the logits at the ascending positions ``places``."""

    inputs: list[int]
    places: Sequence[int]
    targets: list[int]


def score(
    subject: Subject,
    model: PreTrainedModel,
    kind: str,
    sequences: Sequence[ScoredSequence],
    text: Sequence[int],
    batch_size: int,
    filler: int,
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """The losses of a model, and if there is an original its own and how far the predictions are from it.

    The model's tables are decoded here, and its head is replaced. The tokens of ``text`` are counted; ``filler`` pads.

    Returns:
        ``nll``, in nats. With an original also ``nll_original``; ``nll_head_original``, the model's with the original's
        table at its tied head; and `divergences` from the original, ``kl`` and ``top1_agreement``. Each has shape
        (scored tokens). And their means for each tenth of the vocabulary, the most frequent tokens first, with the
        number of scored ``tokens``; a mean of no tokens is None. The overall mean does not show damage to rare tokens.

    Raises:
        ValueError: If the original has another vocabulary, or a loss is not finite.
    """
    lengths = [len(sequence.inputs) for sequence in sequences]
    batches = [[sequences[row] for row in rows] for rows in by_length(lengths, batch_size)]

    def run(*models: PreTrainedModel) -> dict[str, Tensor]:
        bar = Bar(batches, desc="likelihoods", disable=not subject.progress)
        parts = [_scores(models, batch, filler) for batch in bar]
        found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        if not all(bool(values.isfinite().all()) for values in found.values()):
            raise ValueError(
                "the model gives NaN or infinite logits, which have no perplexity; is the checkpoint whole?"
            )
        return found

    uninstall(model, model.dtype)  # same predictions, and the head is decoded only once
    if subject.compared_with_itself():
        found = run(model)
        found |= {"nll_original": found["nll"], "nll_head_original": found["nll"]}
        found |= {"kl": torch.zeros_like(found["nll"]), "top1_agreement": torch.ones_like(found["nll"])}
    elif subject.against is not None:
        original = load_original(subject, model, kind)
        found = run(model, original)
        if _give_head(model, original):
            found["nll_head_original"] = run(model)["nll"]
    else:
        found = run(model)
    targets = torch.tensor([token for batch in batches for sequence in batch for token in sequence.targets])
    return found, _deciles(found, targets, torch.bincount(torch.tensor(text), minlength=table_rows(model)).float())


@torch.inference_mode()
def _scores(models: Sequence[PreTrainedModel], batch: Sequence[ScoredSequence], filler: int) -> dict[str, Tensor]:
    """``nll`` of the scored tokens of a batch, and what `score` compares with a second model, the original."""
    inputs = pad([sequence.inputs for sequence in batch], filler)
    scored = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
    for row, sequence in enumerate(batch):
        scored[row, list(sequence.places)] = True
    device = models[0].device
    on_device = {name: tensor.to(device) for name, tensor in inputs.items()}
    logits = [logits_at(model, on_device, scored.to(device))[1] for model in models]
    targets = torch.tensor([token for sequence in batch for token in sequence.targets], device=device)
    found = {"nll": _losses(logits[0], targets)}
    if len(models) == 1:
        return found
    return found | {"nll_original": _losses(logits[1], targets)} | divergences(logits[1], logits[0])


def _losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Nats of each target, float64 on the CPU."""
    parts = zip(logits.split(POSITIONS_PER_CHUNK), targets.split(POSITIONS_PER_CHUNK), strict=True)
    return torch.cat(
        [nn.functional.cross_entropy(part.float(), wanted, reduction="none").double().cpu() for part, wanted in parts]
    )


def divergences(original: Tensor, compressed: Tensor) -> dict[str, Tensor]:
    """Differences of predictions at each position, from logits (positions, V); float64 on the CPU.

    Returns:
        ``kl``, KL(original || compressed) in nats, and ``top1_agreement``, 1 where both rate one token first, else 0.
    """
    kl, same = list[Tensor](), list[Tensor]()
    parts = zip(original.split(POSITIONS_PER_CHUNK), compressed.split(POSITIONS_PER_CHUNK), strict=True)
    for before, after in parts:
        p, q = nn.functional.log_softmax(before.float(), dim=-1), nn.functional.log_softmax(after.float(), dim=-1)
        kl.append((p.exp() * (p - q)).sum(-1, dtype=torch.float64).cpu())
        same.append((before.argmax(-1) == after.argmax(-1)).double().cpu())
    return {"kl": torch.cat(kl), "top1_agreement": torch.cat(same)}


def _give_head(model: PreTrainedModel, original: PreTrainedModel) -> bool:
    """Let a tied output head read the original's table, while the input still reads the model's own.

    Papers that replace the input embedding of a tied model measure this: their new parameter silently unties the head.
    The head keeps its bias. Returns whether transformers knows a head; else the measurement means nothing.
    """
    head: Any = model.get_output_embeddings()
    embedding: Any = model.get_submodule(input_table_name(model))
    if head is None:
        return False
    if isinstance(head, TiedHead) or head.weight is embedding.weight:
        source: Any = original.get_submodule(input_table_name(original))
        if tuple(source.weight.shape) != (head.out_features, head.in_features):
            raise ValueError("the original has a table of another shape than the model; give what it was made of")
        table = Dense.of(source.weight.detach(), torch.float32).requires_grad_(False)
        model.set_submodule(module_name(model, head), TiedHead(table, head.bias))
    return True


def averages(scores: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, float]:
    """Metrics from the numbers of `score`: perplexities, ``exp`` of a mean loss, under other names, and other means.

    A ValueError if a perplexity overflows.
    """
    means = {name: float(values.mean()) for name, values in scores.items()}
    losses = {name: means.pop(name) for name in scores if name.startswith("nll")}
    try:
        return {names[name]: math.exp(loss) for name, loss in losses.items()} | means
    except OverflowError:
        raise ValueError(
            f"the mean loss is {max(losses.values()):.0f} nats a token, too much for a perplexity"
        ) from None


def _deciles(scores: dict[str, Tensor], targets: Tensor, counts: Tensor) -> list[dict[str, Any]]:
    deciles = []
    for ids in frequency_deciles(counts):
        inside = torch.isin(targets, ids)
        means = {name: float(each[inside].mean()) if bool(inside.any()) else None for name, each in scores.items()}
        deciles.append({"tokens": int(inside.sum()), **means})
    return deciles
