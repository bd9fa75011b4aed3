"""Time of reading a compressed table on a GPU: writes results/gpu.json. 4,096 rows, and the logits of one vector.

python benchmarks/gpu.py

Each call is timed in turn with the same call on a dense bfloat16 table (its gather, its product with a vector), both
eagerly and in a CUDA graph, where Python and launches cost nothing. Codes are random, in the forms and sizes that a
method chooses for a table with a typical spectrum: times do not depend on their values.
"""

import argparse
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from common import RESULTS
from randomtables import SHAPES, forms
from vocabpress.embeddings import CompressedEmbedding
from vocabpress.embeddings.kernels.gpu import lookup, serves
from vocabpress.evaluate.speed import interleaved_milliseconds
from vocabpress.results import Result, environment, write_results

TOKENS, CALLS = 4096, 20

Call = Callable[[], Tensor]


def captured(call: Call) -> Call:
    """The same call, replayed from a CUDA graph."""
    call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


def milliseconds(calls: list[Call]) -> list[float]:
    """Median time of one call of each, in turn; several are queued, like layers."""

    def several(call: Call) -> Callable[[], None]:
        def run() -> None:
            for _ in range(CALLS):
                call()
            torch.cuda.synchronize()

        return run

    return [total / CALLS for total in interleaved_milliseconds([several(call) for call in calls], repeats=30)]


def measure(form: CompressedEmbedding, dense: Tensor, generator: torch.Generator) -> dict[str, float]:
    """Milliseconds of lookup and logits, compressed and dense."""
    ids = torch.randint(len(dense), (TOKENS,), generator=generator).to(dense.device)
    hidden = torch.randn(1, dense.shape[1], generator=generator).to(dense)
    if not serves(form, ids):
        sys.exit("no kernels here: Triton is not installed; it comes with torch for CUDA")
    pairs: dict[str, tuple[Call, Call]] = {
        "lookup": (lambda: torch.nn.functional.embedding(ids, dense), lambda: lookup(form, ids)),
        "logits": (lambda: hidden @ dense.T, lambda: form.logits(hidden)),
    }
    metrics = {}
    for name, calls in pairs.items():
        plain, stored = milliseconds(list(calls))
        metrics |= {f"{name}_ms": stored, f"{name}_ms_dense": plain}
    plain, stored = milliseconds([captured(call) for call in pairs["lookup"]])
    return metrics | {"lookup_graph_ms": stored, "lookup_graph_ms_dense": plain}


def main() -> int:
    """Measure all forms at both shapes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    if not torch.cuda.is_available():
        sys.exit("no CUDA device: this benchmark times nothing else")
    results = list[Result]()
    for rows, columns in SHAPES:
        generator = torch.Generator().manual_seed(seed)
        dense = torch.randn(rows, columns, generator=generator).to("cuda", torch.bfloat16)
        for name, form in forms(rows, columns, generator).items():
            start = time.perf_counter()
            stored = form.total_bits() // 8
            with torch.inference_mode():
                metrics = measure(form.to("cuda", torch.bfloat16), dense, generator)
            settings = {"rows": rows, "columns": columns, "tokens": TOKENS, "dtype": "bfloat16", "seed": seed}
            sizes = {"table": stored, "table_float32": 4 * rows * columns}
            print(f"{name}, {rows:,}: " + ", ".join(f"{k} {v:.4g}" for k, v in metrics.items()), flush=True)
            seconds = time.perf_counter() - start
            results.append(Result("gpu", name, settings, sizes, metrics, seconds, environment=environment("cuda")))
            write_results(RESULTS / "gpu.json", results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
