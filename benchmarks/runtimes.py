"""Compressed models in onnxruntime (bytes, difference to torch, milliseconds): writes results/runtimes.json.

python benchmarks/runtimes.py

The real all-MiniLM-L6-v2 as ONNX, dense and with its table compressed; forward passes of both in turn, in one run.
"""

import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch

from common import RESULTS, SAMPLE, parse
from vocabpress import TCQ, Budget, FastScan, Method, Product, compress
from vocabpress.evaluate.speed import interleaved_milliseconds
from vocabpress.export import ExportReport, export
from vocabpress.export.onnx import open_onnx
from vocabpress.results import Result, write_results

CASES: dict[str, tuple[Method, float]] = {
    "tcq": (TCQ(), 25),
    "fastscan": (FastScan(), 25),
    "product": (Product(), 25),
    "tcq, 103x": (TCQ(), 103),
}
SHAPES = ((1, 16), (8, 128))


def compare(name: str, report: ExportReport, original: ExportReport, seed: int) -> Result:
    """Compare one model with the original, forward passes in turn."""
    sessions = [open_onnx(Path(each.output) / "onnx" / "model.onnx") for each in (original, report)]
    metrics = {"largest_difference": report.largest_difference, "largest_value": report.largest_value}
    generator = torch.Generator().manual_seed(seed)
    for batch, length in SHAPES:
        ids = torch.randint(1000, 30000, (batch, length), generator=generator)
        feed = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
        arrays = {key: value.numpy() for key, value in feed.items()}
        calls = [partial(session.run, None, arrays) for session in sessions]
        dense, stored = interleaved_milliseconds(calls)
        metrics |= {f"ms_{batch}x{length}": stored, f"ms_{batch}x{length}_original": dense}
    sizes = {"onnx": report.onnx_bytes, "checkpoint": report.checkpoint_bytes, "onnx_original": original.onnx_bytes}
    print(f"{name}: " + ", ".join(f"{key} {value:.3g}" for key, value in metrics.items()), flush=True)
    return Result("runtimes", name, {"model": "all-MiniLM-L6-v2", "seed": seed}, sizes, metrics, report.seconds)


def main() -> int:
    """Measure all cases."""
    arguments = parse(__doc__)
    start, results = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        original = export(SAMPLE, folder / "original")
        for case, (method, ratio) in CASES.items():
            compress(SAMPLE, folder / case, method=method, budget=Budget.ratio(ratio), measure=False, progress=True)
            report = export(folder / case, folder / f"{case} as onnx")
            results.append(compare(case, report, original, arguments.seed))
            write_results(RESULTS / "runtimes.json", results)
    print(f"{time.perf_counter() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
