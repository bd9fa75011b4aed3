"""Text that a causal language model writes itself, to calibrate it without any other.

Its first token is drawn from the vocabulary, the others from the model's own predictions, so that the text has all that
the model was trained on, in its proportions: LLM-QAT (Liu et al., Findings of ACL 2024, section 3.1), where the first
tokens after the drawn one are the most likely ones; here they are drawn, too. That first tokens follow the square root
of Zipf's law is our choice.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig, StoppingCriteria, StoppingCriteriaList

from vocabpress.calibrate.counts import vocabulary_order
from vocabpress.calibrate.declaration import declaration_files
from vocabpress.evaluate.language import CAUSAL, head_kind
from vocabpress.hf.checkpoint import open_model, open_tokenizer
from vocabpress.progress import Bar

TOKENS, LENGTH = 8192, 128  # of the text, and of a line
AT_ONCE = 64  # lines
MOST_PARAMETERS = 3 * 10**9  # of a model whose text two cores can wait for


class _Progress(StoppingCriteria):
    """Advances a bar at each step, and stops nothing."""

    def __init__(self, bar: Bar) -> None:
        self.bar = bar

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.bar.update(len(input_ids))
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def writes(folder: Path) -> bool:
    """Whether a checkpoint is of a model that writes text."""
    return head_kind(folder) == CAUSAL


@contextmanager
def metric_files(
    files: Sequence[Path], folder: Path, tokens: int | None, seed: int, device: torch.device, progress: bool
) -> Iterator[Sequence[Path]]:
    """Text to measure a metric on: the user's, or the Declaration, and what the model writes.

    Args:
        files: The user's text; may be empty.
        folder: Folder of the checkpoint.
        tokens: Of the model's own text; None is `TOKENS` for a model that writes, if there is no other text.
        seed: As in `own_text`.
        device: As in `own_text`.
        progress: As in `own_text`.

    Raises:
        ValueError: If there is no text in a language that the tokenizer knows.
    """
    if tokens is None:
        tokens = TOKENS if not files and writes(folder) else 0
    with ExitStack() as stack:
        own = stack.enter_context(own_files(folder, tokens, seed, device, progress))
        try:
            others = files or stack.enter_context(declaration_files(open_tokenizer(folder)))
        except ValueError:
            if not own:
                raise
            others = []
        yield [*own, *others]


@contextmanager
def own_files(folder: Path, tokens: int, seed: int, device: torch.device, progress: bool) -> Iterator[list[Path]]:
    """A temporary file of `own_text`; none if there is no text."""
    lines = own_text(folder, tokens, seed, device, progress) if tokens else []
    with TemporaryDirectory(prefix="vocabpress-text-") as beside:
        file = Path(beside) / "own.txt"
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        yield [file] if lines else []


def own_text(folder: Path, tokens: int, seed: int, device: torch.device, progress: bool) -> list[str]:
    """Lines that a causal language model writes; none if it has over `MOST_PARAMETERS`.

    Args:
        folder: Folder of the checkpoint.
        tokens: Of all lines together; a line has `LENGTH`.
        seed: Of the draws.
        device: Where to run.
        progress: Whether to draw a progress bar on stderr.

    Raises:
        ValueError: If the checkpoint can't be read, or its predictions are NaN.
    """
    model, tokenizer = open_model(folder, AutoModelForCausalLM), open_tokenizer(folder)
    if model.num_parameters() > MOST_PARAMETERS:
        return []
    model.to(device)  # pyright: ignore[reportArgumentType]
    table: Any = model.get_input_embeddings()
    length = min(LENGTH, tokenizer.model_max_length)
    chances = vocabulary_order(tokenizer, table.num_embeddings).sqrt()
    written = list[str]()
    with torch.random.fork_rng(), Bar(total=tokens, desc="writing text", disable=not progress) as bar:
        torch.manual_seed(seed)
        first = chances.multinomial(max(1, tokens // length), replacement=True)[:, None].to(device)
        for some in first.split(AT_ONCE):
            found = _continued(model, some, length - 1, tokenizer.pad_token_id or 0, bar)
            written += [" ".join(line.split()) for line in tokenizer.batch_decode(found, skip_special_tokens=True)]
    return [line for line in written if line]


def _continued(model: Any, first: Tensor, tokens: int, pad: int, bar: Bar) -> Tensor:
    """Tokens (n, 1), each with so many more, drawn from the model's predictions."""
    try:
        return model.generate(
            first,
            attention_mask=torch.ones_like(first),
            generation_config=GenerationConfig(
                do_sample=True, top_k=0, min_new_tokens=tokens, max_new_tokens=tokens, pad_token_id=pad
            ),
            stopping_criteria=StoppingCriteriaList([_Progress(bar)]),
        )
    except RuntimeError as error:  # of a draw from NaN
        raise ValueError(f"the model can't write text to calibrate on ({error}); give --text") from None
