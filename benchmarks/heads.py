"""What a tied head takes to read: writes results/heads.json. Logits of a few vectors and of many, and rows by id.

python benchmarks/heads.py

The table of all-MiniLM-L6-v2 at two ratios, as the methods store it; times are medians, the calls taken in turn, and
over those of the dense float32 table. Every method is read by its own form's `logits` and `lookup`.
"""

import sys
import time

import torch

from common import RESULTS, SAMPLE, parse
from vocabpress import TCQ, Budget, FastScan, Method
from vocabpress.evaluate.speed import interleaved_milliseconds
from vocabpress.hf.checkpoint import load_model
from vocabpress.hf.tables import input_table
from vocabpress.results import Result, write_results

RATIOS = (25, 103)
METHODS: dict[str, Method] = {"fastscan": FastScan(), "tcq": TCQ(memory=10)}
VECTORS = (1, 8, 64)
IDS = 512


def compare(name: str, method: Method, ratio: float, table: torch.Tensor, seed: int) -> Result:
    """Times of one method at one ratio, as shares of the dense table's."""
    start = time.perf_counter()
    form = method.fit(table, budget=Budget.ratio(ratio), progress=True)
    seconds = time.perf_counter() - start
    for parameter in form.parameters():
        parameter.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(len(table), (IDS,), generator=generator)
    metrics = {}
    for count in VECTORS:
        hidden = torch.randn(count, table.shape[1], generator=generator)
        dense, stored = interleaved_milliseconds([lambda h=hidden: h @ table.T, lambda h=hidden: form.logits(h)])
        metrics |= {f"logits_{count}": stored / dense, f"logits_{count}_dense_ms": dense}
    dense, stored = interleaved_milliseconds([lambda: table[ids], lambda: form.lookup(ids)])
    metrics |= {"lookup_ms": stored, "lookup_dense_ms": dense}
    settings = {"model": "all-MiniLM-L6-v2", "method": name, "ratio": ratio, "seed": seed}
    sizes = {"table": form.total_bits() // 8, "table_float32": table.numel() * 4}
    print(f"{name}, {ratio}x: " + ", ".join(f"{key} {value:.3g}" for key, value in metrics.items()), flush=True)
    return Result("heads", name, settings, sizes, metrics, seconds)


def main() -> int:
    """All methods at all ratios."""
    arguments = parse(__doc__)
    table = input_table(load_model(SAMPLE))[1].detach()
    results = [
        compare(name, method, ratio, table, arguments.seed) for ratio in RATIOS for name, method in METHODS.items()
    ]
    write_results(RESULTS / "heads.json", results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
