"""Forecasts beside fits: writes results/dryrun.json.

python benchmarks/dryrun.py

For each method and size `vocabpress.forecast` says what a fit will take, from two small tables; then a table of that
size is fitted in a process of its own. Bytes, memory beside the table, and seconds, as predicted and as measured.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import asdict

from common import RESULTS
from scaling import Case, measure
from vocabpress import METHODS, Budget
from vocabpress.forecast import forecast
from vocabpress.results import Result, read_results, write_results

FILE = RESULTS / "dryrun.json"
CASES = [
    Case(name, 25.0, rows, columns)
    for rows, columns in ((30522, 128), (131072, 128), (65536, 640))
    for name in ("svd", "uniform", "tcq", "fastscan", "product", "groupreduce", "compositional")
]


def apart(case: Case, seed: int) -> Result:
    """A forecast here, and a fit in a process of its own; its progress bars show through."""
    method = METHODS[case.method]()
    found = forecast(method, case.rows, case.columns, Budget.ratio(case.ratio))
    command = [sys.executable, __file__, "--seed", str(seed), "--one", *map(str, case)]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    measured = json.loads(said.splitlines()[-1])
    beside = found.memory_bytes - found.table_bytes
    metrics = {
        "seconds": measured["seconds"],
        "seconds_predicted": found.seconds,
        "working_set": measured["working_set"],
        "working_set_predicted": beside,
    }
    sizes = {"table": measured["bytes"], "table_predicted": found.stored_bytes, "table_float32": found.table_bytes}
    settings = case._asdict() | {"fields": asdict(method), "seed": seed}
    print(f"{case}: {metrics} {sizes}", flush=True)
    return Result("dryrun", case.method, settings, sizes, metrics, measured["seconds"])


def main() -> int:
    """All cases; what is in the file already is not measured again."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--most", type=int, default=2**26, help="rows times columns of the largest table")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--one", nargs=4, metavar=("METHOD", "RATIO", "ROWS", "COLUMNS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        name, ratio, rows, columns = arguments.one
        print(json.dumps(measure(Case(name, float(ratio), int(rows), int(columns)), arguments.seed)))
        return 0
    results = read_results(FILE) if FILE.exists() else []
    there = [{key: row.settings[key] for key in Case._fields} for row in results]
    for case in CASES:
        if case._asdict() not in there and case.rows * case.columns <= arguments.most:
            results.append(apart(case, arguments.seed))
            write_results(FILE, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
