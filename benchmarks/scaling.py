"""Seconds and memory of a fit as the table grows: writes results/scaling.json. Four times the rows, all else stays.

python benchmarks/scaling.py [--most 262144]

Random tables of 640 columns, the width of a small multilingual model: normal rows whose axes' deviations fall as
k**-0.35 and whose lengths differ as in a real table. Each fit runs in a process of its own, on all cores; its peak
memory is that of the process, less what Python and torch take before there is a table.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from common import RESULTS
from vocabpress import METHODS, Budget
from vocabpress.reconstruction import reconstruction
from vocabpress.results import Result, read_results, write_results

FILE = RESULTS / "scaling.json"
WIDTH, LEAST, STEP = 640, 16384, 4
CASES = (("tcq", 25.0), ("tcq", 103.0), ("fastscan", 25.0), ("svd", 25.0))


def make_table(rows: int, seed: int) -> Tensor:
    """(rows, WIDTH), made by chunks."""
    generator = torch.Generator().manual_seed(seed)
    deviations = torch.arange(1, WIDTH + 1) ** -0.35
    table = torch.empty(rows, WIDTH)
    for chunk in table.split(16384):
        lengths = (0.3 * torch.randn(len(chunk), 1, generator=generator)).exp()
        torch.mul(torch.randn(chunk.shape, generator=generator) * deviations, lengths, out=chunk)
    return table


def peak() -> int:
    """Bytes that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(name: str, ratio: float, rows: int, seed: int) -> dict[str, Any]:
    """One fit, in this process."""
    before = peak()
    table = make_table(rows, seed)
    generator = torch.Generator().manual_seed(seed)
    start = time.perf_counter()
    form = METHODS[name]().fit(table, budget=Budget.ratio(ratio), generator=generator, progress=True)
    seconds, memory = time.perf_counter() - start, peak() - before
    return {
        "seconds": seconds,
        "memory_over_table": memory / (table.numel() * table.itemsize),
        "relative_error": reconstruction(table, form).relative_error,
        "bytes": form.total_bits() // 8,
    }


def main() -> int:
    """All cases, the small tables first; what is in the file already is not measured again."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--most", type=int, default=262144, help="rows of the largest table")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--one", nargs=3, metavar=("METHOD", "RATIO", "ROWS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        name, ratio, rows = arguments.one
        print(json.dumps(measure(name, float(ratio), int(rows), arguments.seed)))
        return 0
    results = read_results(FILE) if FILE.exists() else []
    there = {(row.variant, row.settings["ratio"], row.settings["rows"], row.settings["seed"]) for row in results}
    rows = LEAST
    while rows <= arguments.most:
        for name, ratio in CASES:
            if (name, ratio, rows, arguments.seed) not in there:
                results.append(apart(name, ratio, rows, arguments.seed))
                write_results(FILE, results)
        rows *= STEP
    return 0


def apart(name: str, ratio: float, rows: int, seed: int) -> Result:
    """One fit in a process of its own; its progress bars show through."""
    command = [sys.executable, __file__, "--seed", str(seed), "--one", name, str(ratio), str(rows)]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    metrics: dict[str, float] = json.loads(said.splitlines()[-1])
    seconds, stored = metrics.pop("seconds"), int(metrics.pop("bytes"))
    fields = asdict(METHODS[name]())
    settings = {"method": name, "fields": fields, "ratio": ratio, "rows": rows, "columns": WIDTH, "seed": seed}
    sizes = {"table": stored, "table_float32": 4 * rows * WIDTH}
    print(f"{name} {ratio:g}x, {rows:,} rows: {seconds:.1f} s, {metrics['memory_over_table']:.2f} tables", flush=True)
    return Result("scaling", name, settings, sizes, metrics | {"seconds": seconds}, seconds)


if __name__ == "__main__":
    sys.exit(main())
