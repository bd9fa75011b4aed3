"""Calibrate a model: weight its tokens, and measure in which directions an error of their rows matters."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from vocabpress.budget import Budget
from vocabpress.calibrate.calibration import UNIFORM, VOCABULARY_ORDER, Calibration, join
from vocabpress.calibrate.counts import weigh_tokens
from vocabpress.calibrate.gates import GateSettings, learn_gates
from vocabpress.calibrate.metric import measure_metric
from vocabpress.calibrate.outputs import Reading, read_outputs
from vocabpress.calibrate.own import metric_files
from vocabpress.hf.checkpoint import load_model, open_tokenizer
from vocabpress.hf.compress import check_device
from vocabpress.hf.folders import find_folder
from vocabpress.hf.original import Original
from vocabpress.recover.lesson import Source
from vocabpress.texts import sources


def calibrate(
    model: str | Path,
    *,
    text: Sequence[str | Path] = (),
    start: Sequence[Calibration | str | Path] = (),
    exponent: float | None = None,
    weights_from: Literal["counts", "tfidf", "gates"] = "counts",
    gates: GateSettings | None = None,
    task: str | None = None,
    data: str | Path | None = None,
    budget: Budget | None = None,
    metric: bool | None = None,
    metric_strength: float | None = None,
    own_tokens: int | None = None,
    sequences: int = 3000,
    batch_size: int = 16,
    max_length: int = 128,
    seed: int = 0,
    device: str | None = None,
    progress: bool = False,
) -> Calibration:
    """Find which errors of a model's table matter, from text without labels, for ``compress(calibration=…)``.

    Counting reads the text once. The metric takes a forward and a backward pass of the model over ``sequences``.

    Args:
        model: A hub id, or a folder; not compressed.
        text: UTF-8 text files, a sequence a line. Without text, token weights follow the vocabulary's order. Tokens are
            counted in it unless ``start`` has counts.
        start: Calibrations, or files of them, to start from; what they hold is not computed again.
        exponent: The power of the counts, 0 to 2; None takes the square root, but keeps weights of ``start``. Where an
            output head is tied to the table, weights are a power of its mean predicted probabilities instead, which
            are measured with the metric.
        weights_from: ``"tfidf"`` weights the tokens of the text by TF-IDF instead, each line a document; ``"gates"``
            learns their weights as DiscBlock-D does, in epochs of training.
        gates: Settings of that training; None takes the defaults.
        task: Instead of text, for gates: a task of GLUE that the model is fine-tuned for, whose training rows and
            labels are learned from.
        data: Folder of the task's data; None takes the hub's.
        budget: Size of the tables by which gates are evaluated; ratio 25 to float32 if None.
        metric: Whether to measure the metric; None measures it if there is text, ``start`` has no metric, and no gates
            are learned. Without text it is measured on the Universal Declaration of Human Rights, in the languages of
            the tokenizer, and on ``own_tokens``.
        metric_strength: Its exponent in a fit, 0 to 2; None keeps that of ``start``, or takes 0.5,
            and 1 where a head is tied to the table.
        own_tokens: Tokens that a causal language model writes itself, to measure the metric on them, too; None takes
            `own.TOKENS` without text, none with it.
        sequences: Sequences for the metric at most, drawn from the text.
        batch_size: Sequences a step.
        max_length: Tokens of a sequence.
        seed: Decides the draw and the projections.
        device: Where to run; None stays on the CPU.
        progress: Whether to draw progress bars on stderr.

    Raises:
        ValueError: In one line what is wrong and what to try.

    Example:
        >>> calibration = calibrate("sentence-transformers/all-MiniLM-L6-v2", text=["wiki.txt"])
        >>> vocabpress.compress("sentence-transformers/all-MiniLM-L6-v2", "small", calibration=calibration)
    """
    if weights_from not in ("counts", "tfidf", "gates"):
        raise ValueError(f"token weights come from counts, tfidf or gates, got {weights_from!r}")
    if exponent is not None and weights_from != "counts":
        raise ValueError(f"an exponent is of counts; leave it out with weights from {weights_from}")
    learned = weights_from == "gates"
    if not learned and (task or data or gates):
        raise ValueError("tasks and their settings are for gates; add --weights-from gates")
    check_device(device)
    files, known, folder = sources(text), join(start), find_folder(model)
    weighed = known.weights is not None or known.source == UNIFORM
    if learned:
        source = Source(files, task, None if data is None else Path(data))
        how: Any = {"budget": budget or Budget.ratio(25), "settings": gates or GateSettings(), "progress": progress}
        found = learn_gates(folder, source, seed=seed, device=device, **how)
        names = tuple(Path(file).name for file in text) or (str(task),)
        known = known.joined(replace(found, texts=names))
    elif weights_from == "tfidf":  # drop known weights and counts
        known = Calibration().joined(replace(known, weights=None, counts=None, source="given"))
    counted = known.counts is not None or known.source in (UNIFORM, VOCABULARY_ORDER)
    known = weigh_tokens(
        known,
        lambda: open_tokenizer(folder),
        Original.of(load_model(folder, quantised=True)).shape[0],
        () if counted else files,
        noted=text,
        exponent=exponent,
        by_tfidf=weights_from == "tfidf",
        progress=progress,
    )
    if metric is None:
        metric = bool(text) and known.metric is None and not learned
    if metric:
        place = torch.device(device or "cpu")
        with metric_files(files, folder, own_tokens, seed, place, progress) as read:
            reading = Reading(read, sequences, batch_size, max_length, seed, place, progress)
            known = known.joined(measure_metric(read_outputs(folder, reading), progress))
    if known.predicted is not None and weights_from == "counts" and not weighed:
        known = known.by_predictions(exponent)
    return known if metric_strength is None else replace(known, metric_strength=metric_strength)
