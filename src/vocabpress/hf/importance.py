"""How much each token of a model matters, and each direction, from whatever the user gave: text, files, tensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from vocabpress.hf.checkpoint import open_tokenizer
from vocabpress.metric import check_metric, load_metric
from vocabpress.metric import power as metric_power
from vocabpress.texts import read_lines
from vocabpress.weights import count_tokens, load_counts, load_weights, tfidf, token_weights
from vocabpress.weights import vocabulary_order as by_order

VOCABULARY_ORDER, UNIFORM, TFIDF = "vocabulary-order", "uniform", "tfidf"
Counts = Tensor | str | Path | Literal["vocabulary-order", "uniform"]
Weights = Tensor | str | Path | float | Literal["tfidf"]


@dataclass(frozen=True)
class Importance:
    """What is known of the tokens, each shape (V), and of the directions of a row.

    Attributes:
        counts: How often each occurs, by which errors are reported; None where that is not known.
        weights: What a fit takes; None counts all alike.
        source: A word for where the weights come from.
        metric: What a fit takes, (d, d); None counts all directions alike.
        metric_strength: The exponent that it was taken to.
    """

    counts: Tensor | None
    weights: Tensor | None
    source: str
    metric: Tensor | None = None
    metric_strength: float | None = None


@dataclass(frozen=True)
class Sensitivity:
    """A metric, and how strongly it is heeded.

    Attributes:
        metric: (d, d), or a file that `vocabpress metric` wrote.
        strength: Its exponent: 0 counts all directions alike, 1 takes the metric as it is.

    Raises:
        ValueError: If the strength is not 0 to 2.
    """

    metric: Tensor | str | Path
    strength: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 2:
            raise ValueError(f"the strength of a metric is 0 to 2, got {self.strength:g}; 1 takes it as it is")

    def read(self, embedding_dim: int) -> Tensor:
        """What a fit takes.

        Raises:
            ValueError: If the file or the metric is unusable.
        """
        found = self.metric if isinstance(self.metric, Tensor) else load_metric(self.metric)
        check_metric(found, embedding_dim)
        return metric_power(found, self.strength).float()


def find_counts(
    folder: Path, num_embeddings: int, text: Sequence[str | Path], counts: Counts | None, progress: bool
) -> tuple[Tensor | None, str]:
    """Token counts from whatever the user gave, and a word for where they come from.

    Whoever gave nothing gets the vocabulary's order, a guess that serves text far better than none; a model without a
    tokenizer has no such order, so there its tokens count alike.

    Raises:
        ValueError: If both text and counts are given, or the source is unusable.
    """
    if text and counts is not None:
        raise ValueError("token weights come from text or from counts; give one of them")
    if isinstance(counts, Tensor):
        return counts, "given counts"
    if counts == UNIFORM:
        return None, UNIFORM
    if counts is not None and counts != VOCABULARY_ORDER:
        return load_counts(counts, num_embeddings), "saved counts"
    try:
        tokenizer = open_tokenizer(folder)
    except ValueError:
        if text or counts is not None:
            raise
        return None, UNIFORM
    if text:
        return count_tokens(read_lines(text, progress), tokenizer, num_embeddings), "text"
    return by_order(tokenizer, num_embeddings), "vocabulary order"


def find_importance(
    folder: Path,
    num_embeddings: int,
    text: Sequence[str | Path],
    counts: Counts | None,
    weights: Weights | None,
    progress: bool,
) -> Importance:
    """Counts as `find_counts` finds them, and weights: those given, else a power of the counts, by default the root.

    Raises:
        ValueError: If a source is unusable, TF-IDF is wanted without text, or a power without counts.
    """
    if isinstance(weights, str) and weights == TFIDF and not text:
        raise ValueError("TF-IDF needs the text itself, its lines are the documents; give --text, or text=[…]")
    tally, source = find_counts(folder, num_embeddings, text, counts, progress)
    if weights is None:
        return Importance(tally, None if tally is None else token_weights(tally), source)
    if isinstance(weights, Tensor):
        return Importance(tally, weights, "given weights")
    power = _number(weights)
    if power is not None:
        if tally is None:
            raise ValueError(
                f"weights {weights} are a power of the counts, and there are none; give --text or --counts, or text=[…]"
            )
        if not 0 <= power <= 2:
            raise ValueError(f"the power of the counts is 0 to 2, got {power:g}; try 0.5")
        return Importance(tally, token_weights(tally, power), f"{source}, to the power {power:g}")
    if weights == TFIDF:
        scores = tfidf(read_lines(text, progress), open_tokenizer(folder), num_embeddings)
        return Importance(tally, scores, "TF-IDF of text")
    return Importance(tally, load_weights(str(weights), num_embeddings), "saved weights")


def _number(said: str | Path | float) -> float | None:
    """A power of the counts, where that is what is said."""
    try:
        return None if isinstance(said, Path) else float(said)
    except ValueError:
        return None
