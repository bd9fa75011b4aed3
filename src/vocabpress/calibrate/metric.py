"""The metric of a model: in which directions an error of a row changes the output of the model.

M = E[g^T g], g the gradient of an output (see `outputs`) with respect to an embedded token, over the tokens of
unlabelled text: the effect of an error of the rows on the output, to second order. For a prediction it is the Fisher
information of the embedding layer (Amari, 1998). Its use in a fit: `vocabpress.fitting.fold`.

Where an output head is tied to the table, a row is read a second time. An error e of the row of token i changes its
logit by h e^T, h the last hidden state, and the predictions by about p_i (h e^T)^2 / 2 nats, p_i the probability of the
token. So H = E[h^T h] over the positions that predict is added to M. Both are in nats for each token of text. A token
is predicted about as often as it is read, so both count by its frequency.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vocabpress.calibrate.calibration import Calibration
from vocabpress.calibrate.outputs import Output, Outputs
from vocabpress.hf.modules import TokenEmbedding
from vocabpress.progress import Bar


def measure_metric(outputs: Outputs, progress: bool) -> Calibration:
    """Measure the metric of a model.

    Raises:
        ValueError: If the model is compressed.
    """
    model, summed, counted = outputs.model, torch.zeros(()), 0
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    if isinstance(table, TokenEmbedding):
        raise ValueError("the model is compressed already; measure the original")
    weight: Any = table.weight
    embeddings = [each for each in model.modules() if isinstance(each, nn.Embedding) and each.weight is weight]
    head = head if getattr(head, "weight", None) is weight else None
    for run in Bar(outputs.batches, desc="metric", disable=not progress):
        gradients, states = gradients_of(embeddings, head, run)
        for vectors in (gradients.double(), states.double()):
            summed = summed + (vectors.T @ vectors).cpu()
        counted += len(gradients)
    return Calibration(
        metric=(summed / counted).float(),
        metric_of=outputs.of,
        metric_head=True if head is not None else None,
        metric_sequences=outputs.sequences,
        metric_tokens=counted,
    )


def gradients_of(embeddings: Sequence[nn.Module], head: nn.Module | None, run: Output) -> tuple[Tensor, Tensor]:
    """The gradient of the output of ``run`` at each embedded token that counts, (tokens, d).

    The second tensor, (positions, d), is what ``head`` reads at the positions that predict; empty without a head.
    ``embeddings`` are all modules that read the table: an encoder and its decoder may each have one.
    """
    leaves: list[Tensor] = []
    read: list[Tensor] = []

    def cut(_module: nn.Module, _inputs: Any, rows: Tensor) -> Tensor:
        leaves.append(rows.detach().requires_grad_())
        return leaves[-1]

    hooks: list[Any] = [embedding.register_forward_hook(cut) for embedding in embeddings]
    if head is not None:
        hooks.append(head.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].detach())))
    try:
        with torch.enable_grad():
            value, counts, predicts = run()
        gradients = torch.autograd.grad(value, leaves)
    finally:
        for hook in hooks:
            hook.remove()
    found = torch.cat([gradient[counts] for gradient in gradients])
    states = [] if predicts is None else [each[predicts] for each in read]
    return found, torch.cat(states) if states else found[:0]
