"""The metric of a model: in which directions an error of an embedded token changes what the model says.

M = E[g^T g], g the gradient of what `outputs` looks at with respect to an embedded token, over the tokens of unlabelled
text: to second order, what an error of the rows does to the output. Of a prediction it is the Fisher information of the
embedding layer (Amari, 1998). What a fit does with it: `vocabpress.fitting.fold`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vocabpress.calibrate.calibration import Calibration
from vocabpress.calibrate.outputs import Output, open_outputs
from vocabpress.hf.modules import TokenEmbedding
from vocabpress.progress import Bar


def measure_metric(
    folder: Path,
    text: Sequence[str | Path],
    *,
    sequences: int,
    batch_size: int,
    max_length: int,
    seed: int,
    device: torch.device,
    progress: bool,
) -> Calibration:
    """Measure the metric of a model on text; see `vocabpress.calibrate.calibrate`, which says what the arguments are.

    Raises:
        ValueError: If there is no text, a number is out of range, or the model is compressed.
    """
    if min(sequences, batch_size) < 1 or max_length < 4:
        raise ValueError(
            f"sequences and batch_size are at least 1 and max_length 4, got {sequences}, {batch_size}, {max_length}"
        )
    if not text:
        raise ValueError("a metric is measured on text; give --text FILE, or text=[…]")
    reader = open_outputs(folder, device, seed)
    batches = reader.batches(text, sequences, batch_size, max_length, progress)
    embeddings, summed, counted = _embeddings(reader.model), torch.zeros(()), 0
    for run in Bar(batches, desc="metric", disable=not progress):
        gradients = gradients_of(embeddings, run).double()
        summed, counted = summed + (gradients.T @ gradients).cpu(), counted + len(gradients)
    return Calibration(
        metric=(summed / counted).float(),
        metric_of=reader.of,
        metric_sequences=reader.read,
        metric_tokens=counted,
    )


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


def _embeddings(model: PreTrainedModel) -> list[nn.Module]:
    """All modules that embed tokens by the input table.

    Raises:
        ValueError: If the model is compressed.
    """
    first: Any = model.get_input_embeddings()
    if isinstance(first, TokenEmbedding):
        raise ValueError("the model is compressed already; measure the original")
    return [module for module in model.modules() if isinstance(module, nn.Embedding) and module.weight is first.weight]
