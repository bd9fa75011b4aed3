"""The main job: a checkpoint in, a small checkpoint out."""

import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils.quantization_config import QuantizationConfigMixin

from vocabpress.budget import Budget, dtype_name
from vocabpress.calibrate.calibration import Calibration
from vocabpress.calibrate.counts import weigh_tokens
from vocabpress.fitting.shards import ALONE, Shards
from vocabpress.hf.card import write_card
from vocabpress.hf.checkpoint import load_model, open_tokenizer
from vocabpress.hf.companions import copy_companions, module_folders
from vocabpress.hf.config import VocabpressConfig
from vocabpress.hf.fit import EVEN, Compressed, fit
from vocabpress.hf.folders import find_folder, weight_bytes
from vocabpress.hf.inner import body_config, method_of
from vocabpress.hf.original import Original
from vocabpress.hf.page import read_page
from vocabpress.hf.quantizer import attach
from vocabpress.hf.report import Report, as_command, hub_id, model_name, named_by
from vocabpress.hf.request import LinearShapes, Request
from vocabpress.hf.writing import check_output, save, written_at_once
from vocabpress.methods import Method, make_method, method_name, method_settings
from vocabpress.reconstruction import row_errors
from vocabpress.texts import sources


def compress(
    model: str | Path,
    output: str | Path,
    *,
    method: str | Method | None = None,
    budget: Budget | None = None,
    linears: LinearShapes | Mapping[str, Any] | None = None,
    text: Sequence[str | Path] = (),
    calibration: Calibration | str | Path | None = None,
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
        method: A method, or its name with its default settings; None takes `TCQ`, with unbiased codes where an
            output head is tied to the table.
        budget: Of the table; ratio 25 to float32 if None.
        linears: Linear maps that become Kronecker products, too, such as ``{"attention": (48, 384), "ffn": (2, 16)}``:
            columns and rows of the left factor; see `LinearShapes`. None leaves them as they are.
        text: UTF-8 text files; tokens that occur in them often are stored more exactly.
        calibration: Which errors matter, as `vocabpress.calibrate` measures it: a `Calibration`, a file of one,
            ``"vocabulary-order"``, or ``"uniform"``, every token alike. Without it or text it is the vocabulary's
            order, where the model has a tokenizer. A metric is for methods that read rows through a basis.
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
    named = make_method(method) if isinstance(method, str) else method
    request, known = Request(named, budget or Budget.ratio(25), seed, shapes), Calibration.read(calibration)
    command = as_command(
        model,
        output,
        method=method,
        budget=budget,
        linears=shapes,
        text=list(given),
        calibration="..." if isinstance(calibration, Calibration) else calibration,
        body=body if isinstance(body, str) or body is None else method_of(body),
        tie=tie or None,
        seed=seed,
        device=device if device != "cpu" else None,
    )
    folder = find_folder(model)
    module_folders(folder)  # which are copied at the end, and may be broken
    page, hub = read_page(folder), hub_id(model)
    title, from_page = named_by(page.text)
    original = _open(folder, body_config(body) if isinstance(body, str) else body, tie, trust_remote_code)
    progress = progress and not shards.rank
    known = weigh_tokens(known, lambda: open_tokenizer(folder), original.shape[0], text, noted=given, progress=progress)
    known.check(*original.shape)
    done = compress_model(original, request, known, device, shards, progress)
    if shards.rank:  # the first process measures and writes
        return shards.agree_on(None)
    with written_at_once(target) as temporary:
        save(original.model, temporary)
        inner = original.model.config.quantization_config.inner
        report = Report(
            source_name=title or model_name(model) if hub is None else model_name(model),
            base_model=hub or from_page,
            output=str(output),
            architecture=type(original.model).__name__,
            budget=request.budget,
            seed=seed,
            body=None if inner is None else method_of(inner),
            model_bytes_before=weight_bytes(folder),
            model_bytes_after=weight_bytes(temporary),
            command=command,
            version=version("vocabpress"),
            **_figures(original, done, known),
        )
        copy_companions(folder, temporary)
        write_card(report, temporary, page, page.text)
    return shards.agree_on(report)


def compress_model(
    model: Original | PreTrainedModel,
    request: Request,
    calibration: Calibration = EVEN,
    device: str | None = None,
    shards: Shards = ALONE,
    progress: bool = False,
) -> Compressed:
    """Compress a model in memory, so that `save_pretrained`, `dequantize` and all else treat it as a loaded one.

    Args:
        model: An original; changed in place.
        request: What is asked for.
        calibration: Which errors matter; without, every token counts alike.
        device: Where to fit; None is where the tensors are.
        shards: The processes that fit the table together.
        progress: Whether to draw progress bars on stderr.

    Raises:
        ValueError: If the table is compressed already, or can't be fitted.
    """
    original = model if isinstance(model, Original) else Original.of(model)
    done = fit(original, request, calibration, device, shards, progress)
    attach(original.model, VocabpressConfig(**done.stored))
    return done


def _open(folder: Path, body: QuantizationConfigMixin | None, tie: bool, trust_remote_code: bool) -> Original:
    """Load an original, its head tied or not as the user wants it."""
    original = Original.of(load_model(folder, trust_remote_code, quantised=True, body=body))
    if tie:
        return original.with_tied_head()
    if (head := original.equal_head()) is not None:
        warnings.warn(
            f"{head} holds the same numbers as the token table and is stored apart; it is left as it is: --tie "
            "(tie=True) compresses both as one",
            stacklevel=3,
        )
    return original


def _figures(original: Original, done: Compressed, calibration: Calibration) -> dict[str, Any]:
    """What a report says of the table and the linear maps."""
    table, weight = done.table, original.weight.detach()
    errors = row_errors(weight, table)
    plain = errors.against(weight)
    weighted = None if calibration.counts is None else errors.against(weight, calibration.counts)
    return {
        "table": original.name,
        "num_embeddings": table.num_embeddings,
        "embedding_dim": table.embedding_dim,
        "dtype": dtype_name(weight.dtype),
        "method": method_name(done.method),
        "settings": method_settings(done.method),
        "weighted_by": calibration.describe(),
        "linears": done.linears,
        "seconds": done.seconds,
        "table_bytes_before": weight.numel() * weight.itemsize,
        "table_bytes_after": table.total_bits() // 8,
        "ratio_to_float32": weight.numel() * 32 / table.total_bits(),
        "ratio_to_stored": weight.numel() * weight.itemsize * 8 / table.total_bits(),
        "bits_per_weight": table.bits_per_weight,
        "relative_error": plain.relative_error,
        "mean_cosine": plain.mean_cosine,
        "weighted_relative_error": None if weighted is None else weighted.relative_error,
        "weighted_mean_cosine": None if weighted is None else weighted.mean_cosine,
    }


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
