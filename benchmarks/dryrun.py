"""Forecasts beside fits: writes results/dryrun.json.

python benchmarks/dryrun.py [--forecasts]

For each method and size `vocabpress.forecast` predicts the bytes of a fit, and the seconds where the method can; then a
table of that size is fitted in a process of its own.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import asdict, replace

from common import RESULTS
from scaling import Case, make_table, measure
from vocabpress import METHODS, Budget
from vocabpress.forecast import forecast
from vocabpress.results import Result, read_results, write_results

FILE = RESULTS / "dryrun.json"
CASES = [
    Case(name, 25.0, rows, columns)
    for rows, columns in ((30522, 128), (131072, 128), (65536, 640))
    for name in ("svd", "uniform", "tcq", "fastscan", "product", "groupreduce", "compositional")
]


def with_forecast(row: Result, case: Case, seed: int) -> Result:
    """The result of a fit, with the current forecast."""
    table = make_table(case.rows, case.columns, seed)
    found = forecast(METHODS[case.method](), table, Budget.ratio(case.ratio))
    metrics = {name: value for name, value in row.metrics.items() if not name.endswith("_predicted")}
    metrics |= {} if found.seconds is None else {"seconds_predicted": found.seconds}
    row = replace(row, metrics=metrics, bytes=row.bytes | {"table_predicted": found.stored_bytes})
    print(f"{case}: {row.metrics} {row.bytes}", flush=True)
    return row


def fitted(case: Case, seed: int) -> Result:
    """A fit in a separate process, whose progress bars are visible."""
    command = [sys.executable, __file__, "--seed", str(seed), "--one", *map(str, case)]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    measured = json.loads(output.splitlines()[-1])
    metrics = {"seconds": measured["seconds"], "working_set": measured["working_set"]}
    sizes = {"table": measured["bytes"], "table_float32": 4 * case.rows * case.columns}
    settings = case._asdict() | {"fields": asdict(METHODS[case.method]()), "seed": seed}
    return Result("dryrun", case.method, settings, sizes, metrics, measured["seconds"])


def main() -> int:
    """Measure all cases without a result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--most", type=int, default=2**26, help="rows times columns of the largest table")
    parser.add_argument("--forecasts", action="store_true", help="only update the forecasts of existing results")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--one", nargs=4, metavar=("METHOD", "RATIO", "ROWS", "COLUMNS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        name, ratio, rows, columns = arguments.one
        print(json.dumps(measure(Case(name, float(ratio), int(rows), int(columns)), arguments.seed)))
        return 0
    results = read_results(FILE) if FILE.exists() else []
    cases = [Case(**{key: row.settings[key] for key in Case._fields}) for row in results]
    if arguments.forecasts:
        results = [with_forecast(row, case, arguments.seed) for row, case in zip(results, cases, strict=True)]
        write_results(FILE, results)
        return 0
    for case in CASES:
        if case not in cases and case.rows * case.columns <= arguments.most:
            results.append(with_forecast(fitted(case, arguments.seed), case, arguments.seed))
            write_results(FILE, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
