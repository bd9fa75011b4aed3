"""Time of reading a compressed table inside an encoder: writes results/reading.json.

python benchmarks/reading.py --data DIR

Forward passes in torch of a model, dense and with its table compressed 25 times by the default method, on consecutive
sentences of Wikipedia, so that tokens repeat as in natural text. Each way of reading is timed in turn with the dense
model, on the same batches; caches are warm. The memory address of a model changes its speed by some per cent for its
lifetime, so all models are loaded several times, and the result is the pair of times with the median ratio. A second
copy of the dense model is timed, too: its difference is the resolution of the measurement. Also measured is the time
for which each read checks whether the copied numbers have changed. One model is all-MiniLM-L6-v2, the other has the
size of BERT-base and random weights, which take as long as any.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, BertConfig, BertModel

from bench import SENTENCES
from common import RESULTS, SAMPLE, milliseconds, parse
from vocabpress import Budget, compress, read_with
from vocabpress.embeddings.kernels.decoders import copied
from vocabpress.embeddings.kernels.watch import Watch
from vocabpress.hf.checkpoint import open_tokenizer
from vocabpress.results import Result, write_results

SHAPES = ((1, 16), (1, 128), (8, 128))
WAYS: dict[str, dict[str, Any]] = {
    "as stored": {"resident": "codes"},
    "hot rows, 1 MB": {"hot_rows": "1MB"},
    "resident": {"resident": "dense"},
}
AGAIN = "dense, once more"
BATCHES, LOADS, SECONDS = 24, 5, 3  # batches of a shape, loads of all models, seconds of timing for a pair


def batches(data: Path, shape: tuple[int, int]) -> list[Tensor]:
    """Ids of consecutive text, in batches."""
    lines = (data / SENTENCES).read_text(encoding="utf-8").splitlines()
    text = " ".join(line.split("\t", 1)[-1] for line in lines[:4000])
    ids = open_tokenizer(SAMPLE)(text, add_special_tokens=False, verbose=False)["input_ids"]
    size = shape[0] * shape[1]
    return [torch.tensor(ids[place : place + size]).view(shape) for place in range(0, BATCHES * size, size)]


def walk(model: Any, ids: list[Tensor]) -> Callable[[], object]:
    """A call that runs the next batch."""
    following = cycle(ids)
    return lambda: model(input_ids=next(following))


def bert_base(folder: Path) -> Path:
    """A random BERT-base, with the tokenizer of the sample model, which has as many tokens."""
    BertModel(BertConfig()).save_pretrained(folder)
    open_tokenizer(SAMPLE).save_pretrained(folder)
    return folder


def timed(original: Path, small: Path, data: Path) -> dict[str, list[tuple[float, float]]]:
    """Milliseconds of each way and of the dense model, for each shape; loads the models."""
    first, again, model = (AutoModel.from_pretrained(folder).eval() for folder in (original, original, small))
    found = dict[str, list[tuple[float, float]]]()
    for way in (AGAIN, *WAYS):
        if way in WAYS:
            read_with(model, **WAYS[way])
        both = model if way in WAYS else again, first
        pairs = [[walk(each, batches(data, shape)) for each in both] for shape in SHAPES]
        found[way] = [(own, dense) for own, dense in (milliseconds(pair, SECONDS, most=200) for pair in pairs)]
    return found


def look(small: Path) -> dict[str, float]:
    """Microseconds for checking whether the copied numbers have changed, by way of reading."""
    table: Any = AutoModel.from_pretrained(small).get_input_embeddings().table
    copies, everything = copied(table), [*copied(table), *table.parameters()]
    stored, whole = Watch(table, copies), Watch(table, everything, table.buffers())
    times = milliseconds([lambda: stored.holds(table), lambda: whole.holds(table)], SECONDS, most=1000)
    return dict(zip(WAYS, (1000 * times[0], 1000 * times[1], 1000 * times[1]), strict=True))


def measure(name: str, original: Path, small: Path, arguments: argparse.Namespace) -> list[Result]:
    """Measure all ways of reading one model, at all shapes."""
    report = compress(original, small, budget=Budget.ratio(25), measure=False, progress=True)
    start = time.perf_counter()
    loads, results = [timed(original, small, arguments.data) for _ in range(LOADS)], list[Result]()
    looks = look(small)
    for way in (AGAIN, *WAYS):
        metrics = dict[str, float]()
        for place, shape in enumerate(SHAPES):
            ordered = sorted((load[way][place] for load in loads), key=lambda pair: pair[0] / pair[1])
            key, (least, *_, most) = f"{shape[0]}x{shape[1]}", (own / dense for own, dense in ordered)
            metrics[f"ms_{key}"], metrics[f"ms_{key}_original"] = ordered[LOADS // 2]
            metrics |= {f"least_{key}": least, f"most_{key}": most}
        settings, table = {"model": name, "seed": arguments.seed}, report.table_bytes_before
        if way in WAYS:
            settings |= {"method": report.method, "ratio": 25}
            table = report.table_bytes_after
            metrics["us_look"] = looks[way]
        sizes = {"table": table, "table_before": report.table_bytes_before}
        print(f"{name}, {way}: " + ", ".join(f"{key} {value:.4g}" for key, value in metrics.items()), flush=True)
        results.append(Result("reading", way, settings, sizes, metrics, time.perf_counter() - start))
    return results


def main() -> int:
    """Measure both models."""
    arguments = parse(__doc__)
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        folder = Path(name)
        results = measure("all-MiniLM-L6-v2", SAMPLE, folder / "minilm", arguments)
        results += measure("BERT-base in size", bert_base(folder / "bert"), folder / "bert-small", arguments)
        write_results(RESULTS / "reading.json", results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
