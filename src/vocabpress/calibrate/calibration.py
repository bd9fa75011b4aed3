"""Which errors matter, and how much: the input of a fit, its provenance, and the file that holds both.

A squared error of a row is weighted by its token, and an error e counts e M e^T, M the metric of the model. Other
statistics that a compression needs of a model become fields of `Calibration`, each measured in a module of its own.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, Self

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vocabpress.fitting.fold import check_metric, power

UNIFORM, VOCABULARY_ORDER, TFIDF = "uniform", "vocabulary-order", "tfidf"
Source = Literal["uniform", "vocabulary-order", "text", "counts", "tfidf", "gates", "predictions", "given"]
WORDS: dict[Source, str] = {
    "vocabulary-order": "vocabulary order",
    "tfidf": "TF-IDF of text",
    "predictions": "predicted probability",
    "given": "given weights",
}
# Exponents of token weights, and of metrics: of tables that are only read, and of those that a head is tied to.
ROOT, STRENGTH, HEAD_STRENGTH = 0.5, 0.5, 1.0
# Longer texts are scaled to this length. In `benchmarks/tcq.py` 175,000 is better than 12,000 and than millions.
TOKENS = 350_000
# Names in the file. Files of one tensor, as earlier versions wrote them, have the same names.
TENSORS = {
    "weights": "token_weights",
    "counts": "token_counts",
    "metric": "metric",
    "predicted": "token_probabilities",
}


@dataclass(frozen=True)
class Calibration:
    """How much each token and each direction of a row matters, and where that comes from.

    Attributes:
        weights: Weight of the squared error of each token's row, (V); None weights all tokens equally.
        counts: Occurrences of each token, (V), for reported errors; None if unknown.
        source: Where the weights come from: ``"uniform"``, all tokens equal; ``"vocabulary-order"``, Zipf's law;
            ``"text"`` or ``"counts"``, a power of the counts; ``"predictions"``, a power of the probability that a head
            gives to the token; ``"tfidf"``; ``"gates"``; or ``"given"``. A calibration without weights that is not
            ``"uniform"`` leaves them to its reader.
        exponent: The power of the counts that the weights are; None if they are not a power.
        texts: Names of the files that were read.
        tokens: Number of tokens in them.
        losses: If gates were learned: the held-out loss with a table that is compressed by the gates, at the start
            (TF-IDF) and after each epoch. The weights are those of the lowest.
        metric: In which directions an error matters, (d, d); None weights all directions equally.
        metric_strength: Its exponent in a fit: 0 weights all directions equally, 1 uses the metric unchanged.
        metric_of: The output that was differentiated: ``"sentence"``, ``"predictions"`` or ``"hidden"``.
        metric_head: Whether the metric includes what a tied output head reads.
        metric_sequences: Number of sequences that it was measured on.
        metric_tokens: Number of tokens in them, over which it is a mean.
        predicted: The mean probability that a tied output head gives to each token there, (V); None without one.

    Raises:
        ValueError: If the strength is not 0 to 2.
    """

    weights: Tensor | None = None
    counts: Tensor | None = None
    source: Source = "given"
    exponent: float | None = None
    texts: tuple[str, ...] = ()
    tokens: int | None = None
    losses: tuple[float, ...] = ()
    metric: Tensor | None = None
    metric_strength: float = STRENGTH
    metric_of: Literal["sentence", "predictions", "hidden"] | None = None
    metric_head: bool | None = None
    metric_sequences: int | None = None
    metric_tokens: int | None = None
    predicted: Tensor | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.metric_strength <= 2:
            raise ValueError(
                f"the strength of a metric is 0 to 2, got {self.metric_strength:g}; 1 takes it as it is, 0 leaves it"
            )

    @classmethod
    def of_counts(cls, counts: Tensor, exponent: float = ROOT, source: Source = "counts", **more: Any) -> Self:
        """Weights that are a power of counts, (V); see `token_weights`.

        Raises:
            ValueError: If all counts are zero, or the exponent is not 0 to 2.
        """
        return cls(token_weights(counts, exponent), counts, source, exponent, **more)

    @classmethod
    def read(cls, given: "Calibration | str | Path | None") -> "Calibration":
        """From any argument of `compress`: a calibration, a file of one, ``"uniform"`` or ``"vocabulary-order"``.

        Raises:
            ValueError: If the file is unusable.
        """
        if isinstance(given, Calibration):
            return given
        if given is None or given in (UNIFORM, VOCABULARY_ORDER):
            return cls(source=given or "given")  # pyright: ignore[reportArgumentType]
        return cls.load(given)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file of `save`, or one of counts, weights or a metric of an earlier version.

        Raises:
            ValueError: If the file is missing or is none of these.
        """
        if not Path(path).is_file():
            raise ValueError(f"no such calibration file: {path}; vocabpress calibrate makes one")
        try:
            with safe_open(str(path), "pt") as file:
                names, metadata = set(file.keys()), file.metadata() or {}
                tensors = {field: file.get_tensor(key) for field, key in TENSORS.items() if key in names}
            known: dict[str, Any] = json.loads(metadata.get("calibration", "{}"))
            known |= {name: tuple(known[name]) for name in ("texts", "losses") if name in known}
            if not tensors and "source" not in known:
                raise ValueError(f"it holds {', '.join(sorted(names)[:3]) or 'nothing'}")
            if set(tensors) == {"counts"} and "source" not in known:
                return cls.of_counts(tensors["counts"])
            return cls(**tensors, **known)
        except (SafetensorError, ValueError, TypeError) as error:
            raise ValueError(f"{path} is no calibration file that vocabpress wrote ({error})") from None

    def save(self, path: str | Path) -> None:
        """Write one safetensors file: tensors in float32, the other fields as JSON in its metadata.

        Raises:
            ValueError: If the file can't be written.
        """
        given = ((key, getattr(self, field)) for field, key in TENSORS.items())
        tensors = {key: each.detach().float().cpu().contiguous() for key, each in given if each is not None}
        try:
            save_file(tensors, str(path), {"calibration": json.dumps(self.provenance())})
        except (OSError, SafetensorError) as error:
            raise ValueError(f"can't write the calibration to {path}: {error}") from None

    def provenance(self) -> dict[str, Any]:
        """All fields that are set, except tensors, as JSON."""
        named = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in TENSORS}
        named |= {"texts": list(self.texts) or None, "losses": list(self.losses) or None}
        named["metric_strength"] = None if self.metric is None else self.metric_strength
        return {name: value for name, value in named.items() if value is not None}

    def describe(self) -> str:
        """Where the token weights come from, for people."""
        word = WORDS.get(self.source, self.source)
        return word if self.exponent in (None, ROOT) else f"{word}, to the power {self.exponent:g}"

    @property
    def effective_rank(self) -> float | None:
        """How many directions matter, ``(trace M)^2 / trace M^2``: d if all matter equally; None without a metric."""
        metric = self.metric
        return None if metric is None else float(metric.trace() ** 2 / metric.square().sum())

    @property
    def leaves_weights_open(self) -> bool:
        """Whether there is nothing about tokens."""
        return self.weights is None and self.counts is None and self.source == "given"

    def joined(self, other: "Calibration") -> "Calibration":
        """A copy, with the token fields, the metric fields or both replaced by those that ``other`` has."""
        of_metric = ["predicted", *(field.name for field in fields(self) if field.name.startswith("metric"))]
        taken = [] if other.metric is None else of_metric
        if not other.leaves_weights_open:
            taken += [field.name for field in fields(self) if field.name not in of_metric]
        if other.weights is not None and other.counts is None:
            taken.remove("counts")
        return replace(self, **{name: getattr(other, name) for name in taken})

    def by_predictions(self, exponent: float | None = None) -> "Calibration":
        """A copy whose weights are a power of the predicted probabilities, the square root if None.

        Raises:
            ValueError: If it has none, or the exponent is not 0 to 2.
        """
        if self.predicted is None:
            raise ValueError("predicted probabilities are of models whose output head is tied to the table")
        exponent = ROOT if exponent is None else exponent
        weights = token_weights(self.predicted, exponent)
        return replace(self, weights=weights, source="predictions", exponent=exponent)

    def check(self, rows: int, width: int) -> None:
        """Check that this belongs to a table (V, d).

        Raises:
            ValueError: If it belongs to another model, or the metric is invalid.
        """
        for name in ("weights", "counts", "predicted"):
            values = getattr(self, name)
            if values is not None and values.shape != (rows,):
                count = len(values) if values.ndim else 0
                raise ValueError(
                    f"the calibration holds {name} of {count} tokens, the table has {rows}; make it for this model"
                )
        if self.metric is not None:
            check_metric(self.metric, width)

    def for_fit(self) -> dict[str, Tensor | None]:
        """Arguments of `Method.fit`: ``token_weights``, and ``metric`` at its strength."""
        metric = None if self.metric is None else power(self.metric, self.metric_strength).float()
        return {"token_weights": self.weights, "metric": metric}


