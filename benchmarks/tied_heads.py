"""Which code for a tied head: SmolLM2's table by tcq and fastscan at equal bytes: writes results/tied_heads.json.

python benchmarks/tied_heads.py                            all cells
python benchmarks/tied_heads.py --only "fastscan, 8x"      one cell; the name may be repeated

A cell is a method at a ratio, or the original. Measured are perplexity and the distance to the original's predictions,
the seconds of the fit, and for each way of reading (docs/reading.md), in a process of its own, resident memory after
loading and a first answer, and greedy tokens a second. Finished parts of a cell are not measured again, and a fit that
is done stays in .cache/tied_heads/.
"""

import argparse
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import AutoModelForCausalLM

from bench import CACHE, measure_metric, prepare
from common import DEFAULT_DATA, RESULTS
from memory import WAYS
from vocabpress import Budget, Calibration, compress, read_with
from vocabpress.evaluate import evaluate, make_task
from vocabpress.results import Result, read_results, write_results

FILE = RESULTS / "tied_heads.json"
MODEL = CACHE / "real_models" / "smollm2"
METRIC = CACHE / "metric" / "smollm2.safetensors"
TEXT = CACHE / "text" / "wikitext-2-valid.txt"
ORIGINAL = "original"
CELLS = {ORIGINAL: None} | {f"{name}, {ratio}x": (name, ratio) for name in ("tcq", "fastscan") for ratio in (16, 8)}
LINES, TOKENS, REPEATS = 50, 64, 3  # lines of text that are scored; tokens of an answer, and how often it is timed


def fit(cell: str, folder: Path) -> None:
    """Compress into a folder, and write the seconds that it took beside it."""
    method, ratio = CELLS[cell] or ("", 0)
    known, made = Calibration.load(METRIC), folder.with_name(f"{folder.name}-unfinished")
    shutil.rmtree(made, ignore_errors=True)
    report = compress(
        MODEL, made, method=method, budget=Budget.ratio(ratio), calibration=known, measure=False, progress=True
    )
    seconds_of(folder).write_text(str(report.seconds), encoding="utf-8")
    made.rename(folder)


def seconds_of(folder: Path) -> Path:
    """The file of the seconds of a fit."""
    return folder.with_name(f"{folder.name}.seconds")


def quality(cell: str, folder: Path, lines: int) -> Result:
    """Perplexity and the distance to the original's predictions, beside the seconds of the fit."""
    seconds = 0.0
    if cell != ORIGINAL:
        if not folder.is_dir():
            fit(cell, folder)
        seconds = float(seconds_of(folder).read_text(encoding="utf-8"))
    tasks = {"clm": make_task("clm", subset=lines)}
    (found,) = evaluate(folder, tasks, against=MODEL, text=[TEXT], progress=True)
    settings = {**found.settings, "cell": cell}
    return Result("tied_heads", "quality", settings, found.bytes, found.metrics, seconds)


def reading(cell: str, way: str, folder: Path, tokens: int) -> Result:
    """Memory and speed of one way of reading; a process of its own, so that nothing else has been loaded."""
    before, start = psutil.Process().memory_info().rss, time.perf_counter()
    model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    options = {} if cell == ORIGINAL else WAYS[way]
    if options:
        read_with(model, **options)
    with torch.inference_mode():
        model.generate(input_ids=torch.arange(1, 33)[None], do_sample=False, max_new_tokens=4)
    memory = psutil.Process().memory_info().rss - before
    del model
    task = make_task("generation", new_tokens=tokens, repeats=REPEATS, answer_tokens=0, **options)
    (found,) = evaluate(folder, {"generation": task}, against=MODEL, progress=True)
    settings = {**found.settings, "cell": cell}
    return Result("tied_heads", way, settings, {"memory": memory}, found.metrics, time.perf_counter() - start)


def main() -> int:
    """Measure the chosen cells; existing results are not measured again."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", action="append", choices=list(CELLS), help="a cell; repeatable")
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the public data sets")
    parser.add_argument("--out", type=Path, default=FILE, help="the JSON file")
    parser.add_argument("--quick", action="store_true", help="few lines and tokens: a trial, which needs --out")
    arguments = parser.parse_args()
    if arguments.quick and arguments.out == FILE:
        parser.error("--quick is a trial and needs --out, another file than the results")
    prepare(arguments.data)
    measure_metric("smollm2")
    results = read_results(arguments.out) if arguments.out.exists() else []
    there = {(row.settings["cell"], row.variant) for row in results}
    for cell in arguments.only or CELLS:
        folder = MODEL if cell == ORIGINAL else CACHE / "tied_heads" / cell.replace(", ", "-")
        folder.parent.mkdir(parents=True, exist_ok=True)
        if (cell, "quality") not in there:
            results.append(quality(cell, folder, 5 if arguments.quick else LINES))
            write_results(arguments.out, results)
        for way in list(WAYS)[:1] if cell == ORIGINAL else WAYS:
            if (cell, way) not in there:
                with ProcessPoolExecutor(1, get_context("spawn")) as apart:
                    tokens = 4 if arguments.quick else TOKENS
                    results.append(apart.submit(reading, cell, way, folder, tokens).result())
                write_results(arguments.out, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
