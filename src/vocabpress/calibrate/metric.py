"""The metric of a model: in which directions an error of an embedded token changes the model's output.

M = E[g^T g], g the gradient of an output (see `outputs`) with respect to an embedded token, over the tokens of
unlabelled text: the effect of an error of the rows on the output, to second order. For a prediction it is the Fisher
information of the embedding layer (Amari, 1998). Its use in a fit: `vocabpress.fitting.fold`.
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
    table: Any = model.get_input_embeddings()
    if isinstance(table, TokenEmbedding):
        raise ValueError("the model is compressed already; measure the original")
    embeddings = [each for each in model.modules() if isinstance(each, nn.Embedding) and each.weight is table.weight]
    for run in Bar(outputs.batches, desc="metric", disable=not progress):
        gradients = gradients_of(embeddings, run).double()
        summed, counted = summed + (gradients.T @ gradients).cpu(), counted + len(gradients)
    metric = (summed / counted).float()
    return Calibration(metric=metric, metric_of=outputs.of, metric_sequences=outputs.sequences, metric_tokens=counted)


def gradients_of(embeddings: Sequence[nn.Module], run: Output) -> Tensor:
    """The gradient of the output of ``run`` at each embedded token that counts, (tokens, d).

    ``embeddings`` are all modules that read the table: an encoder and its decoder may each have one.
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
