"""Time and memory of a fit as the table grows: writes results/scaling.json.

python benchmarks/scaling.py [--most 1048576]

Random tables: normal rows whose axes' deviations fall as k**-0.35 and whose lengths differ as in a real table. Some
have 640 columns, the width of a small multilingual model, and four times the rows each time; some 128 columns and up to
a million rows, to see whether time is linear in them; and one has 262,144 x 2,048. Each fit runs in a separate process,
on all cores, its table float32 in memory. The working set is the peak anonymous memory of the process during the fit,
without the table: chunks, samples, data for each row, and the compressed table.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import Tensor

from common import RESULTS
from gauge import INTERVAL, anonymous
from vocabpress import METHODS, Budget
from vocabpress.reconstruction import reconstruction
from vocabpress.results import Result, read_results, write_results

FILE = RESULTS / "scaling.json"


class Case(NamedTuple):
    """A method at a ratio, for a table of some shape."""

    method: str
    ratio: float
    rows: int
    columns: int


WIDE = [
    Case(name, ratio, rows, 640)
    for rows in (16384, 65536, 262144)
    for name, ratio in (("tcq", 25.0), ("tcq", 103.0), ("fastscan", 25.0), ("svd", 25.0))
]
LONG = [
    Case(name, ratio, rows, 128)
    for rows in (30522, 131072, 524288, 1048576)
    for name, ratio in (("tcq", 103.0), ("fastscan", 103.0), ("svd", 25.0))
]
LARGE = [Case(name, 103.0, 262144, 2048) for name in ("svd", "fastscan", "tcq")]


def make_table(rows: int, columns: int, seed: int) -> Tensor:
    """A random table, (rows, columns), made in chunks."""
    generator = torch.Generator().manual_seed(seed)
    deviations = torch.arange(1, columns + 1) ** -0.35
    table = torch.empty(rows, columns)
    for chunk in table.split(16384):
        lengths = (0.3 * torch.randn(len(chunk), 1, generator=generator)).exp()
        torch.mul(torch.randn(chunk.shape, generator=generator) * deviations, lengths, out=chunk)
    return table


class Watch:
    """The peak of this process's anonymous memory while the context is open, less that at its start."""

    def __enter__(self) -> "Watch":
        self.before = self.most = anonymous()
        self.done = threading.Event()
        self.watcher = threading.Thread(target=self._look)
        self.watcher.start()
        return self

    def _look(self) -> None:
        while not self.done.is_set():
            self.most = max(self.most, anonymous())
            time.sleep(INTERVAL)

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.watcher.join()

    @property
    def bytes(self) -> int:
        """Peak less start."""
        return self.most - self.before


def measure(case: Case, seed: int) -> dict[str, Any]:
    """One fit, in this process."""
    table = make_table(case.rows, case.columns, seed)
    generator = torch.Generator().manual_seed(seed)
    start = time.perf_counter()
    with Watch() as watch:
        form = METHODS[case.method]().fit(table, budget=Budget.ratio(case.ratio), generator=generator, progress=True)
    seconds, size = time.perf_counter() - start, table.numel() * table.itemsize
    return {
        "seconds": seconds,
        "working_set": watch.bytes,
        "memory_over_table": 1 + watch.bytes / size,
        "relative_error": reconstruction(table, form).relative_error,
        "bytes": form.total_bits() // 8,
    }


def main() -> int:
    """Measure all cases without a result, small tables first and the slowest method last."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--most", type=int, default=1048576, help="rows of the largest table")
    parser.add_argument("--entries", type=int, default=2**30, help="rows times columns of the largest table")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--one", nargs=4, metavar=("METHOD", "RATIO", "ROWS", "COLUMNS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        name, ratio, rows, columns = arguments.one
        print(json.dumps(measure(Case(name, float(ratio), int(rows), int(columns)), arguments.seed)))
        return 0
    results = read_results(FILE) if FILE.exists() else []
    there = [{key: row.settings[key] for key in Case._fields} for row in results if "working_set" in row.metrics]
    for case in sorted((*WIDE, *LONG, *LARGE), key=lambda case: (case.method == "tcq", case.rows * case.columns)):
        small = case.rows <= arguments.most and case.rows * case.columns <= arguments.entries
        if small and case._asdict() not in there:
            results = [row for row in results if {key: row.settings[key] for key in Case._fields} != case._asdict()]
            results.append(apart(case, arguments.seed))
            write_results(FILE, results)
    return 0


def apart(case: Case, seed: int) -> Result:
    """One fit in a separate process, whose progress bars are visible."""
    command = [sys.executable, __file__, "--seed", str(seed), "--one", *map(str, case)]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    metrics: dict[str, float] = json.loads(output.splitlines()[-1])
    seconds, stored = metrics.pop("seconds"), int(metrics.pop("bytes"))
    settings = case._asdict() | {"fields": asdict(METHODS[case.method]()), "seed": seed}
    sizes = {"table": stored, "table_float32": 4 * case.rows * case.columns}
    print(
        f"{case.method} {case.ratio:g}x, {case.rows:,} x {case.columns}: {seconds:.1f} s, "
        f"{metrics['working_set'] / 1e6:.0f} MB beside the table",
        flush=True,
    )
    return Result("scaling", case.method, settings, sizes, metrics | {"seconds": seconds}, seconds)


if __name__ == "__main__":
    sys.exit(main())
