"""Agreement of a compressed model with its original, on any text without labels."""

from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cosine_similarity
from transformers import AutoModel, PreTrainedModel

from vocabpress.evaluate.batches import by_length, encode_lines, pad
from vocabpress.evaluate.language import LOADERS, head_kind, logits_at, longest_input
from vocabpress.evaluate.scores import divergences
from vocabpress.evaluate.task import Measurement, Subject, Task
from vocabpress.progress import Bar
from vocabpress.settings import AtLeast1


@dataclass(frozen=True)
class ModelAgreement(Task):
    """Task ``agreement``: last hidden states, and with a language-modelling head the predictions.

    All tokens of a line count equally, special ones included. In an encoder-decoder the encoder is compared.
    """

    reads_text: ClassVar[bool] = True
    compares: ClassVar[bool] = True

    max_length: Annotated[int, Field(ge=2)] = 128  # tokens of a line; longer ones are cut
    batch_size: AtLeast1 = 8  # lines at a time; the result does not depend on it
    subset: AtLeast1 | None = None  # lines to take from the start of the text; None takes all

    def measure(self, subject: Subject) -> Measurement:
        original_folder = subject.original("agreement")
        lines = subject.lines("agreement")[: self.subset]
        kind, other = head_kind(subject.model), head_kind(original_folder)
        loader: Any = LOADERS[kind] if kind is not None and kind == other else AutoModel
        model, original = subject.load(loader), subject.load_original(loader, "agreement")
        has_head = loader is not AutoModel and not model.config.is_encoder_decoder
        tokenizer = subject.tokenizer()
        encoded = encode_lines(lines, tokenizer, longest_input(model, tokenizer, self.max_length), subject.progress)
        sequences = [ids for part in encoded for ids in part["input_ids"] if ids]
        if not sequences:
            raise ValueError("the tokenizer finds no token in the text; give text in the model's language")
        totals: Counter[str] = Counter()
        batches = list(by_length(list(map(len, sequences)), self.batch_size))
        for chosen in Bar(batches, desc="agreement", disable=not subject.progress):
            batch = pad([sequences[row] for row in chosen], getattr(tokenizer, "pad_token_id", None) or 0)
            totals.update(compare(original, model, batch, has_head))  # pyright: ignore[reportArgumentType]
        tokens = sum(map(len, sequences))
        metrics = {name: total / tokens for name, total in totals.items()}
        return Measurement(metrics | {"tokens": float(tokens)}, {"lines": len(sequences)})


@torch.inference_mode()
def compare(
    original: PreTrainedModel, model: PreTrainedModel, batch: dict[str, Tensor], has_head: bool
) -> dict[str, float]:
    """Sums over the tokens of a batch: ``hidden_cosine``, and with a head those of `divergences`."""
    inputs = {name: tensor.to(model.device) for name, tensor in batch.items()}
    (wanted, right), (found, logits) = (_states(each, inputs, has_head) for each in (original, model))
    if wanted.shape != found.shape or right.shape != logits.shape:
        raise ValueError("the original has another width or vocabulary than the model; give what it was made of")
    sums = {"hidden_cosine": float(cosine_similarity(wanted.double(), found.double(), dim=-1).sum())}
    if not has_head:
        return sums
    return sums | {name: float(values.sum()) for name, values in divergences(right, logits).items()}


def _states(model: PreTrainedModel, inputs: dict[str, Tensor], has_head: bool) -> tuple[Tensor, Tensor]:
    """Last hidden states, (positions, d), and logits, (positions, V); V is 0 without a head."""
    at = inputs["attention_mask"].bool()
    if has_head:
        out, logits = logits_at(model, inputs, at, output_hidden_states=True)
        return out.hidden_states[-1][at], logits
    body: Any = model.get_encoder() if model.config.is_encoder_decoder else model
    states = body(**inputs).last_hidden_state[at]
    return states, states[:, :0]
