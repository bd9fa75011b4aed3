"""The metric of a model: in which directions an error of a row changes the output of the model.

M = E[g^T g], g the gradient of an output (see `outputs`) with respect to an embedded token, over the tokens of
unlabelled text: the effect of an error of the rows on the output, to second order. For a prediction it is the Fisher
information of the embedding layer (Amari, 1998). Its use in a fit: `vocabpress.fitting.fold`.

Where an output head is tied to the table, a row is read a second time. An error e of the row of token i changes its
logit by h e^T, h the last hidden state, and the predictions by about p_i (h e^T)^2 / 2 nats, p_i its probability. So
H = E[h^T h] over the positions that predict is added to M. Both are in nats for each token of text. Such a row counts
by its mean predicted probability, which is positive for every token, and close to how often the token is read. Tokens
that the text lacks have one, too, so a little text weights a whole vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vocabpress.calibrate.calibration import HEAD_STRENGTH, STRENGTH, Calibration
from vocabpress.calibrate.moments import Seen, input_rows
from vocabpress.calibrate.outputs import Output, Outputs
from vocabpress.hf.modules import TokenEmbedding
from vocabpress.progress import Bar

HEAD = "head"  # its name among the modules that are seen


def measure_metric(outputs: Outputs, progress: bool) -> Calibration:
    """Measure the metric of a model.

    Raises:
        ValueError: If the model is compressed.
    """
    model, summed, counted, predicted = outputs.model, torch.zeros(()), 0, torch.zeros(())
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    if isinstance(table, TokenEmbedding):
        raise ValueError("the model is compressed already; measure the original")
    embeddings = input_rows(model)
    head = head if getattr(head, "weight", None) is embeddings[0].weight else None
    for run in Bar(outputs.batches, desc="metric", disable=not progress):
        gradients, states, probability = gradients_of(embeddings, head, run)
        predicted = predicted + probability.double().cpu()
        for vectors in (gradients.double(), states.double()):
            summed = summed + (vectors.T @ vectors).cpu()
        counted += len(gradients)
    return Calibration(
        metric=(summed / counted).float(),
        metric_of=outputs.of,
        metric_strength=STRENGTH if head is None else HEAD_STRENGTH,
        metric_head=True if head is not None else None,
        metric_sequences=outputs.sequences,
        metric_tokens=counted,
        predicted=None if head is None else (predicted / predicted.sum()).float(),
    )


def gradients_of(embeddings: Sequence[nn.Module], head: nn.Module | None, run: Output) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of the output of ``run`` at each embedded token that counts, (tokens, d).

    The second tensor, (positions, d), is what ``head`` reads at the positions that predict, the third, (V), the sum of
    its predicted probabilities there; without a head they are empty and zero. ``embeddings`` are all modules that read
    the table: an encoder and its decoder may each have one.
    """
    modules = {str(number): embedding for number, embedding in enumerate(embeddings)}
    with Seen(modules if head is None else {**modules, HEAD: head}) as seen, torch.enable_grad():
        ran = run()
    gradients = torch.autograd.grad(ran.value, [rows for name, _, rows in seen.found if name != HEAD])
    found = torch.cat([gradient[ran.counts] for gradient in gradients])
    if ran.predicts is None or ran.probability is None or head is None:
        return found, found[:0], found.new_zeros(())
    return found, torch.cat([states[ran.predicts] for name, states, _ in seen.found if name == HEAD]), ran.probability
