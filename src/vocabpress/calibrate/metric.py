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

import torch
from torch import Tensor

from vocabpress.calibrate.calibration import HEAD_STRENGTH, STRENGTH, Calibration
from vocabpress.calibrate.observed import Observation, counted, observed
from vocabpress.calibrate.outputs import Outputs, Ran
from vocabpress.hf.modules import TokenEmbedding


class TableMetric:
    """The sums that a metric is made of, over batches.

    Attributes:
        summed: Of g^T g, and of h^T h if there is a head, (d, d).
        tokens: How many were read.
        predicted: The probability of each token, summed over what a tied head predicts, (V); None without one.
    """

    def __init__(self) -> None:
        self.summed, self.tokens = torch.zeros((), dtype=torch.float64), 0
        self.predicted: Tensor | None = None

    def add(self, ran: Ran, seen: Observation) -> None:
        """Add a batch."""
        gradients = [counted(gradient, ran.counts) for _, _, gradient in seen.rows if gradient is not None]
        vectors = [*gradients]
        if ran.predicts is not None and ran.probability is not None and seen.head:
            vectors += [values[ran.predicts] for _, values, _ in seen.head]
            probability = ran.probability.double().cpu()
            self.predicted = probability if self.predicted is None else self.predicted + probability
        for each in vectors:
            self.summed = self.summed + (each.double().T @ each.double()).cpu()
        self.tokens += sum(map(len, gradients))

    def calibration(self, outputs: Outputs) -> Calibration:
        """The metric, of the outputs that were differentiated."""
        head = self.predicted is not None
        return Calibration(
            metric=(self.summed / max(1, self.tokens)).float(),
            metric_of=outputs.of,
            metric_strength=HEAD_STRENGTH if head else STRENGTH,
            metric_head=True if head else None,
            metric_sequences=outputs.sequences,
            metric_tokens=self.tokens,
            predicted=None if self.predicted is None else (self.predicted / self.predicted.sum()).float(),
        )


def measure_metric(outputs: Outputs, progress: bool) -> Calibration:
    """Measure the metric of a model.

    Raises:
        ValueError: If the model is compressed.
    """
    if isinstance(outputs.model.get_input_embeddings(), TokenEmbedding):
        raise ValueError("the model is compressed already; measure the original")
    found = TableMetric()
    for ran, seen in observed(outputs.model, {}, outputs.batches, "metric" if progress else ""):
        found.add(ran, seen)
    return found.calibration(outputs)
