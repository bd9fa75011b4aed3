"""What each part of the codes of linear maps gives: writes results/maps.json.

python benchmarks/maps.py --data DIR

The linear maps of all-MiniLM-L6-v2 at 2 bits an entry, its table as it is, one choice changed at a time, nothing
trained, calibrated on 10,000 sentences of Wikipedia. Measured on STS-B dev and on questions to English paragraphs.
About two minutes a row on two free cores; rows that are there are not measured again.
"""

import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sentence_transformers import SentenceTransformer
from transformers import AutoModel

from bench import CACHE, prepare
from common import RESULTS, SAMPLE, parse, sentence_metrics, sts_dev
from vocabpress.evaluate import evaluate, make_task
from vocabpress.hf.maps import find_maps, weight_of
from vocabpress.job.body import Body
from vocabpress.job.rates import share_out
from vocabpress.methods.ldlq import LDLQ
from vocabpress.results import Result, read_results, write_results

FILE = RESULTS / "maps.json"
TEXT = CACHE / "text" / "wikipedia-sentences.txt"
BITS = 2.0
PLAIN = {"rotate": False, "codes": "uniform", "same_energy": False}


@dataclass(frozen=True)
class Row:
    """A way to code the maps.

    Attributes:
        name: What differs from the default.
        method: How each is coded.
        one_rate: Whether all have the same bits, or those that one slope gives them.
        in_sequence: Whether the inputs of a layer are measured behind the layers that are coded.
    """

    name: str
    method: LDLQ = field(default_factory=LDLQ)
    one_rate: bool = False
    in_sequence: bool = True


ROWS = (
    Row("default"),
    Row("one rate for all maps", one_rate=True),
    Row("all maps at once", in_sequence=False),
    Row("feedback from inputs alone (QTIP)", LDLQ(feedback="inputs")),
    Row("no feedback", LDLQ(feedback="none")),
    Row("not rotated", LDLQ(rotate=False)),
    Row("codes of least error", LDLQ(same_energy=False)),
    Row("memory 8", LDLQ(memory=8)),
    Row("memory 10", LDLQ(memory=10)),
    Row("whole numbers", LDLQ(codes="uniform")),
    Row("whole numbers, one rate", LDLQ(codes="uniform"), one_rate=True),
    Row("GPTQ: inputs alone, not rotated, one rate", LDLQ(feedback="inputs", **PLAIN), one_rate=True),
    Row("round to nearest: GPTQ without feedback", LDLQ(feedback="none", **PLAIN), one_rate=True),
)


def coded(body: Body, row: Row) -> tuple[float, int, float]:
    """Code the maps; returns tr(E E^T) over tr(W W^T), stored bytes, and seconds."""
    start, body.method = time.perf_counter(), row.method
    total = sum(weight_of(module).numel() for module in body.maps.values())
    bits: Mapping[str, float] = dict.fromkeys(body.maps, BITS)
    if not row.one_rate:
        bits = share_out(body.pieces(), int(BITS * total))
    found = body.code(bits, row.in_sequence)
    error = sum(each.error for each in found.values()) / sum(each.squares for each in found.values())
    return error, sum(each.form.total_bits() for each in found.values()) // 8, time.perf_counter() - start


def main() -> int:
    """Measure the rows."""
    arguments = parse(__doc__)
    prepare(arguments.data)
    original = AutoModel.from_pretrained(SAMPLE).eval()
    maps = find_maps(original)
    size = sum(weight_of(module).numel() for module in maps.values())
    results = read_results(FILE) if FILE.exists() else []
    missing = [row for row in ROWS if all(result.variant != row.name for result in results)]
    if not missing:
        return 0
    body = Body(Path(SAMPLE), size, original.dtype, [TEXT], maps, LDLQ(), arguments.seed, None, True)
    encoder, pairs, folder = SentenceTransformer(str(SAMPLE), device="cpu"), sts_dev(arguments.data), CACHE / "maps"
    for row in missing:
        body.start_again(original)
        error, stored, seconds = coded(body, row)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(SAMPLE, folder)
        body.outputs.model.save_pretrained(folder)
        metrics = sentence_metrics(SentenceTransformer(str(folder), device="cpu"), pairs, encoder)
        task = {"retrieval": make_task("retrieval", languages="en")}
        (found,) = evaluate(folder, task, against=SAMPLE, data=CACHE / "data")
        metrics |= {"top1": found.metrics["top1"], "relative_error": error}
        settings = {"bits": BITS, "row": asdict(row), "seed": arguments.seed}
        results.append(Result("maps", row.name, settings, {"body": stored}, metrics, seconds))
        write_results(FILE, results)
        print(f"{row.name}: {metrics}", file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
