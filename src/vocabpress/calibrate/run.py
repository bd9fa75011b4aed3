"""Calibrate a model: count its tokens in text, and measure in which directions an error of their rows matters."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from vocabpress.calibrate.calibration import Calibration, join
from vocabpress.calibrate.counts import weigh_tokens
from vocabpress.calibrate.metric import measure_metric
from vocabpress.hf.checkpoint import load_model, open_tokenizer
from vocabpress.hf.compress import check_device
from vocabpress.hf.folders import find_folder
from vocabpress.hf.original import Original
from vocabpress.texts import sources


def calibrate(
    model: str | Path,
    *,
    text: Sequence[str | Path] = (),
    start: Sequence[Calibration | str | Path] = (),
    exponent: float | None = None,
    weights_from: Literal["counts", "tfidf"] = "counts",
    metric: bool | None = None,
    metric_strength: float | None = None,
    sequences: int = 3000,
    batch_size: int = 16,
    max_length: int = 128,
    seed: int = 0,
    device: str | None = None,
    progress: bool = False,
) -> Calibration:
    """Say which errors of a model's table matter, from text without labels, for ``compress(calibration=…)``.

    Counting reads the text once. The metric takes a forward and a backward pass of the model over ``sequences``.

    Args:
        model: A hub id, or a folder; not compressed.
        text: UTF-8 text files, a sequence a line. Without any the tokens count by the vocabulary's order.
        start: Calibrations, or files of them, to begin with; what they hold is not made again.
        exponent: Of the counts, 0 to 2; the root if None, but weights in ``start`` are left as they are then.
        weights_from: ``"tfidf"`` rates the tokens of the text by TF-IDF instead, each line a document.
        metric: Whether to measure the metric; None does so where there is text and ``start`` has none.
        metric_strength: Its exponent in a fit, 0 to 2; that of ``start``, or 0.5, if None.
        sequences: Read for the metric at most, drawn from the text.
        batch_size: Sequences a step.
        max_length: Tokens of a sequence.
        seed: Of the draw, and of the projections.
        device: Where to run; None stays on the CPU.
        progress: Whether to draw progress bars on stderr.

    Raises:
        ValueError: With one line that says what was wrong and what to try.

    Example:
        >>> calibration = calibrate("sentence-transformers/all-MiniLM-L6-v2", text=["wiki.txt"])
        >>> vocabpress.compress("sentence-transformers/all-MiniLM-L6-v2", "small", calibration=calibration)
    """
    if weights_from not in ("counts", "tfidf"):
        raise ValueError(f"token weights come from counts or tfidf, got {weights_from!r}")
    check_device(device)
    text, known, folder = sources(text), join(start), find_folder(model)
    known = weigh_tokens(
        known,
        lambda: open_tokenizer(folder),
        Original.of(load_model(folder, quantised=True)).shape[0],
        text,
        exponent=exponent,
        by_tfidf=weights_from == "tfidf",
        progress=progress,
    )
    if metric is None:
        metric = bool(text) and known.metric is None
    if metric:
        measured = measure_metric(
            folder,
            text,
            sequences=sequences,
            batch_size=batch_size,
            max_length=max_length,
            seed=seed,
            device=torch.device(device or "cpu"),
            progress=progress,
        )
        known = known.joined(measured)
    return known if metric_strength is None else replace(known, metric_strength=metric_strength)
