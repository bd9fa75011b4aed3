"""Forecasts beside fits: writes results/dryrun.json.

python benchmarks/dryrun.py [--forecasts]

For each method and size `vocabpress.forecast` says what a fit will take, from small tables; then a table of that
size is fitted in a process of its own. Bytes, memory beside the table, and seconds, as predicted and as measured.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import asdict, replace

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


def predicted(case: Case) -> tuple[dict[str, float], int]:
    """What a forecast says: seconds and bytes beside the table, and bytes stored."""
    found = forecast(METHODS[case.method](), case.rows, case.columns, Budget.ratio(case.ratio))
    beside = found.memory_bytes - found.table_bytes
    return {"seconds_predicted": found.seconds, "working_set_predicted": beside}, found.stored_bytes


def apart(case: Case, seed: int) -> Result:
    """A forecast here, and a fit in a process of its own; its progress bars show through."""
    said_before, stored = predicted(case)
    command = [sys.executable, __file__, "--seed", str(seed), "--one", *map(str, case)]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    measured = json.loads(said.splitlines()[-1])
    metrics = said_before | {"seconds": measured["seconds"], "working_set": measured["working_set"]}
    table = 4 * case.rows * case.columns
    sizes = {"table": measured["bytes"], "table_predicted": stored, "table_float32": table}
    settings = case._asdict() | {"fields": asdict(METHODS[case.method]()), "seed": seed}
    print(f"{case}: {metrics} {sizes}", flush=True)
    return Result("dryrun", case.method, settings, sizes, metrics, measured["seconds"])


def foretold(row: Result) -> Result:
    """The same fit beside a forecast of today."""
    case = Case(**{key: row.settings[key] for key in Case._fields})
    metrics, stored = predicted(case)
    print(f"{case}: {row.metrics} -> {metrics}", flush=True)
    return replace(row, metrics=row.metrics | metrics, bytes=row.bytes | {"table_predicted": stored})


def main() -> int:
    """All cases; what is in the file already is not measured again."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--most", type=int, default=2**26, help="rows times columns of the largest table")
    parser.add_argument("--forecasts", action="store_true", help="only the forecasts anew, beside the fits there are")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--one", nargs=4, metavar=("METHOD", "RATIO", "ROWS", "COLUMNS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        name, ratio, rows, columns = arguments.one
        print(json.dumps(measure(Case(name, float(ratio), int(rows), int(columns)), arguments.seed)))
        return 0
    results = read_results(FILE) if FILE.exists() else []
    if arguments.forecasts:
        write_results(FILE, [foretold(row) for row in results])
        return 0
    there = [{key: row.settings[key] for key in Case._fields} for row in results]
    for case in CASES:
        if case._asdict() not in there and case.rows * case.columns <= arguments.most:
            results.append(apart(case, arguments.seed))
            write_results(FILE, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
