"""How long the words of a trellis must be, and how close to the bound it comes then: writes results/words.json.

python benchmarks/words.py

Normal numbers, 256 rows of 64 columns, coded by `tcq` with a memory of 12 at each of its rates, with words at scales
around the one that `methods/tcq.py` has. The error is relative to the rate-distortion bound, 4^-bits.
"""

import sys
import time

import torch

from common import RESULTS
from vocabpress.embeddings import Run, Trellis
from vocabpress.fitting.table import Table
from vocabpress.fitting.trellis import encode
from vocabpress.methods.tcq import WORDS
from vocabpress.results import Result, write_results

ROWS, COLUMNS, MEMORY = 256, 64, 12
FACTORS = (0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2)


def error(rows: torch.Tensor, run: Run, scale: float) -> float:
    """The squared error of an entry over the bound."""
    form, scales = Trellis(len(rows), [run], MEMORY), torch.tensor([scale])
    form.scales.data.copy_(scales)
    encode(Table.of(rows), form.codes, [run], scales, torch.ones(COLUMNS), MEMORY)
    return float((form.dense().detach() - rows).square().mean()) * 4.0 ** (run.bits / run.width)


def main() -> int:
    """Measure all rates."""
    rows = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0))
    results = list[Result]()
    for (bits, width), (scale, _) in WORDS.items():
        if not bits:
            continue
        start, run = time.perf_counter(), Run(COLUMNS, bits, width)
        found = {round(scale * factor, 3): error(rows, run, scale * factor) for factor in FACTORS}
        best = min(found, key=found.__getitem__)
        metrics = {"best_scale": best, "least_error": found[best], "scale": scale, "error": found[round(scale, 3)]}
        settings = {"memory": MEMORY, "bits": bits, "width": width}
        seconds = time.perf_counter() - start
        results.append(Result("words", f"{bits}/{width}", settings, {}, metrics, seconds, {"errors": found}))
        print(f"{bits}/{width} bits: {metrics}", flush=True)
    write_results(RESULTS / "words.json", results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