def token_weights(counts: Tensor, exponent: float = ROOT) -> Tensor:
    """Weights from counts: ``(counts + 1) ** exponent``, mean 1, shape (V).

    The 1 gives weight to tokens that the text lacks; relative frequencies are first scaled so that the smallest
    positive one is 1, as in text where the rarest token occurs once. Exponent 1 weights an error by its frequency in
    the text, 0 weights all equally. The square root between them is our choice, because the text is never the user's.
    More text should not make weights more uneven, so counts of a text longer than `TOKENS` are scaled to that length.

    Raises:
        ValueError: If all counts are zero, or the exponent is not 0 to 2.
    """
    if not 0 <= exponent <= 2:
        raise ValueError(f"the exponent of the counts is 0 to 2, got {exponent:g}; try 0.5")
    positive = counts[counts > 0]
    if positive.numel() == 0:
        raise ValueError("all token counts are zero; count in some text first")
    counts = counts / positive.min().clamp(max=1)
    weights = (counts * (TOKENS / counts.sum()).clamp(max=1) + 1) ** exponent
    return weights / weights.mean()


def join(parts: Sequence["Calibration | str | Path"]) -> Calibration:
    """Calibrations or files of them as one; what a later one has replaces what an earlier one has."""
    found = Calibration()
    for part in parts:
        found = found.joined(Calibration.read(part))
    return found
