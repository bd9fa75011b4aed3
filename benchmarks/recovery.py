"""Which of recovery's choices gain: writes results/recovery.json. LightToken at 103x, only the table, STS-B dev.

python benchmarks/recovery.py

Also trellis codes at the same ratio, with token weights and metric as in tcq.py, before and after recovery: only the
table, then from there the body too.

Existing results are not measured again, so a stopped run continues; remove the file to start again.
"""

import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path

from sentence_transformers import SentenceTransformer

from bench import CACHE, CORPUS, prepare
from common import RESULTS, SAMPLE, parse, sentence_metrics, sts_dev
from tcq import counted, in_metric
from vocabpress import TCQ, Budget, Calibration, LightToken, Method, compress
from vocabpress.hf.folders import weight_bytes
from vocabpress.methods import method_name
from vocabpress.recover import OBJECTIVES, Recovery, recover
from vocabpress.results import Result, read_results, write_results

RATIO = 103
TEXT = CACHE / "text" / "wikipedia-sentences.txt"
FILE = RESULTS / "recovery.json"

BASE = Recovery(steps=240, evaluate_every=40, precision="bfloat16")
VARIANTS = {
    "base": BASE,
    **{f"learning rate {rate:g}": replace(BASE, learning_rate=rate) for rate in (0.001, 0.003, 0.03)},
    **{f"without {term}": replace(BASE, **{term: 0.0}) for term in ("embedding", "hidden", "attention")},
    "embedding only": replace(BASE, hidden=0.0, attention=0.0, logits=0.0),
    "hidden only": replace(BASE, embedding=0.0, attention=0.0, logits=0.0),
    "embedding 10": replace(BASE, embedding=10.0),
    "plain squared errors": replace(BASE, **OBJECTIVES["kroneckerbert"]),
    "twice the steps": replace(BASE, steps=480),
    "the body too": replace(BASE, mode="model"),
}

# For trellis codes: more steps, a higher rate.
TABLE = replace(BASE, steps=400, learning_rate=0.03)
BODY = replace(TABLE, mode="model", learning_rate=0.003)


def compressed(method: Method, seed: int, calibration: Calibration | None = None) -> Path:
    """The sample model compressed by a method at the ratio, made once."""
    folder = CACHE / "recovery" / f"{method_name(method)}-seed{seed}"
    if not (folder / "config.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        size = Budget.ratio(RATIO)
        compress(
            SAMPLE, folder, method=method, budget=size, seed=seed, calibration=calibration, measure=False, progress=True
        )
    return folder


def measure(
    name: str, method: Method, settings: Recovery | None, source: Path, folder: Path, seed: int, data: Path
) -> Result:
    """Recover into a folder, and measure the sentences; without settings, measure the compressed model."""
    metrics, seconds, table = {}, 0.0, 0
    if settings is None:
        folder = source
    else:
        shutil.rmtree(folder, ignore_errors=True)
        report = recover(source, folder, teacher=SAMPLE, text=[TEXT], settings=settings, seed=seed, progress=True)
        terms = {f"{term}_loss": value for term, value in report.terms_after.items()}
        metrics = {"held_out_loss": report.held_out_after, "steps": report.steps, "trained": report.trained, **terms}
        seconds, table = report.seconds, report.table_bytes
    encoder = SentenceTransformer(str(folder), device="cpu")
    metrics |= sentence_metrics(encoder, sts_dev(data), SentenceTransformer(str(SAMPLE), device="cpu"))
    print(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in metrics.items()), flush=True)
    made = {"model": "all-MiniLM-L6-v2", "method": method_name(method), "ratio": RATIO, "seed": seed, "text": TEXT.name}
    recovered = None if settings is None else asdict(settings)
    sizes = {"model": weight_bytes(folder), **({"table": table} if table else {})}
    return Result("recovery", name, {**made, "recovered": recovered}, sizes, metrics, seconds)


def main() -> int:
    """Measure all variants without a result; two to four minutes each."""
    arguments = parse(__doc__)
    prepare(arguments.data)
    results = read_results(FILE) if FILE.exists() else []
    there, out = {result.variant for result in results}, CACHE / "recovery" / "out"

    def add(name: str, method: Method, settings: Recovery | None, source: Path, folder: Path = out) -> Path:
        if name not in there:
            results.append(measure(name, method, settings, source, folder, arguments.seed, arguments.data))
            write_results(FILE, results)
        return folder

    source = compressed(LightToken(), arguments.seed)
    for name, settings in {"before": None, **VARIANTS}.items():
        add(name, LightToken(), settings, source)
    method = TCQ()
    source = compressed(method, arguments.seed, in_metric(Calibration.load(counted(CORPUS)), 0.5))
    add("tcq, before", method, None, source)
    table = add("tcq, the table", method, TABLE, source, CACHE / "recovery" / f"tcq-table-seed{arguments.seed}")
    add("tcq, then the body too", method, BODY, table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
