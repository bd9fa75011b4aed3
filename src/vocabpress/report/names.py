"""How methods, metrics and figures are written: as papers write them."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

METHOD_NAMES = {
    **{name.lower(): name for name in ("Original", "SVD", "LightToken", "Kronecker", "GroupReduce", "DiscBlock")},
    **{name.lower(): name for name in ("Uniform", "PQ", "OPQ", "RTN", "PCA", "HQQ", "FAISS", "GGUF")},
    **{name: f"{name.capitalize()} codes" for name in ("product", "residual", "compositional")},
    "autoencoder": "Autoencoder (direction)",
    "binary": "Binary autoencoder",
    "tcq": "Trellis codes",
    "fastscan": "Fast-scan codes",
}
# The one metric of a task that overviews show is the first of these that it has.
HEADLINES = (
    *("mean", "perplexity_head_compressed", "perplexity", "matthews", "spearman", "accuracy", "f1", "stsb_dev"),
    *("top1", "sts_dev_spearman", "tokens_per_second", "hidden_cosine", "relative_error", "minutes"),
)


@dataclass(frozen=True)
class Metric:
    """How a metric is shown."""

    label: str  # for axes and table heads
    better: str | None = None  # "lower", "higher", or None where neither is better as such
    note: str = ""  # one sentence on what it means; empty for metrics that are not known here

    @property
    def head(self) -> str:
        """The label, and ``↓`` where lower is better, ``↑`` where higher is; the blank between does not break."""
        return self.label + {"lower": "\u00a0↓", "higher": "\u00a0↑"}.get(self.better or "", "")


_STS = Metric("STS-B dev", "higher", "Rank correlation x 100 on the development split of STS-B.")
_HELD_OUT = "Of the recovery, on text that it does not train on."
METRICS = {
    "relative_error": Metric(
        "relative error",
        "lower",
        "Squared error of the rows over their squared deviation from the mean row: 0 is exact, 1 is what the mean row "
        "alone scores.",
    ),
    "mean_cosine": Metric("mean cosine", "higher", "Mean cosine between a row and its reconstruction; 1 is exact."),
    "neighbours_kept": Metric(
        "neighbours kept", "higher", "Share of a row's nearest neighbours that are its nearest neighbours still."
    ),
    "norm_ratio": Metric("norm ratio", None, "Length of a reconstructed row over the row's own; 1 is exact."),
    "over_bound": Metric("dB over the bound", "lower", "Relative error over the Gaussian bound at the same bytes."),
    "mean": Metric("mean", "higher", "Mean over the data sets of the task."),
    "stsb_dev": _STS,
    "sts_dev_spearman": _STS,
    "sentence_cosine": Metric(
        "sentence cosine", "higher", "Mean cosine between a sentence's vector by the original and by the compressed."
    ),
    "sentence_spearman": Metric(
        "sentence Spearman", "higher", "Rank correlation of all pairs' cosines between original and compressed."
    ),
    "perplexity": Metric("perplexity", "lower", "exp of the mean negative log-likelihood of a token, in nats."),
    "perplexity_original": Metric("perplexity, original", "lower", "Of the original model, for comparison."),
    "perplexity_head_compressed": Metric(
        "perplexity", "lower", "Of the masked tokens, the compressed table read at the input and at the tied head."
    ),
    "perplexity_head_original": Metric(
        "perplexity, original head", "lower", "Of the masked tokens, with the original table at the head."
    ),
    "bits_per_byte": Metric(
        "bits per byte", "lower", "Negative log2-likelihood of the text over its bytes; does not depend on the tokens."
    ),
    "nll_per_token": Metric("nats per token", "lower", "Mean negative log-likelihood of a token."),
    "hidden_cosine": Metric("cosine of hidden states", "higher", "Mean over tokens, with the original's last layer."),
    "kl": Metric("KL divergence", "lower", "Of the predictions from the original's, in nats a token."),
    "top1_agreement": Metric("same first choice", "higher", "Share of tokens where both models rate one token first."),
    "top1": Metric("top 1", "higher", "Share of questions whose own paragraph is the nearest of all, in percent."),
    "mrr": Metric("MRR", "higher", "Mean reciprocal rank of a question's own paragraph, x 100; 100 is always first."),
    "tokens_per_second": Metric("tokens a second", "higher", "Of an answer, on the machine that the result names."),
    "prompt_tokens_per_second": Metric(
        "prompt tokens a second",
        "higher",
        "Of a prompt, up to the first new token, on the machine that the result names.",
    ),
    "same_answers": Metric("same answers", "higher", "Share of prompts that original and model answer word for word."),
    "accuracy": Metric("accuracy", "higher", "Share of right answers, in percent."),
    "f1": Metric("F1", "higher", "Harmonic mean of precision and recall."),
    "matthews": Metric("Matthews correlation", "higher", "Of predicted and true classes; 0 is chance."),
    "spearman": Metric("Spearman", "higher", "Rank correlation of predicted and true scores."),
    "pearson": Metric("Pearson", "higher", "Linear correlation of predicted and true scores."),
    "exact_match": Metric("exact match", "higher", "Share of answers that are one of the true ones, in percent."),
    "minutes": Metric("minutes", "lower", "Wall time on the machine that the result names."),
    "seconds": Metric("seconds", "lower", "Wall time on the machine that the result names."),
    "held_out_before": Metric("held-out loss before", "lower", _HELD_OUT),
    "held_out_after": Metric("held-out loss after", "lower", _HELD_OUT),
    "ratio_to_float32": Metric("ratio to float32", None, "Bytes of the table in float32 over the bytes stored."),
    "bits_per_weight": Metric("bits per weight", None, "Bits stored for each entry of the table, all counted."),
}


def metric(name: str) -> Metric:
    """How a metric is shown; one that is not known goes by its own name."""
    if name in METRICS:
        return METRICS[name]
    if name.startswith("weighted_") and (plain := METRICS.get(name.removeprefix("weighted_"))):
        return Metric(f"{plain.label}, weighted", plain.better, f"{plain.note} Rows count by the token's frequency.")
    if name.startswith("sts") and name[3:].isdigit():
        return Metric(f"STS{name[3:]}", "higher", "Rank correlation x 100 on the test sets of that year.")
    if known := max((key for key in METRICS if name.startswith(f"{key}_")), key=len, default=None):
        return Metric(f"{METRICS[known].label}, {name[len(known) + 1 :].replace('_', ' ')}", METRICS[known].better)
    return Metric(name.replace("_", " "))


def method(variant: str) -> str:
    """``"svd, int4 factors"`` -> ``"SVD, int4 factors"``: the method at the start as its paper writes it."""
    for key, name in METHOD_NAMES.items():
        rest = variant[len(key) :]
        if variant.lower().startswith(key) and not rest[:1].isalnum() and rest[:1] not in ("_", "-"):
            return name + rest
    return variant


def headline(metrics: Iterable[str]) -> str | None:
    """The metric that stands for a task; None where there is none."""
    names = sorted(metrics)
    return next((name for name in HEADLINES if name in names), names[0] if names else None)


def places(values: Iterable[float]) -> int:
    """Decimals that show a column of numbers to three or four digits, and apart where they differ."""
    finite = [value for value in values if math.isfinite(value)]
    if all(value == int(value) for value in finite):
        return 0
    sizes = [abs(value) for value in finite]
    largest, least, spread = max(sizes), min(size for size in sizes if size), max(finite) - min(finite)
    apart = min(1 - math.floor(math.log10(spread)), 5) if spread else 0  # 0.9990 and 0.9998 are not both 1.000
    for limit, count in ((1000, 0), (100, 1), (10, 2)):
        if largest >= limit:
            return max(count, apart)
    return max(3, min(1 - math.floor(math.log10(least)), 3 - math.floor(math.log10(largest)), 12), apart)


def figure(value: float, decimals: int) -> str:
    """A number with thousands separators: ``12,345`` or ``0.187``."""
    return f"{value:,.{decimals}f}"


def short(value: float) -> str:
    """A number by itself: ``25``, ``1.26``, ``0.296``."""
    return figure(value, 0 if value == int(value) or value >= 100 else places([value]))


def size(count: float) -> str:
    """Bytes for people: 46.88 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")
