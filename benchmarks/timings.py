"""Tables of times and memory, each from results/*.json, for `figures.py`."""

from mdtable import RESULTS, table
from vocabpress.report.names import size
from vocabpress.results import read_results


def heads() -> str:
    """Speed-ups of inner products with all rows over the dense bfloat16 table."""
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
    """Time and memory of fits as rows grow; a line for each method, ratio and width."""
    rows = read_results(RESULTS / "scaling.json")
    body = []
    for row in sorted(rows, key=lambda row: (row.settings["columns"], row.variant, row.settings["ratio"])):
        of = row.metrics
        memory = [size(int(of["working_set"])) if "working_set" in of else "-", f"{of['memory_over_table']:.2f}"]
        each = f"{1e6 * of['seconds'] / row.settings['rows']:.0f}"
        shape = f"{row.settings['rows']:,} x {row.settings['columns']:,}"
        method = f"{row.variant}, {row.settings['ratio']:g}x"
        body.append([method, shape, size(row.bytes["table_float32"]), f"{of['seconds']:.0f} s", each, *memory])
    return table(["", "rows", "table", "time", "time a row, us", "memory besides it", "in all, in tables"], body)


def trellis() -> str:
    """Rows a second of the search of a trellis, by compiled loops and in torch."""
    body = []
    for row in read_results(RESULTS / "trellis.json"):
        of, rate = row.metrics, f"{row.settings['bits']}/{row.settings['width']}".removesuffix("/1")
        loops, plain = of["rows_per_second"], of["rows_per_second_torch"]
        body.append([f"{row.settings['memory']}", rate, f"{loops:,.0f}", f"{plain:,.0f}", f"{loops / plain:.1f}"])
    return table(["memory", "bits an entry", "rows a second", "in torch", "times as many"], body)


def words() -> str:
    """The words of a trellis at each rate: their scale, and the error over the rate-distortion bound."""
    file = RESULTS / "words.json"
    body = []
    for row in read_results(file) if file.exists() else []:
        of, rate = row.metrics, row.variant.removesuffix("/1")
        body.append(
            [rate, f"{of['scale']:.2f}", f"{of['error']:.2f}", f"{of['best_scale']:.2f}", f"{of['least_error']:.2f}"]
        )
    return table(["bits an entry", "scale", "error over the bound", "best scale tried", "its error"], body)


def runtimes() -> str:
    """ONNX files: bytes, difference to torch, times relative to the uncompressed file in the same run."""
    rows = read_results(RESULTS / "runtimes.json")
    timed = {"start": "start", "1x16": "time, 1x16", "8x128": "time, 8x128"}
    body = [["original", size(rows[0].bytes["onnx_original"]), "-", "-", *["1.00"] * len(timed)]]
    for row in rows:
        pairs = [(row.metrics.get(f"ms_{each}"), row.metrics.get(f"ms_{each}_original")) for each in timed]
        times = [f"{now / before:.2f}" if now and before else "-" for now, before in pairs]
        sizes = [size(row.bytes[key]) for key in ("onnx", "checkpoint")]
        body.append([row.variant, *sizes, f"{row.metrics['largest_difference']:.1e}", *times])
    return table(["", "ONNX file", "checkpoint", "difference", *timed.values()], body)


def reading() -> str:
    """Times of forward passes by each way of reading, relative to the dense model; spread over loads."""
    shapes = ("1x16", "1x128", "8x128")
    body = []
    for row in read_results(RESULTS / "reading.json"):
        of, cells = row.metrics, list[str]()
        for shape in shapes:
            spread = f" ({of[f'least_{shape}']:.2f} to {of[f'most_{shape}']:.2f})"
            cells.append(f"{of[f'ms_{shape}'] / of[f'ms_{shape}_original']:.3f}{spread}")
        look = f"{of['us_look']:.0f}" if "us_look" in of else "-"
        body.append([row.settings["model"], row.variant, *cells, look])
    return table(["model", "reading", *(f"time, {shape}" for shape in shapes), "look, us"], body)


def start() -> str:
    """Start-up times, relative to the import of torch and transformers."""
    rows = read_results(RESULTS / "start.json")
    body = [
        [row.variant, *(f"{row.metrics[key]:.2f}" for key in ("seconds", "over_torch_transformers"))] for row in rows
    ]
    return table(["", "seconds", "over `import torch, transformers`"], body)


def memory() -> str:
    """Compressing a large checkpoint: bytes of checkpoint and table, and memory of the process."""
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
    return table(["", "checkpoint", "its table", "after", "own memory", "own and mapped", "minutes"], body)


def resident() -> str:
    """The table of a loaded encoder: bytes in the file, in memory, and of caches."""
    body = [
        [
            f"{row.settings['ratio']:g}x, {row.variant}",
            *(size(row.bytes[key]) for key in ("table", "table_memory", "table_kept")),
            f"{row.metrics['memory_over_file']:.2f}",
        ]
        for row in read_results(RESULTS / "memory.json")
        if row.task == "resident"
    ]
    return table(["", "in the file", "in memory", "cached besides", "memory over file"], body)
