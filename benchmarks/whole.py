"""Whole models under one budget, before and after a recovery: writes results/whole.json.

python benchmarks/whole.py                             all rows
python benchmarks/whole.py --only "minilm, 25x"        some of them; may be repeated

A row is a model at a ratio to the original's weight file, trained for some minutes or not. Models are calibrated and
trained on 10,000 sentences of Wikipedia, in English, and the multilingual one on the text that comes with the package.
They are measured on other text: STS-B dev and questions to paragraphs, or WikiText-2 valid. Rows that are there are not
measured again; checkpoints stay in .cache/whole/.
"""

import argparse
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import CACHE, prepare
from common import DEFAULT_DATA, RESULTS
from vocabpress import compress
from vocabpress.evaluate import evaluate, make_task
from vocabpress.hf.folders import weight_bytes
from vocabpress.results import Result, read_results, write_results

FILE = RESULTS / "whole.json"
TEXT = CACHE / "text"
SENTENCES = TEXT / "wikipedia-sentences.txt"
TEXTS: dict[str, list[Path]] = {"minilm": [SENTENCES], "e5": [], "smollm2": [SENTENCES]}
MINUTES = 6.0
RATIOS = {"minilm": (19, 25, 35), "e5": (20, 32), "smollm2": (4, 5.1, 6.7)}
MODELS = {
    "minilm": CACHE / "models" / "all-MiniLM-L6-v2",
    "e5": CACHE / "real_models" / "e5",
    "smollm2": CACHE / "real_models" / "smollm2",
}


@dataclass(frozen=True)
class Row:
    """A model, the ratio of its weight file, and the minutes of training; the original without a ratio."""

    model: str
    ratio: float | None = None
    minutes: float | None = None

    @property
    def name(self) -> str:
        """For people and files."""
        size = "original" if self.ratio is None else f"{self.ratio:g}x"
        return f"{self.model}, {size}" + (", recovered" if self.minutes else "")


ROWS = [
    Row(model, ratio, minutes)
    for model, ratios in RATIOS.items()
    for ratio in (None, *ratios)
    for minutes in ((None,) if ratio is None else (None, MINUTES))
]


def tasks_of(model: str) -> dict[str, Any]:
    """What a model is measured by."""
    if model == "smollm2":
        return {"clm": make_task("clm", subset=50)}
    languages = "en" if model == "minilm" else "es,zh,el,vi"
    return {"sts": make_task("sts"), "retrieval": make_task("retrieval", languages=languages)}


def measure(row: Row) -> Result:
    """Compress, unless that is done, and measure."""
    original, seconds, details = MODELS[row.model], 0.0, dict[str, Any]()
    folder = original if row.ratio is None else CACHE / "whole" / row.name.replace(", ", "-")
    metrics: dict[str, float] = {}
    if row.ratio is not None:
        shutil.rmtree(folder, ignore_errors=True)
        report = compress(
            original, folder, model_ratio=row.ratio, text=TEXTS[row.model], recover=row.minutes, progress=True
        )
        assert report.change is not None
        metrics = {"quality": report.change.quality, "table_bytes": report.table_bytes_after}
        metrics["body_bytes"] = report.linears[0].bytes_after
        metrics |= {} if report.change_unrecovered is None else {"unrecovered": report.change_unrecovered.quality}
        details, seconds = {name: value for name, value in asdict(report).items() if name != "output"}, report.seconds
    tasks, text = tasks_of(row.model), [TEXT / "wikitext-2-valid.txt"]
    found = evaluate(folder, tasks, against=original, data=CACHE / "data", text=text, progress=True)
    for each in found:
        metrics |= {name: value for name, value in each.metrics.items() if isinstance(value, float)}
    sizes = {"file": weight_bytes(folder)}
    return Result("whole", row.name, asdict(row), sizes, metrics, seconds, {"report": details})


def main() -> int:
    """Measure the chosen rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", action="append", choices=[row.name for row in ROWS], help="a row; repeatable")
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the public data sets")
    parser.add_argument("--out", type=Path, default=FILE, help="the JSON file")
    arguments = parser.parse_args()
    prepare(arguments.data)
    results = read_results(arguments.out) if arguments.out.exists() else []
    for row in ROWS:
        chosen = arguments.only is None or row.name in arguments.only
        if chosen and all(each.variant != row.name for each in results):
            results.append(measure(row))
            write_results(arguments.out, results)
            print(row.name, results[-1].metrics, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
