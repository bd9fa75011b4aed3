"""What commands did and found, as tables on stdout, and the picture of a spectrum."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from vocabpress.budget import Budget
from vocabpress.progress import duration
from vocabpress.report.names import metric, short, size
from vocabpress.results import Result

if TYPE_CHECKING:
    from vocabpress.calibrate import Calibration
    from vocabpress.export import ExportReport
    from vocabpress.hf.inspect import CompressedInspection, Inspection
    from vocabpress.hf.report import Report
    from vocabpress.recover import RecoveryReport
    from vocabpress.trim import TrimReport

MIN_WIDTH = 120  # of a table written to a pipe
SUITS = {
    "tcq": "least error for the bytes",
    "fastscan": "logits from codes alone",
    "svd": "the baseline, in a second",
    "autoencoder": "directions over lengths",
    "groupreduce": "low rank, by frequency",
    "discblock": "low rank, by scores",
    "lighttoken": "hash codes",
    "kronecker": "KroneckerBERT",
    "uniform": "above two bits, quick",
    "product": "quick, near least error",
    "residual": "as product, in minutes",
    "compositional": "the published training",
    "binary": "hash codes alone",
}


def print_table(
    headers: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None, text_columns: int = 1
) -> None:
    """A table on stdout, the first columns, of text, to the left and the others to the right."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, MIN_WIDTH)
    if title is not None:  # not the table's own title, which would wrap at the table's width
        console.print(title, style="bold", markup=False)
    table = Table(box=box.SIMPLE_HEAD)
    for index, header in enumerate(headers):
        table.add_column(header, justify="left" if index < text_columns else "right")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console.print(table)


def print_pairs(*pairs: tuple[str, str]) -> None:
    """A name and a value on each line."""
    width = max(len(name) for name, _ in pairs)
    print_line("".join(f"  {name:<{width}}  {value}\n" for name, value in pairs))


def print_line(text: str) -> None:
    """Text as it is."""
    Console(highlight=False).print(text, markup=False, soft_wrap=True)


def print_report(report: "Report") -> None:
    """What `vocabpress compress` did."""
    rows = [(name, size(before), size(after), f"{before / after:.2f}") for name, before, after in report.sizes()]
    title = f"{report.source_name}: {report.table} by {report.method}, {report.sized()}"
    print_table([f"bytes, the original in {report.dtype}", "before", "after", "times smaller"], rows, title)
    if report.folder is not None:
        files = ", ".join(f"{name} {size(count)}" for name, count in report.folder.largest(3))
        print_line(f"folder {size(report.folder.bytes_before)} -> {size(report.folder.bytes_after)}: {files}")
    errors = {"all alike": (report.relative_error, report.mean_cosine)}
    if report.weighted_relative_error is not None:
        errors["by token frequency"] = (report.weighted_relative_error, report.weighted_mean_cosine or 0)
    names = ("relative error", "mean cosine")
    print_table(
        ["rows, read back", *errors], [(n, *(f"{v[i]:.4f}" for v in errors.values())) for i, n in enumerate(names)]
    )
    print_pairs(
        *report.measured(),
        ("bits per weight, everything counted", f"{report.bits_per_weight:.4f}"),
        *([] if report.dtype == "float32" else [("ratio to float32", f"{report.ratio_to_float32:.2f}")]),
        ("tokens weighted by", report.weighted_by),
        ("fitted in", duration(report.seconds)),
    )
    if report.linears:
        rows = [
            (p.role, p.shape, p.maps, f"{p.parameters_before:,}", f"{p.parameters_after:,}", f"{p.relative_error:.4f}")
            for p in report.linears
        ]
        headers = ["linear maps", "stored as", "maps", "parameters before", "after", "relative error"]
        coded = report.linears[0].coded
        print_table(headers, rows, "linear maps in trellis codes" if coded else "linear maps as Kronecker products")
        for part in report.linears:
            if part.idle:
                print_line(f"nothing depends on {', '.join(part.idle)}: the fewest bits")


def print_recovery(report: "RecoveryReport") -> None:
    """What `vocabpress recover` did."""
    rows = [("weighted", f"{report.held_out_before:.4g}", f"{report.held_out_after:.4g}")]
    rows += [(name, f"{before:.4g}", f"{report.terms_after[name]:.4g}") for name, before in report.terms_before.items()]
    title = f"{report.steps:,} steps on {report.training_sequences:,} sequences, {report.trained:,} numbers trained"
    print_table([f"loss on {report.held_out_sequences:,} held-out sequences", "before", "after"], rows, title)
    if report.task is not None:
        metrics = [(n, f"{v:.2f}", f"{report.metrics_after[n]:.2f}") for n, v in report.metrics_before.items()]
        print_table([f"{report.task}, development rows", "before", "after"], metrics)
    if report.kept_input:
        print_line(f"No better on held-out text: the input is copied to {report.output} as it was.")
    else:
        print_line(f"Written to {report.output}, its table {size(report.table_bytes)} as before.")


