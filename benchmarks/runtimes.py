"""Compressed models in onnxruntime (bytes, difference to torch, milliseconds): writes results/runtimes.json.

python benchmarks/runtimes.py

The real all-MiniLM-L6-v2 as ONNX: dense, with its table compressed, and compressed as a whole, without text. Forward
passes of each and the dense one in turn, in one run; and starts of sessions, the median of three.
"""

import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from common import RESULTS, SAMPLE, parse
from vocabpress import TCQ, Budget, FastScan, Product, compress
from vocabpress.evaluate.speed import interleaved_milliseconds
from vocabpress.export import ExportReport, export
from vocabpress.export.onnx import open_onnx
from vocabpress.results import Result, write_results

TABLE = Budget.ratio(25)
CASES: dict[str, dict[str, Any]] = {
    "tcq": {"method": TCQ(), "budget": TABLE},
    "fastscan": {"method": FastScan(), "budget": TABLE},
    "product": {"method": Product(), "budget": TABLE},
    "tcq, 103x": {"method": TCQ(), "budget": Budget.ratio(103)},
    "the whole model, 19x": {"model_ratio": 19},
}
STARTS = 3
SHAPES = ((1, 16), (8, 128))


def compare(name: str, report: ExportReport, original: ExportReport, seed: int) -> Result:
    """Compare one model with the original, forward passes in turn."""
    files = [Path(each.output) / "onnx" / "model.onnx" for each in (original, report)]
    starts = interleaved_milliseconds([partial(open_onnx, file) for file in files], STARTS)
    sessions = [open_onnx(file) for file in files]
    metrics = {"largest_difference": report.largest_difference, "largest_value": report.largest_value}
    metrics |= dict(zip(("ms_start_original", "ms_start"), starts, strict=True))
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
        for case, sizes in CASES.items():
            compress(SAMPLE, folder / case, measure=False, progress=True, **sizes)
            report = export(folder / case, folder / f"{case} as onnx")
            results.append(compare(case, report, original, arguments.seed))
            write_results(RESULTS / "runtimes.json", results)
    print(f"{time.perf_counter() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
