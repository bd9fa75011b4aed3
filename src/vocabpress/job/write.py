"""Write what a job made, trained before if the user asks for it, with the report and the model card."""

import warnings
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vocabpress.budget import dtype_name
from vocabpress.calibrate.calibration import Calibration
from vocabpress.hf.card import write_card
from vocabpress.hf.companions import copy_companions
from vocabpress.hf.fit import Compressed
from vocabpress.hf.folders import weight_bytes
from vocabpress.hf.inner import method_of
from vocabpress.hf.original import Original
from vocabpress.hf.page import Page, named_by
from vocabpress.hf.report import Report
from vocabpress.hf.sizes import Folder, used_bytes
from vocabpress.hf.writing import save, written_at_once
from vocabpress.hub import hub_id, model_name
from vocabpress.job.companions import copy_without_vocabularies
from vocabpress.job.quality import gentler_ratio
from vocabpress.job.recovery import Recovering, recovered
from vocabpress.job.search import Bench, Settled
from vocabpress.methods import method_name, method_settings
from vocabpress.reconstruction import row_errors

LOW = 95  # a quality below which there is a warning


@dataclass(frozen=True)
class Label:
    """What a report says of the job itself.

    Attributes:
        model: The argument of `compress`.
        folder: The folder of that model.
        output: The argument of `compress`.
        command: The command line.
        page: The original's page.
        quality: What was searched for; None if the size was given.
        fast_tokenizer_only: Whether the files of the slow tokenizer are left out.
    """

    model: str | Path
    folder: Path
    output: str | Path
    command: str
    page: Page
    quality: float | None
    fast_tokenizer_only: bool


def write(
    target: Path,
    bench: Bench,
    label: Label,
    done: Compressed,
    settled: Settled,
    calibration: Calibration,
    recovering: Recovering | None,
) -> Report:
    """Write the checkpoint of a model that was compressed in memory, and describe it.

    Args:
        target: The output folder.
        bench: The model, and what measures it.
        label: What the report says of the job.
        done: What was installed.
        settled: The fit that was chosen.
        calibration: Which errors mattered.
        recovering: How to train it first; None trains nothing.
    """
    with written_at_once(target) as temporary:
        folder = temporary if recovering is None else temporary / "compressed"
        save(bench.original.model, folder)
        copy = copy_without_vocabularies if label.fast_tokenizer_only else copy_companions
        copy(label.folder, folder)
        report = _report(folder, bench.original, label, done, settled, calibration)
        if recovering is not None:
            report = replace(recovered(temporary, folder, bench, report, recovering), output=str(label.output))
        _warn_if_low(report, recovering is not None)
        write_card(report, temporary, label.page, label.page.text)
    return report


def _warn_if_low(report: Report, trained: bool) -> None:
    if report.change is None or report.change.quality >= LOW:
        return
    ratio = gentler_ratio(report.bits_per_weight, report.change.loss)
    whole = any(each.coded for each in report.linears)
    gentler = "--model-quality 97, or a larger --model-size," if whole else f"--quality 99, or --ratio {ratio:g},"
    advice = f"{gentler} is gentler"
    advice += "" if trained else ", and vocabpress recover (--recover MINUTES) wins much of it back"
    warnings.warn(f"much is lost: the quality is {report.change.quality:.1f} of 100; {advice}", stacklevel=5)


def _report(
    folder: Path, original: Original, label: Label, done: Compressed, settled: Settled, calibration: Calibration
) -> Report:
    """The report of what is in a folder."""
    hub, (title, from_page) = hub_id(label.model), named_by(label.page.text)
    inner = original.model.config.quantization_config.inner
    return Report(
        source_name=title or model_name(label.model) if hub is None else model_name(label.model),
        base_model=hub or from_page,
        output=str(label.output),
        architecture=type(original.model).__name__,
        budget=settled.fitted.request.budget,
        seed=settled.fitted.request.seed,
        body=None if inner is None else method_of(inner),
        model_bytes_before=weight_bytes(label.folder),
        model_bytes_after=weight_bytes(folder),
        command=label.command,
        version=version("vocabpress"),
        asked_quality=label.quality,
        fits=settled.fits,
        change=settled.change,
        folder=Folder.of(folder, used_bytes(label.folder)),
        **_figures(original, done, calibration),
    )


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