def print_trim(report: "TrimReport") -> None:
    """What `vocabpress trim` did."""
    rows = [
        ("tokens", f"{report.tokens_before:,}", f"{report.tokens_after:,}"),
        ("token table", size(report.table_bytes_before), size(report.table_bytes_after)),
        ("whole model, on disk", size(report.model_bytes_before), size(report.model_bytes_after)),
    ]
    print_table(["", "before", "after"], rows, f"{report.source_name}, {report.tokens_used:,} tokens asked for")
    if report.same_lines is not None:
        print_pairs(
            ("tokens of the text that are still there", f"{report.kept_share:.2%}"),
            ("first lines of the text that are cut into the same tokens", f"{report.same_lines:.1%}"),
        )


def print_export(report: "ExportReport") -> None:
    """What `vocabpress export` did."""
    rows = [
        ("bytes of the checkpoint's weights", size(report.checkpoint_bytes)),
        ("bytes of the ONNX file", size(report.onnx_bytes)),
        (f"largest difference to torch, of {report.largest_value:.3g}", f"{report.largest_difference:.2g}"),
        ("sequences compared", report.sequences),
        ("operators that are onnxruntime's own", report.runtime_nodes),
        ("seconds", f"{report.seconds:.0f}"),
    ]
    print_table([f"{report.architecture}, {report.result}", ""], rows, f"Written to {report.output}.")


def print_calibration(found: "Calibration", output: Path) -> None:
    """What `vocabpress calibrate` found."""
    of = {"sentence": "sentence embeddings", "predictions": "predictions", "hidden": "last hidden states"}
    rows = [("tokens weighted by", found.describe())]
    rows += [("tokens counted", f"{found.tokens:,}")] if found.tokens else []
    if found.metric is not None:
        rows += [("directions weighted by", of.get(found.metric_of or "", "a metric"))]
        rows += [("sequences read for it", f"{found.metric_sequences:,}")] if found.metric_sequences else []
        rows += [("directions that matter (effective rank)", f"{found.effective_rank:.1f}")]
        rows += [("strength of the metric", f"{found.metric_strength:g}")]
    print_pairs(*rows)
    if found.losses:
        best = found.losses.index(min(found.losses))
        marks = [("TF-IDF " * (not epoch) + "taken" * (epoch == best)).strip() for epoch in range(len(found.losses))]
        epochs = [(epoch, f"{loss:.4g}", marks[epoch]) for epoch, loss in enumerate(found.losses)]
        print_table(["epoch", "held-out loss", ""], epochs)
    print_line(f"Written to {output}; for compress --calibration.")


def print_inspection(found: "Inspection", verbose: bool = False) -> None:
    """What `vocabpress inspect` found; ``verbose`` shows the spectrum and the plans, too."""
    rows = [
        (t.name, t.role, ", ".join(t.tied) or "-", _shape(t.shape), t.dtype, size(t.bytes), f"{t.share:.1%}")
        for t in found.tables
    ]
    headers = ["table", "role", "tied to it", "shape", "dtype", "bytes", "of the model"]
    print_table(headers, rows, f"{found.source_name}: {found.architecture}, {size(found.model_bytes)} of weights")
    if found.skew is not None:
        shares = [(f"{count:,} most frequent", f"{share:.1%}") for count, share in found.skew.top.items()]
        title = f"{found.skew.tokens:,} tokens of text, {found.skew.used:.1%} of the vocabulary occurs"
        print_table(["tokens", "of the text"], shares, title)
    _print_methods(found)
    if verbose:
        values = found.singular_values
        ranks = [(rank, f"{values[rank - 1]:.4g}", f"{share:.1%}") for rank, share in found.energy.items()]
        print_table(["rank", "singular value", "share of variance"], ranks, "spectrum of the centred input table")
        plans = [(row.method, f"{row.ratio:g}", _named(row.plan)) for row in found.would_store if row.plan is not None]
        title = "plans that do not depend on the table; the other methods choose theirs when they fit"
        print_table(["method", "ratio to float32", "plan"], plans, title)


def _print_methods(found: "Inspection") -> None:
    ratios = list(dict.fromkeys(row.ratio for row in found.would_store))
    by_method: dict[str, list[str]] = {}
    for row in found.would_store:
        stored = "-" if row.bytes is None else f"{'' if row.exact else '≤ '}{size(row.bytes)}"
        by_method.setdefault(row.method, []).append(stored)
    rows = [
        (f"{name} (recommended)" if name == found.recommended else name, SUITS.get(name, ""), *cells)
        for name, cells in by_method.items()
    ]
    title = f"bytes of {found.tables[0].name}, by how many times smaller than in float32"
    print_table(["method", "suits", *(f"{ratio:g}x" for ratio in ratios)], rows, title, text_columns=2)
    time = "" if found.seconds is None else f"; a fit takes about {duration(found.seconds)} here"
    print_line(
        f"compress takes {found.recommended} by default, at the size that leaves quality 99{time}; see --verbose, too."
    )


