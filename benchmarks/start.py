"""Start-up times: writes results/start.json.

python benchmarks/start.py

Whole processes, one after another, in several rounds: imports, help and errors of the command line, each relative to
`import torch, transformers` in the same round. The result is the median of the rounds.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

from common import RESULTS, parse
from vocabpress.results import Result, write_results

ROUNDS = 7
BASE = "import torch, transformers"
COMMAND = [str(Path(sys.executable).with_name("vocabpress"))]
CASES = {
    BASE: [sys.executable, "-c", BASE],
    "from transformers import AutoModel": [sys.executable, "-c", "from transformers import AutoModel"],
    "import vocabpress": [sys.executable, "-c", "import vocabpress"],
    "import vocabpress, AutoModel": [sys.executable, "-c", "import vocabpress; from transformers import AutoModel"],
    "vocabpress --help": [*COMMAND, "--help"],
    "vocabpress --version": [*COMMAND, "--version"],
    "vocabpress compress --help": [*COMMAND, "compress", "--help"],
    "a misspelt option": [*COMMAND, "compress", "model", "-o", "out", "--ration", "25"],
    "a misspelt folder": [*COMMAND, "compress", "./modle", "-o", "out"],
}


def seconds(command: list[str]) -> float:
    """Run a process; its wall time in seconds."""
    start = time.perf_counter()
    subprocess.run(command, capture_output=True, check=False)
    return time.perf_counter() - start


def main() -> int:
    """Measure all cases, in turn."""
    arguments = parse(__doc__)
    for command in CASES.values():  # warm up: files to compile, or to read from disk
        seconds(command)
    start = time.perf_counter()
    rounds = [{name: seconds(command) for name, command in CASES.items()} for _ in range(ROUNDS)]
    results = []
    for name in CASES:
        metrics = {
            "seconds": statistics.median(each[name] for each in rounds),
            "over_torch_transformers": statistics.median(each[name] / each[BASE] for each in rounds),
        }
        print(f"{name}: " + ", ".join(f"{key} {value:.3f}" for key, value in metrics.items()), flush=True)
        settings = {"model": "none", "seed": arguments.seed}
        results.append(Result("start", name, settings, {}, metrics, time.perf_counter() - start))
    write_results(RESULTS / "start.json", results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
