"""Results into tables and pictures. Computes nothing but how to show it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from vocabpress.progress import duration

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vocabpress.calibrate import Calibration
    from vocabpress.export import ExportReport
    from vocabpress.forecast import Forecast
    from vocabpress.hf.inspect import CompressedInspection, Inspection
    from vocabpress.hf.report import Report
    from vocabpress.recover import RecoveryReport
    from vocabpress.trim import TrimReport

MIN_WIDTH = 120  # of a table written to a pipe
SUITS = {
    "tcq": "least error for the bytes",
    "fastscan": "tied heads: logits at once",
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


def size(count: float) -> str:
    """Bytes for people: 46.88 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def print_table(
    headers: Sequence[str], rows: Sequence[Sequence[Any]], title: str | None = None, text_columns: int = 1
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


def print_report(report: "Report") -> None:
    """What `vocabpress compress` did."""
    sizes = [("token table", report.table_bytes_before, report.table_bytes_after)]
    sizes += [(f"linear maps of {part.role}", part.bytes_before, part.bytes_after) for part in report.linears]
    sizes += [("whole model, on disk", report.model_bytes_before, report.model_bytes_after)]
    rows = [(name, size(before), size(after), f"{before / after:.2f}") for name, before, after in sizes]
    title = f"{report.source_name}: {report.table} by {report.method}, {report.budget}"
    print_table([f"bytes, the original in {report.dtype}", "before", "after", "times smaller"], rows, title)
    weighted = report.weighted_relative_error is not None
    rows = [
        ("relative error", f"{report.relative_error:.4f}", f"{report.weighted_relative_error or 0:.4f}"),
        ("mean cosine", f"{report.mean_cosine:.4f}", f"{report.weighted_mean_cosine or 0:.4f}"),
    ]
    headers = ["rows, read back", "all alike", "by token frequency"]
    print_table(headers if weighted else headers[:2], rows if weighted else [row[:2] for row in rows])
    print_pairs(
        ("bits per weight, everything counted", f"{report.bits_per_weight:.4f}"),
        *([] if report.dtype == "float32" else [("ratio to float32", f"{report.ratio_to_float32:.2f}")]),
        ("tokens weighted by", report.weighted_by),
        ("fitted in", duration(report.seconds)),
    )
    if report.linears:
        rows = [
            (
                part.role,
                part.shape,
                part.maps,
                f"{part.parameters_before:,}",
                f"{part.parameters_after:,}",
                f"{part.relative_error:.4f}",
            )
            for part in report.linears
        ]
        headers = ["linear maps", "left factors", "maps", "parameters before", "after", "relative error"]
        print_table(headers, rows, "linear maps as Kronecker products")


def print_pairs(*pairs: tuple[str, str]) -> None:
    """A name and a value on each line."""
    width = max(len(name) for name, _ in pairs)
    Console(highlight=False).print("".join(f"  {name:<{width}}  {value}\n" for name, value in pairs), markup=False)


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
        print_table([f"No better on held-out text: the input was kept, and copied to {report.output}."], [])
    else:
        print_table([f"Written to {report.output}, its table {size(report.table_bytes)} as before."], [])


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
            ("tokens of the text that are kept", f"{report.kept_share:.2%}"),
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
    print_table(["calibration", ""], rows)
    if found.losses:
        best = found.losses.index(min(found.losses))
        marks = [("TF-IDF " * (not epoch) + "taken" * (epoch == best)).strip() for epoch in range(len(found.losses))]
        epochs = [(epoch, f"{loss:.4g}", marks[epoch]) for epoch, loss in enumerate(found.losses)]
        print_table(["epoch", "held-out loss", ""], epochs)
    print_table([f"Written to {output}; for compress --calibration."], [])


def print_inspection(found: "Inspection", verbose: bool = False) -> None:
    """What `vocabpress inspect` found; ``verbose`` shows the spectrum and the plans, too."""
    rows = [
        (
            table.name,
            table.role,
            ", ".join(table.tied) or "-",
            f"{table.shape[0]:,} x {table.shape[1]}",
            table.dtype,
            size(table.bytes),
            f"{table.share:.1%}",
        )
        for table in found.tables
    ]
    headers = ["table", "role", "tied to it", "shape", "dtype", "bytes", "of the model"]
    print_table(headers, rows, f"{found.source_name}: {found.architecture}, {size(found.model_bytes)} of weights")
    if found.skew is not None:
        shares = [(f"{count:,} most frequent", f"{share:.1%}") for count, share in found.skew.top.items()]
        title = f"{found.skew.tokens:,} tokens of text, {found.skew.used:.1%} of the vocabulary occurs"
        print_table(["tokens", "of the text"], shares, title)
    _print_matrix(found)
    if verbose:
        _print_details(found)


def _print_matrix(found: "Inspection") -> None:
    ratios = list(dict.fromkeys(row.ratio for row in found.would_store))
    by_method: dict[str, list[str]] = {}
    for row in found.would_store:
        told = "-" if row.bytes is None else f"{size(row.bytes)}" if row.exact else f"≤ {size(row.bytes)}"
        by_method.setdefault(row.method, []).append(told)
    rows = [
        (f"{name} (recommended)" if name == found.recommended else name, SUITS.get(name, ""), *cells)
        for name, cells in by_method.items()
    ]
    title = f"bytes of {found.tables[0].name}, by how many times smaller than in float32"
    print_table(["method", "suits", *(f"{ratio:g}x" for ratio in ratios)], rows, title, text_columns=2)
    took = "" if found.seconds is None else f", about {duration(found.seconds)} here"
    Console(highlight=False).print(
        f"compress takes {found.recommended} at 25x if not told otherwise{took}; --verbose shows spectrum and plans.",
        markup=False,
        soft_wrap=True,
    )


def _print_details(found: "Inspection") -> None:
    ranks = [(rank, f"{found.singular_values[rank - 1]:.4g}", f"{share:.1%}") for rank, share in found.energy.items()]
    print_table(["rank", "singular value", "variance held"], ranks, "spectrum of the centred input table")
    plans = [
        (row.method, f"{row.ratio:g}", ", ".join(f"{key} {value}" for key, value in row.plan.items()))
        for row in found.would_store
        if row.plan is not None
    ]
    title = "plans that do not depend on the table; the other methods choose theirs when they fit"
    print_table(["method", "ratio to float32", "plan"], plans, title)


def print_compressed(found: "CompressedInspection") -> None:
    """What `vocabpress inspect` found in a folder that is compressed already."""
    for table in found.tables:
        shape = f"{table.shape[0]:,} x {table.shape[1]}"
        rows = [
            (item.name, " x ".join(f"{n:,}" for n in item.shape), item.dtype, size(item.bits / 8))
            for item in table.storage
        ]
        rows.append(("together", "", f"{table.bits_per_weight:.4f} bits per weight", size(table.bytes)))
        title = f"{table.name}: {shape} at ratio {table.ratio_to_float32:.2f} to float32"
        print_table(["tensor", "shape", "dtype", "bytes"], rows, title)
    if found.linears:
        rows = [
            (
                part.names,
                part.maps,
                f"{part.shape[0]:,} x {part.shape[1]:,}",
                size(part.bytes),
                f"{part.ratio_to_float32:.2f}",
            )
            for part in found.linears
        ]
        print_table(["linear maps", "maps", "shape of each", "bytes together", "ratio to float32"], rows)
    source = "; ".join(f"{key}: {value}" for key, value in (found.fitted_by or {}).items() if key != "calibration")
    print_table(
        ["whole model", size(found.model_bytes)], [], f"{found.source_name}, fitted by {source or 'nothing said'}"
    )


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure, drawn without a screen.

    Raises:
        ValueError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure as Drawn
    except ImportError:
        raise ValueError("pictures need matplotlib; pip install 'vocabpress[report]'") from None
    return Drawn(figsize=(width, height), layout="constrained")


def plot_spectrum(found: "Inspection", path: str | Path) -> None:
    """The singular values, and the variance they hold, as a PNG.

    Raises:
        ValueError: If matplotlib is not installed, or the file can't be written.
    """
    figure = new_figure(9, 3.6)
    left, right = figure.subplots(1, 2)
    ranks = range(1, len(found.singular_values) + 1)
    left.semilogy(ranks, found.singular_values, color="#1f5fa8")
    left.set(xlabel="rank", ylabel="singular value", title="Spectrum of the centred table")
    squares = [value * value for value in found.singular_values]
    total = sum(squares)
    held = [sum(squares[:rank]) / total for rank in ranks]
    right.plot(ranks, held, color="#c2541b")
    right.set(xlabel="rank", ylabel="share of the variance", title="Variance held", ylim=(0, 1.02))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    rows, width = found.tables[0].shape
    figure.suptitle(f"{found.source_name}: {found.tables[0].name}, {rows:,} x {width}")
    save_figure(figure, path)


def save_figure(figure: "Figure", path: str | Path) -> None:
    """Write a figure as PNG.

    Raises:
        ValueError: If the file can't be written.
    """
    try:
        figure.savefig(path, dpi=150, format="png")
    except OSError as error:
        raise ValueError(f"can't write the picture {path}: {error.strerror or error}") from None


def print_forecast(found: "Forecast", title: str) -> None:
    """What `vocabpress plan` expects."""
    rows = [
        ("table, as it is loaded", size(found.table_bytes)),
        ("compressed table" if found.exact else "compressed table, at most", size(found.stored_bytes)),
        ("memory of each process, at most", size(found.memory_bytes)),
        ("received by each process", size(found.received_bytes)),
        ("time of the fit", duration(found.seconds)),
    ]
    processes = "one process" if found.machines == 1 else f"{found.machines} processes"
    print_table(["", processes], rows, title)
