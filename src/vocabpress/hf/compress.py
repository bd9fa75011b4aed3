"""The main job: a checkpoint in, a small checkpoint out."""

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils.quantization_config import QuantizationConfigMixin

from vocabpress.budget import Budget
from vocabpress.estimate import expected_seconds
from vocabpress.fitting.shards import ALONE, Shards
from vocabpress.hf.card import write_card
from vocabpress.hf.checkpoint import find_folder, load_model, weight_bytes
from vocabpress.hf.companions import copy_companions, module_folders
from vocabpress.hf.config import VocabpressConfig
from vocabpress.hf.fit import compress_input_table, default_method
from vocabpress.hf.importance import Counts, Importance, Sensitivity, Weights, find_importance
from vocabpress.hf.inner import body_config, method_of
from vocabpress.hf.linears import compress_linears
from vocabpress.hf.naming import as_command, hub_id, model_name, named_by
from vocabpress.hf.outcome import Report
from vocabpress.hf.page import read_page
from vocabpress.hf.quantizer import attach
from vocabpress.hf.shapes import LinearShapes
from vocabpress.hf.tables import equal_head, find_tables, input_table, tie_head
from vocabpress.hf.writing import check_output, save, written_at_once
from vocabpress.methods import Method, method_name
from vocabpress.progress import DELAY, duration, tell
from vocabpress.reconstruction import row_errors
from vocabpress.texts import sources
from vocabpress.weights import over_length

LARGE = 2**21  # entries of a table


def compress(
    model: str | Path,
    output: str | Path,
    *,
    method: str | Method | None = None,
    budget: Budget | None = None,
    linears: LinearShapes | Mapping[str, Any] | None = None,
    text: Sequence[str | Path] = (),
    counts: Counts | None = None,
    weights: Weights | None = None,
    metric: Sensitivity | Tensor | str | Path | None = None,
    direction: float = 0.0,
    body: str | QuantizationConfigMixin | None = None,
    tie: bool = False,
    seed: int = 0,
    device: str | None = None,
    progress: bool = False,
    trust_remote_code: bool = False,
    shards: Shards = ALONE,
) -> Report:
    """Compress the token table of a checkpoint, and write a checkpoint that `from_pretrained` loads.

    Args:
        model: A hub id, or a folder with config.json and weights.
        output: A folder that does not exist yet, or is empty. It appears when all is done, or not at all.
        method: A method, or its name with its default settings; None takes `FastScan` where an output head is tied to
            the table, `TCQ` elsewhere.
        budget: Of the table; ratio 25 to float32 if None.
        linears: Linear maps that become Kronecker products, too, such as ``{"attention": (48, 384), "ffn": (2, 16)}``:
            columns and rows of the left factor; see `LinearShapes`. None leaves them as they are.
        text: UTF-8 text files; tokens that occur in them often are stored more exactly.
        counts: Instead of text: counts of shape (V), a file of them, ``"vocabulary-order"``, or ``"uniform"``, every
            token alike. Without either it is the vocabulary's order, where the model has a tokenizer.
        weights: What a fit takes, where it is not the square root of the counts: another power of them, a number;
            weights of shape (V), a file of them, such as `vocabpress gates` writes, or ``"tfidf"``, which needs text,
            each line a document.
        metric: In which directions errors of a row matter: (d, d), or a file that `vocabpress metric` wrote; in a
            `Sensitivity`, how strongly. For methods that read rows through a basis.
        direction: How strongly an error counts relative to the length of its row, 0 to 1: 1 is what cosine sees.
        body: What all else is quantised with, by the library of its name: ``"int8"`` is torchao's, or any quantization
            config of transformers. None leaves it as it is; what is quantised already stays so.
        tie: Whether an output head that is stored apart, and holds the same numbers as the table, is tied to it and
            compressed with it. Without, it is left as it is, and a warning says so.
        seed: Of all randomness.
        device: Where to fit, e.g. ``"cuda"``; None stays on the CPU.
        progress: Whether to draw progress bars on stderr.
        trust_remote_code: Whether code beside the weights may run, where transformers does not know the model, and
            weights that are pickles (.bin alone) be read.
        shards: The processes that do this together: each reads its rows of the table, the first one writes; see
            `Method.fit`. `Shards.here()` says which they are where `torch.distributed` was initialised.

    Returns:
        What was done and what it cost; the same on all processes.

    Raises:
        ValueError: With one line that says what was wrong and what to try; nothing was written then.

    Example:
        >>> import vocabpress
        >>> report = vocabpress.compress("sentence-transformers/all-MiniLM-L6-v2", "small", budget=Budget.ratio(25))
    """
    target, given, text = check_output(output), text, sources(text)
    check_device(device)
    shapes = LinearShapes.read(linears) if isinstance(linears, Mapping) else linears
    config = VocabpressConfig(method, budget, seed, shapes)
    chosen = metric if isinstance(metric, Sensitivity) or metric is None else Sensitivity(metric)
    command = as_command(
        model,
        output,
        method=method,
        budget=budget,
        linears=shapes,
        text=list(given),
        counts=counts,
        weights=weights,
        metric=None if chosen is None else chosen.metric,
        metric_strength=None if chosen is None or chosen.strength == 1 else chosen.strength,
        direction=direction,
        body=body if isinstance(body, str) or body is None else method_of(body),
        tie=tie or None,
        seed=seed,
        device=device if device != "cpu" else None,
    )
    quantised = body_config(body) if isinstance(body, str) else body
    folder = find_folder(model)
    module_folders(folder)  # which are copied at the end, and may be broken
    page, known = read_page(folder), hub_id(model)
    title, from_page = named_by(page.text)
    loaded = load_model(folder, trust_remote_code, quantised=True, body=quantised)
    if tie:
        tie_head(loaded)
    elif equal_head(loaded) is not None:
        warnings.warn(
            f"{equal_head(loaded)} holds the same numbers as the token table and is stored apart; it is left as it is: "
            "--tie (tie=True) compresses both as one",
            stacklevel=2,
        )
    rows, width = find_tables(loaded)[0].shape
    importance = find_importance(folder, rows, text, counts, weights, progress and not shards.rank)
    if chosen is not None:
        importance = replace(importance, metric=chosen.read(width))
        config.fitted_by = {"metric": chosen.strength}
    if direction:
        weights = over_length(importance.weights, input_table(loaded)[1].detach(), direction)
        importance = replace(importance, weights=weights)
        config.fitted_by = {**(config.fitted_by or {}), "direction": direction}
    figures = fit_and_measure(loaded, config, importance, device, progress and not shards.rank, shards)
    if shards.rank:  # the first process measures and writes
        return shards.agree_on(None)
    made: dict[str, Any] = config.fitted_by or {}
    with written_at_once(target) as temporary:
        save(loaded, temporary)
        report = Report(
            source_name=title or model_name(model) if known is None else model_name(model),
            base_model=known or from_page,
            output=str(output),
            architecture=type(loaded).__name__,
            method=made["method"],
            settings=made["settings"],
            budget=config.budget,
            seed=seed,
            body=None if config.inner is None else method_of(config.inner),
            model_bytes_before=weight_bytes(folder),
            model_bytes_after=weight_bytes(temporary),
            command=command,
            version=made["vocabpress"],
            **figures,
        )
        copy_companions(folder, temporary)
        write_card(report, temporary, page, page.text)
    return shards.agree_on(report)


