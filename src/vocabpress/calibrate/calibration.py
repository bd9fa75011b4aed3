"""Which errors matter, and how much: what a fit takes of it, where it comes from, and the file that holds both.

A squared error of a row counts by the weight of its token, and an error e by e M e^T, M the metric of the model. What
else a compression needs to know of a model joins here as a field of `Calibration`, measured in a file of its own.
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
Source = Literal["uniform", "vocabulary-order", "text", "counts", "tfidf", "gates", "given"]
WORDS: dict[Source, str] = {"vocabulary-order": "vocabulary order", "tfidf": "TF-IDF of text", "given": "given weights"}
ROOT, STRENGTH = 0.5, 0.5
# Of a text. In `benchmarks/tcq.py` 175,000 do better than 12,000 and than millions; this lies between.
TOKENS = 350_000
# Names in the file. Files of one tensor, as earlier versions wrote them, have the same.
TENSORS = {"weights": "token_weights", "counts": "token_counts", "metric": "metric"}


@dataclass(frozen=True)
class Calibration:
    """How much each token and each direction of a row matters, and where that comes from.

    Attributes:
        weights: How much the squared error of each token's row counts, (V); None counts all alike.
        counts: How often each token occurs, (V), by which errors are reported; None where that is not known.
        source: Where the weights come from: ``"uniform"``, every token alike; ``"vocabulary-order"``, Zipf's law;
            ``"text"`` or ``"counts"``, a power of the counts; ``"tfidf"``; ``"gates"``; or ``"given"``. A calibration
            without weights that is not ``"uniform"`` leaves them to whoever reads it.
        exponent: The power of the counts that the weights are; None where they are no power.
        texts: Names of the files that were read.
        tokens: Counted in them.
        losses: Where gates were learned: the loss on held-out sequences with the table that the gates make, at the
            start (TF-IDF) and after each epoch. The weights are those of the least.
        metric: In which directions an error matters, (d, d); None counts all alike.
        metric_strength: Its exponent in a fit: 0 counts all directions alike, 1 takes the metric as it is.
        metric_of: What was looked at: ``"sentence"``, ``"predictions"`` or ``"hidden"``.
        metric_head: Whether it counts what a tied output head reads, too.
        metric_sequences: Read for it.
        metric_tokens: In them, over which it is a mean.

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
        """What `compress` takes: a calibration, a file of one, ``"uniform"`` or ``"vocabulary-order"``.

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
        """Read what `save` wrote, or a file of counts, weights or a metric of an earlier version.

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
        """Write everything to one safetensors file: tensors in float32, the other fields as JSON in its metadata.

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
        """Every field that is no tensor and is set, as JSON has it."""
        named = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in TENSORS}
        named |= {"texts": list(self.texts) or None, "losses": list(self.losses) or None}
        named["metric_strength"] = None if self.metric is None else self.metric_strength
        return {name: value for name, value in named.items() if value is not None}

    def describe(self) -> str:
        """Where the token weights come from, in words."""
        word = WORDS.get(self.source, self.source)
        return word if self.exponent in (None, ROOT) else f"{word}, to the power {self.exponent:g}"

    @property
    def effective_rank(self) -> float | None:
        """How many directions matter, ``(trace M)^2 / trace M^2``: d where all matter alike; None without a metric."""
        metric = self.metric
        return None if metric is None else float(metric.trace() ** 2 / metric.square().sum())

    @property
    def leaves_weights_open(self) -> bool:
        """Whether there is nothing about tokens here: the metric alone, or nothing at all."""
        return self.weights is None and self.counts is None and self.source == "given"

    def joined(self, other: "Calibration") -> "Calibration":
        """This, with what ``other`` has of tokens, of directions or of both in its place."""
        of_metric = [field.name for field in fields(self) if field.name.startswith("metric")]
        taken = [] if other.metric is None else of_metric
        if not other.leaves_weights_open:
            taken += [field.name for field in fields(self) if field.name not in of_metric]
        if other.weights is not None and other.counts is None:
            taken.remove("counts")
        return replace(self, **{name: getattr(other, name) for name in taken})

    def check(self, rows: int, width: int) -> None:
        """See that this is of a table (V, d).

        Raises:
            ValueError: If this calibration is another model's, or the metric is none.
        """
        for name in ("weights", "counts"):
            values = getattr(self, name)
            if values is not None and values.shape != (rows,):
                count = len(values) if values.ndim else 0
                raise ValueError(
                    f"the calibration holds {name} of {count} tokens, the table has {rows}; make it for this model"
                )
        if self.metric is not None:
            check_metric(self.metric, width)

    def for_fit(self) -> dict[str, Tensor | None]:
        """What `Method.fit` takes: ``token_weights``, and ``metric`` at its strength."""
        metric = None if self.metric is None else power(self.metric, self.metric_strength).float()
        return {"token_weights": self.weights, "metric": metric}


def token_weights(counts: Tensor, exponent: float = ROOT) -> Tensor:
    """Weights from counts: ``(counts + 1) ** exponent``, mean 1, shape (V).

    The 1 keeps tokens that the text did not happen to hold; relative frequencies are first scaled so that the smallest
    positive one is 1, as in text where the rarest token occurs once. Exponent 1 counts an error as often as the text
    would show it, 0 not at all; the square root between them is our choice, because the text at hand is never the
    user's. Nor should more text make weights more uneven: what is longer than `TOKENS` is counted as if it had so many.

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
    """Calibrations or files of them as one; what a later one has stands in the place of what an earlier one has.

    Raises:
        ValueError: If a file is unusable.
    """
    found = Calibration()
    for part in parts:
        found = found.joined(Calibration.read(part))
    return found