def print_compressed(found: "CompressedInspection") -> None:
    """What `vocabpress inspect` found in a folder that is compressed already."""
    for table in found.tables:
        rows = [(item.name, _shape(item.shape), item.dtype, size(item.bits / 8)) for item in table.storage]
        rows.append(("together", "", f"{table.bits_per_weight:.4f} bits per weight", size(table.bytes)))
        title = f"{table.name}: {_shape(table.shape)} at ratio {table.ratio_to_float32:.2f} to float32"
        print_table(["tensor", "shape", "dtype", "bytes"], rows, title)
    if found.linears:
        rows = [(p.names, p.maps, _shape(p.shape), size(p.bytes), f"{p.ratio_to_float32:.2f}") for p in found.linears]
        print_table(["linear maps", "maps", "shape of each", "bytes together", "ratio to float32"], rows)
    fitted = {key: Budget.read(value) if key == "budget" else value for key, value in (found.fitted_by or {}).items()}
    source = "; ".join(f"{key}: {_named(value)}" for key, value in fitted.items())
    print_table(["whole model", size(found.model_bytes)], [], f"{found.source_name}, fitted by {source or 'not known'}")


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(f"{n:,}" for n in shape)


def _named(value: Any) -> str:
    """Settings in words."""
    return ", ".join(f"{key} {each}" for key, each in value.items()) if isinstance(value, Mapping) else str(value)


def print_results(results: Sequence[Result], before: Sequence[Result] = ()) -> None:
    """A table for each task: each metric, over several seeds its mean and sample standard deviation; and answers.

    Where a task was run on the original, too, the table has ``before``, after and the difference.
    """
    for task in dict.fromkeys(result.task for result in results):
        runs = [result for result in results if result.task == task]
        originals = [result for result in before if result.task == task]
        several, first = len(runs) > 1, runs[0]
        rows = []
        for name in first.metrics:
            values, others = ([r.metrics[name] for r in some if name in r.metrics] for some in (runs, originals))
            after = statistics.fmean(values)
            cells = [short(after)]
            if originals:
                old = statistics.fmean(others) if others else None
                cells = ["", *cells, ""] if old is None else [short(old), *cells, f"{after - old:+.4g}"]
            rows.append((metric(name).head, *cells, *([short(statistics.stdev(values))] if len(values) > 1 else [])))
        heads = ["before", "after", "difference"] if originals else ["mean" if several else ""]
        title = f"{first.settings.get('model')}, {first.variant}"
        title += f", table {size(first.bytes['table'])}" if "table" in first.bytes else ""
        title += f", {len(runs)} seeds" if several else ""
        print_table([task, *heads, *(["spread"] if several else [])], rows, title)
        answers = [[" ".join(text.split()) for text in each.values()] for each in first.details.get("answers", ())]
        if answers:
            print_table(list(first.details["answers"][0]), answers, text_columns=3)


def plot_spectrum(found: "Inspection", path: str | Path) -> None:
    """The singular values, and the variance they hold, as a PNG."""
    try:
        import altair as alt
        import vl_convert
    except ImportError as error:
        raise ValueError(f"pictures need {error.name}; pip install 'vocabpress[report]'") from None
    values, sums = found.singular_values, list(accumulate(value * value for value in found.singular_values))
    rows = [
        {"rank": rank, "value": value, "share": total / (sums[-1] or 1)}
        for rank, (value, total) in enumerate(zip(values, sums, strict=True), 1)
    ]
    base = alt.Chart(alt.Data(values=rows)).mark_line().properties(width=420, height=260).encode(x="rank:Q")
    falling = alt.Y("value:Q", title="singular value").scale(type="log", domain=[min(filter(None, values)), values[0]])
    share = alt.Y("share:Q", title="share of the variance").scale(domain=[0, 1])
    left = base.transform_filter("datum.value > 0").encode(y=falling).properties(title="Spectrum of the centred table")
    both = left | base.mark_line(color="#c2541b").encode(y=share).properties(title="Variance in the first directions")
    title = f"{found.source_name}: {found.tables[0].name}, {_shape(found.tables[0].shape)}"
    picture = vl_convert.vegalite_to_png(both.properties(title=title).to_dict(), ppi=150)
    try:
        Path(path).write_bytes(picture)
    except OSError as error:
        raise ValueError(f"can't write the picture {path}: {error.strerror or error}") from None