def fit_and_measure(
    model: PreTrainedModel,
    config: VocabpressConfig,
    importance: Importance,
    device: str | None,
    progress: bool,
    shards: Shards = ALONE,
) -> dict[str, Any]:
    """Compress a loaded model in place; returns the figures of a `Report` on its table and its linear maps.

    Of several processes the first one has figures.
    """
    info = find_tables(model)[0]
    linears = compress_linears(model, config, device, progress)
    original = input_table(model)[1].detach()
    if progress:
        _foretell(original, config.method or default_method(model), config.budget)
    start = time.perf_counter()
    fit = {"token_weights": importance.weights, "metric": importance.metric, "progress": progress}
    table = compress_input_table(model, config, device, importance.source, shards, **fit)
    seconds = time.perf_counter() - start
    attach(model, config)
    if shards.rank:
        return {}
    errors = row_errors(original, table)
    plain = errors.against(original)
    weighted = None if importance.counts is None else errors.against(original, importance.counts)
    return {
        "table": info.name,
        "num_embeddings": info.shape[0],
        "embedding_dim": info.shape[1],
        "dtype": info.dtype,
        "weighted_by": importance.source,
        "linears": linears,
        "seconds": seconds,
        "table_bytes_before": info.bytes,
        "table_bytes_after": table.total_bits() // 8,
        "ratio_to_float32": original.numel() * 32 / table.total_bits(),
        "ratio_to_stored": info.bytes * 8 / table.total_bits(),
        "bits_per_weight": table.bits_per_weight,
        "relative_error": plain.relative_error,
        "mean_cosine": plain.mean_cosine,
        "weighted_relative_error": None if weighted is None else weighted.relative_error,
        "weighted_mean_cosine": None if weighted is None else weighted.mean_cosine,
    }


def _foretell(table: Tensor, method: Method, budget: Budget) -> None:
    """Say on stderr how long the fit will take, about, where that is worth a second of looking."""
    seconds = expected_seconds(method, table, budget) if table.numel() >= LARGE else None
    if seconds is not None and seconds > DELAY:
        shape = " x ".join(f"{side:,}" for side in table.shape)
        tell(f"fitting {shape} by {method_name(method)}: about {duration(seconds)}")


def check_device(device: str | None) -> None:
    """Refuse a device that is not here.

    Raises:
        ValueError: If torch does not know it, or sees none.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"can't use the device {device!r} ({reason}); try cpu") from None
