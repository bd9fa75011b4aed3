"""Tables of what fits and readings take, each from results/*.json, for `figures.py`."""

from mdtable import RESULTS, table
from vocabpress.report.console import size
from vocabpress.results import read_results


def heads() -> str:
    """How many times faster inner products with all rows are than those with the dense bfloat16 table."""
    counts = (1, 8, 64)
    body = []
    for row in read_results(RESULTS / "heads.json"):
        of = row.metrics
        one, floor = of["logits_1_dense_ms"], of["floor_ms"]
        faster = [of[f"logits_{count}_dense_ms"] / of[f"logits_{count}_ms"] for count in counts]
        figures = [*faster, of["top_dense_ms"] / of["top_ms"], one / floor]
        shape = f"{row.settings['rows']:,} x {row.settings['columns']}"
        body.append([shape, row.variant, size(row.bytes["table"]), f"{one:.1f}", *(f"{n:.1f}" for n in figures)])
    headers = ["table", "form", "stored", "dense, ms", *(f"{count} vectors" for count in counts), "top 50", "floor"]
    return table([header.replace("1 vectors", "1 vector") for header in headers], body)


def scaling() -> str:
    """Seconds of a fit, and its memory as a multiple of the float32 table, as rows grow."""
    rows = read_results(RESULTS / "scaling.json")
    counts = sorted({row.settings["rows"] for row in rows})
    found = {(row.variant, row.settings["ratio"], row.settings["rows"]): row.metrics for row in rows}

    def figure(name: str, ratio: float, count: int) -> str:
        metrics = found.get((name, ratio, count))
        return f"{metrics['seconds']:.0f} s, {metrics['memory_over_table']:.1f}" if metrics else "-"

    cases = dict.fromkeys((name, ratio) for name, ratio, _ in found)
    body = [[f"{name}, {ratio:g}x", *(figure(name, ratio, count) for count in counts)] for name, ratio in cases]
    return table(["", *(f"{count:,} rows" for count in counts)], body)


def runtimes() -> str:
    """ONNX files: bytes, difference to torch, milliseconds beside the uncompressed one in the same run."""
    rows = read_results(RESULTS / "runtimes.json")
    shapes = ("1x16", "8x128")
    body = [["original", size(rows[0].bytes["onnx_original"]), "-", "-", *["1.00"] * len(shapes)]]
    for row in rows:
        times = [f"{row.metrics[f'ms_{shape}'] / row.metrics[f'ms_{shape}_original']:.2f}" for shape in shapes]
        sizes = [size(row.bytes[key]) for key in ("onnx", "checkpoint")]
        body.append([row.variant, *sizes, f"{row.metrics['largest_difference']:.1e}", *times])
    return table(["", "ONNX file", "checkpoint", "difference", *(f"time, {shape}" for shape in shapes)], body)


def reading() -> str:
    """Forward passes by each way of reading, over those of the dense model in the same run."""
    shapes = ("1x16", "1x128", "8x128")
    body = [
        [
            row.settings["model"],
            row.variant,
            *(f"{row.metrics[f'ms_{shape}'] / row.metrics[f'ms_{shape}_original']:.3f}" for shape in shapes),
        ]
        for row in read_results(RESULTS / "reading.json")
    ]
    return table(["model", "reading", *(f"time, {shape}" for shape in shapes)], body)


def memory() -> str:
    """Compressing a large checkpoint: its bytes, the table's, and what the process held."""
    rows = [row for row in read_results(RESULTS / "memory.json") if row.task == "memory"]
    body = [
        [
            f"{row.variant}, {row.settings['ratio']:g}x",
            *(size(row.bytes[key]) for key in ("model_before", "table_before", "model")),
            *(size(int(row.metrics[key])) for key in ("anonymous", "resident")),
            f"{row.metrics['seconds'] / 60:.1f}",
        ]
        for row in rows
    ]
    return table(["", "checkpoint", "its table", "after", "held", "held and mapped", "minutes"], body)


def resident() -> str:
    """A loaded encoder's table: bytes in the file, in memory, and what is kept decoded or counted besides."""
    body = [
        [
            f"{row.settings['ratio']:g}x, {row.variant}",
            *(size(row.bytes[key]) for key in ("table", "table_memory", "table_kept")),
            f"{row.metrics['memory_over_file']:.2f}",
        ]
        for row in read_results(RESULTS / "memory.json")
        if row.task == "resident"
    ]
    return table(["", "in the file", "in memory", "kept besides", "memory over file"], body)
