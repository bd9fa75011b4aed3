"""Inner products of 1, 8 and 64 vectors with all rows of a table, and the 50 largest: writes results/heads.json.

python benchmarks/heads.py

Random tables with the shapes of two heads, in bfloat16. Each is timed in turn with the product with the dense bfloat16
table, as in a model without compression, and with a read of as many bytes as the form stores. The latter is the floor,
because a head that reads all its codes can't be faster than memory.
"""

import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from common import RESULTS, milliseconds, parse
from randomtables import SHAPES, forms
from vocabpress.embeddings import CompressedEmbedding, Projected
from vocabpress.embeddings.inference import logits, top_logits
from vocabpress.embeddings.kernels import scorers
from vocabpress.results import Result, write_results

VECTORS = (1, 8, 64)
TOP = 50
SECONDS = 1.5  # time for a group of calls
CROSSING = (1, 4, 16, 64)  # vectors at which tables of inner products are compared with decoded tiles


def reading_of(count: int) -> Callable[[], object]:
    """A call that reads that many bytes once, and does next to nothing with them."""
    numbers = torch.ones(max(1, count // 8), dtype=torch.int64)
    return numbers.sum


def both_ways(form: CompressedEmbedding, generator: torch.Generator) -> dict[str, float]:
    """Milliseconds by tables of inner products and by decoded tiles, for growing numbers of vectors."""
    form = form.inner if isinstance(form, Projected) else form
    metrics, codes, rows = dict[str, float](), scorers.by_codes(form), scorers.tiles(form)
    for count in CROSSING:
        hidden = torch.randn(count, form.embedding_dim, generator=generator).numpy()
        both = milliseconds([lambda h=hidden: codes(h), lambda h=hidden: rows(h)], SECONDS)
        metrics |= dict(zip((f"tables_{count}_ms", f"tiles_{count}_ms"), both, strict=True))
    return metrics


def measure(form: CompressedEmbedding, dense: Tensor, generator: torch.Generator) -> dict[str, float]:
    """Milliseconds of the form, of the dense table, and of a read of the form's bytes."""
    metrics = dict[str, float]()
    for count in VECTORS:
        hidden = torch.randn(count, dense.shape[1], generator=generator).bfloat16()
        calls = [lambda h=hidden: logits(form, h), lambda h=hidden: h @ dense.T]
        if count == 1:
            calls += [reading_of(form.total_bits() // 8), lambda h=hidden: top_logits(form, h, TOP)]
            calls += [lambda h=hidden: (h @ dense.T).topk(TOP)]
        times = milliseconds(calls, SECONDS)
        metrics |= dict(zip((f"logits_{count}_ms", f"logits_{count}_dense_ms"), times[:2], strict=True))
        if count == 1:
            metrics |= dict(zip(("floor_ms", "top_ms", "top_dense_ms"), times[2:], strict=True))
    return metrics


def main() -> int:
    """Measure all forms at all shapes."""
    arguments, results = parse(__doc__), list[Result]()
    for rows, columns in SHAPES:
        generator = torch.Generator().manual_seed(arguments.seed)
        dense = torch.randn(rows, columns, generator=generator).bfloat16()
        for name, form in forms(rows, columns, generator).items():
            start, stored = time.perf_counter(), form.total_bits() // 8
            with torch.inference_mode():
                metrics = measure(form.bfloat16(), dense, generator)
                if name in ("product, 16 words of 4", "fastscan", "int8"):
                    metrics |= both_ways(form, generator)
            settings = {
                "rows": rows,
                "columns": columns,
                "dtype": "bfloat16",
                "few": scorers.MOST_BY_TABLES,
                "seed": arguments.seed,
            }
            sizes = {"table": stored, "table_float32": 4 * rows * columns}
            print(f"{name}, {rows:,}: " + ", ".join(f"{key} {value:.3g}" for key, value in metrics.items()), flush=True)
            results.append(Result("heads", name, settings, sizes, metrics, time.perf_counter() - start))
            write_results(RESULTS / "heads.json", results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
