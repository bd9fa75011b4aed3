"""The search of `tcq`, by compiled loops and in torch: writes results/trellis.json.

python benchmarks/trellis.py

Normal rows of 384 columns at one rate, the path of each with a given seam, in turn in one process and one thread (a fit
gives each thread its own rows). Measures rows a second, and the share of rows for which the two find different paths,
which are equally good up to rounding.
"""

import sys

import torch

from common import RESULTS, milliseconds
from vocabpress.embeddings import Run
from vocabpress.fitting.viterbi import Steps, best_path, plain_path
from vocabpress.results import Result, write_results

COLUMNS, ROWS, SECONDS = 384, 64, 12.0
CASES = [
    *((memory, Run(COLUMNS, 1)) for memory in (8, 10, 12, 14)),
    *((12, Run(COLUMNS, bits, width)) for bits, width in ((1, 4), (1, 2), (2, 1), (4, 1))),
]


def measure(memory: int, run: Run) -> Result:
    """Measure one memory and rate."""
    draw = torch.Generator().manual_seed(0)
    rows, importance = torch.randn(ROWS, COLUMNS, generator=draw), torch.ones(COLUMNS)
    seams = torch.randint(2**memory, (ROWS,), generator=draw)
    steps = Steps.of([run], torch.ones(1), memory)
    searches = [lambda find=find: find(rows, steps, importance, seams)[0] for find in (best_path, plain_path)]
    other = float((searches[0]() != searches[1]()).any(1).float().mean())
    loops, plain = milliseconds(searches, SECONDS)
    metrics = {"rows_per_second": 1e3 * ROWS / loops, "rows_per_second_torch": 1e3 * ROWS / plain, "other_paths": other}
    print(f"memory {memory}, {run.bits}/{run.width} bits: {plain / loops:.1f} times faster; {metrics}", flush=True)
    settings = {"memory": memory, "bits": run.bits, "width": run.width, "columns": COLUMNS, "rows": ROWS}
    return Result("trellis", f"memory {memory}", settings, {}, metrics, (loops + plain) / 1e3)


def main() -> int:
    """Measure all cases."""
    torch.set_num_threads(1)
    write_results(RESULTS / "trellis.json", [measure(*case) for case in CASES])
    return 0


if __name__ == "__main__":
    sys.exit(main())
