"""The main job: a checkpoint in, a small checkpoint out."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers.utils.quantization_config import QuantizationConfigMixin

from vocabpress.budget import Budget
from vocabpress.calibrate.calibration import Calibration
from vocabpress.fitting.shards import ALONE, Shards
from vocabpress.hf.checkpoint import load_model
from vocabpress.hf.companions import module_folders
from vocabpress.hf.compress import check_device
from vocabpress.hf.folders import find_folder
from vocabpress.hf.inner import body_config, method_of
from vocabpress.hf.original import Original
from vocabpress.hf.page import read_page
from vocabpress.hf.report import Report, as_command
from vocabpress.hf.request import LinearShapes, Request
from vocabpress.hf.writing import check_output
from vocabpress.job.calibration import check_sources
from vocabpress.job.quality import DEFAULT, check_quality
from vocabpress.job.recovery import check_minutes
from vocabpress.job.run import FALLBACK, Job
from vocabpress.job.whole_request import WholeRequest
from vocabpress.job.write import Label
from vocabpress.methods import Method, make_method
from vocabpress.texts import sources


def compress(
    model: str | Path,
    output: str | Path,
    *,
    method: str | Method | None = None,
    budget: Budget | None = None,
    quality: float | None = None,
    linears: LinearShapes | Mapping[str, Any] | None = None,
    text: Sequence[str | Path] = (),
    calibration: Calibration | str | Path | None = None,
    measure: bool = True,
    recover: float | None = None,
    body: str | QuantizationConfigMixin | None = None,
    body_bits: float | None = None,
    model_size: str | int | None = None,
    model_ratio: float | None = None,
    model_quality: float | None = None,
    tie: bool = False,
    fast_tokenizer_only: bool = False,
    seed: int = 0,
    device: str | None = None,
    progress: bool = False,
    trust_remote_code: bool = False,
    shards: Shards = ALONE,
) -> Report:
    """Compress the token table of a checkpoint, and write a checkpoint that `from_pretrained` loads.

    What the model is for is measured before and after, on text that calibration does not use: a share of ``text``, or
    the Universal Declaration of Human Rights. See `Change` for the unit.

    Args:
        model: A hub id, or a folder with config.json and weights.
        output: A folder that does not exist yet, or is empty. It appears when all is done, or not at all.
        method: A method, or its name with its default settings; None takes `TCQ`. Codes of `TCQ` and
            `FastScan` are unbiased where an output head is tied to the table.
        budget: Size of the table, instead of a quality.
        quality: How much of what the model is for is left at least, over 0 and below 100; the table is the smallest
            found in three fits. 99 if there is no budget either. Linear maps exclude it; with them the budget is ratio
            25 to float32 if None, and also where the model can't be measured.
        linears: Linear maps that become Kronecker products, too, such as ``{"attention": (48, 384), "ffn": (2, 16)}``:
            columns and rows of the left factor; see `LinearShapes`. None leaves them as they are.
        text: UTF-8 text files; tokens and directions that matter in them are stored more exactly.
        calibration: Which errors matter, as `vocabpress.calibrate` measures it: a `Calibration`, a file of one,
            ``"vocabulary-order"``, or ``"uniform"``, every token alike. Without it or text a causal language model
            with a tied head writes some text itself, and other models with a tokenizer take the vocabulary's order.
            A metric is for methods that read rows through a basis.
        measure: Whether to measure what changed.
        recover: Minutes of training against the original after the fit, at most; see `vocabpress.recover.recover`.
            None trains nothing.
        body: What all else is quantised with: ``"trellis"`` codes all linear maps as `LDLQ` does, layer by layer;
            ``"int8"`` is torchao's; or any quantization config of transformers. None leaves it as it is; what is
            quantised already stays so.
        body_bits: Bits of an entry of the maps with ``"trellis"``, among those of `LDLQ`; 3 if None.
        model_size: Instead of sizes of the table and the body: the most bytes that the weight file may have, such as
            ``"4MB"``. One slope shares them out over the table and all linear maps.
        model_ratio: The same as a fraction of the bytes of the original's weight files.
        model_quality: Instead of either: the least quality, over 0 and below 100, of the whole model; the file is the
            smallest of at most three.
        tie: Whether an output head that is stored apart, and holds the same numbers as the table, is tied to it and
            compressed with it. Without, it is left as it is, and a warning says so.
        fast_tokenizer_only: Whether to leave out the vocabularies that tokenizer.json repeats: vocab.txt, vocab.json,
            merges.txt, models of SentencePiece. They are copied, with a warning, if the tokenizer gives other tokens
            without them.
        seed: Of all randomness.
        device: Where to fit, e.g. ``"cuda"``; None stays on the CPU.
        progress: Whether to draw progress bars on stderr.
        trust_remote_code: Whether code beside the weights may run, where transformers does not know the model, and
            weights that are pickles (.bin alone) be read.
        shards: The processes that do this together: each reads its rows of the table, the first one measures and
            writes; see `Method.fit`. `Shards.here()` says which they are where `torch.distributed` was initialised.

    Returns:
        What was done and what it cost; the same on all processes.

    Raises:
        ValueError: With one line that says what was wrong and what to try; nothing was written then.

    Example:
        >>> import vocabpress
        >>> report = vocabpress.compress("sentence-transformers/all-MiniLM-L6-v2", "small", quality=98)
    """
    target, files, known = check_output(output), sources(text), Calibration.read(calibration)
    check_device(device)
    check_sources(known, text)
    shapes = LinearShapes.read(linears) if isinstance(linears, Mapping) else linears
    named = make_method(method) if isinstance(method, str) else method
    check_size(budget, quality, shapes, measure)
    asked = WholeRequest.of(body, body_bits, model_size, model_ratio, model_quality, recover is not None)
    asked.check(budget, quality, shapes, measure, shards)
    body = None if asked else body
    check_minutes(recover, shards.world)
    command = as_command(
        model,
        output,
        method=method,
        budget=budget,
        quality=quality,
        linears=shapes,
        text=list(text),
        calibration="..." if isinstance(calibration, Calibration) else calibration,
        no_measure=not measure or None,
        recover=recover,
        body=asked.body(body if isinstance(body, str) or body is None else method_of(body)),
        body_bits=asked.bits,
        model_size=asked.size,
        model_ratio=asked.ratio,
        model_quality=asked.quality,
        tie=tie or None,
        fast_tokenizer_only=fast_tokenizer_only or None,
        seed=seed,
        device=device if device != "cpu" else None,
    )
    folder = find_folder(model)
    module_folders(folder)  # which are copied at the end, and may be broken
    page = read_page(folder)
    original = _open(folder, body_config(body) if isinstance(body, str) else body, tie, trust_remote_code)
    asked.check_original(original)
    searches = budget is None and shapes is None and not asked.limited
    job = Job(
        original=original,
        request=Request(original.method_for(named), budget or FALLBACK, seed, shapes),
        asked=asked,
        quality=(quality or DEFAULT) if searches else None,
        insists=quality is not None or model_quality is not None,
        measures=measure,
        known=known,
        files=files,
        names=text,
        minutes=recover,
        target=target,
        label=Label(model, folder, output, command, page, None, fast_tokenizer_only),
        device=device,
        shards=shards,
        progress=progress and not shards.rank,
    )
    return job.run()


def check_size(budget: Budget | None, quality: float | None, linears: LinearShapes | None, measure: bool) -> None:
    """Raise ValueError if a quality is asked for that is out of range, or beside what excludes it."""
    if quality is None:
        return
    check_quality(quality)
    if budget is not None:
        raise ValueError("quality and budget both say how small; give one")
    if linears is not None:
        raise ValueError("a quality is searched for with the table alone; give a budget beside linear maps")
    if not measure:
        raise ValueError("a quality must be measured; leave out --no-measure (measure=False), or give a budget")


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
