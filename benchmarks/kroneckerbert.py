"""KroneckerBERT end to end on a real model: compress, distil on text, fine-tune a teacher, distil on two GLUE tasks.

    python benchmarks/kroneckerbert.py --preset kronecker-8x --tasks mrpc,sst2

The quality after each step goes into results/kroneckerbert/PRESET/, one JSON file a step: the rows and STS-B dev of the
compressed model and of the one distilled on text, and each task's development metrics of

    both stages    distilled on text, then on the task
    no text        compressed, then distilled on the task alone        (--ablations)
    no teacher     distilled on text, then plainly fine-tuned          (--ablations)

and into results/kroneckerbert/original/ those of the original and of the fine-tuned original, the teacher. By default
errors are relative on text and the paper's plain ones on the task; other --objectives use a separate folder,
PRESET-ONE-TWO.

Models are stored in .cache/runs/kroneckerbert/PRESET; existing ones are not made again, and a stopped step continues.
"""

import argparse
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from transformers.utils import logging as transformers_logging

from bench import CACHE, prepare
from common import DEFAULT_DATA, RESULTS
from vocabpress import PRESETS, compress, preset
from vocabpress.evaluate import evaluate, make_task
from vocabpress.evaluate.language import MASKED, head_kind
from vocabpress.evaluate.run import provenance, sizes
from vocabpress.recover import OBJECTIVES, Recovery, RecoveryReport, recover
from vocabpress.results import Result, write_results

BATCH, LENGTH = 32, 128  # as the paper's second stage
ORIGINAL = "original"
BEST = ("relative", "kroneckerbert")
PARTS = ("mode", "trained", "steps", "stopped_early", "kept_input", "terms_before", "terms_after", "training_sequences")


@dataclass(frozen=True)
class Bench:
    """A run: its options, and where models and results are stored."""

    model: Path
    chosen: argparse.Namespace
    models: Path
    results: Path

    def once(self, name: str, made: Path, make: Callable[[], Result]) -> Path:
        """Run ``make`` and write its result, unless both exist. Returns ``made``."""
        place = self.results / f"{name}.json"
        if not (made.exists() and place.exists()):
            result = make()
            write_results(place, [result])
            found = ", ".join(f"{key} {value:.4g}" for key, value in result.metrics.items())
            print(f"{name}: {found}", flush=True)
        return made

    def compress(self) -> Path:
        """Compress table and linear maps."""
        folder = self.models / "pressed"

        def make() -> Result:
            shutil.rmtree(folder, ignore_errors=True)
            report = compress(self.model, folder, **preset(self.chosen.preset), seed=self.chosen.seed, measure=False)
            metrics = {"relative_error": report.relative_error, "mean_cosine": report.mean_cosine}
            metrics |= {f"relative_error_{part.role}": part.relative_error for part in report.linears}
            details = {"linears": [asdict(part) for part in report.linears]}
            return self.result("press", "pressed", folder, metrics, report.seconds, details)

        return self.once("pressed", folder, make)

    def distil(self, step: str, student: Path, task: str | None, teacher: Path, steps: int, rate: float) -> Path:
        """One stage of distillation, on text or on a task's rows."""
        name = step.replace(" ", "-") + ("" if task is None else f"-{task}")
        folder = self.models / name

        def make() -> Result:
            shutil.rmtree(folder, ignore_errors=True)
            settings = Recovery(
                mode="model",
                steps=steps,
                batch_size=BATCH,
                max_length=LENGTH,
                learning_rate=rate,
                language_model=task is None and head_kind(self.model) == MASKED,
                evaluate_every=max(1, steps // 20),
                **OBJECTIVES[objective_of(self.chosen)[task is not None]],
            )
            report = recover(
                student,
                folder,
                teacher=teacher,
                text=[CACHE / "text" / "wikipedia-sentences.txt"] if task is None else (),
                task=task,
                data=CACHE / "data",
                settings=settings,
                seed=self.chosen.seed,
                progress=True,
            )
            details = parts(report) | {"settings": settings.to_dict()}
            return self.result(task or "recover", step, folder, figures(report), report.seconds, details)

        return self.once(name, folder, make)

    def result(
        self,
        task: str,
        step: str,
        folder: Path,
        metrics: dict[str, float],
        seconds: float,
        details: Mapping[str, object],
    ) -> Result:
        """A result of one of the models, named by its step; the details describe how it was made."""
        made = provenance(folder)
        settings = {"model": self.model.name, **made, "recovered": None, "seed": self.chosen.seed}
        variant = ORIGINAL if step == ORIGINAL else f"{self.chosen.preset}, {step}"
        details = {**details, "recovered": made["recovered"]}
        return Result(task, variant, settings, sizes(folder, self.model), metrics, seconds, details)

    def measure(self, step: str, folder: Path, task: str, keep: Path | None = None, **fields: object) -> None:
        """Measure one task on one model; a task of GLUE fine-tunes it first, and saves the result in ``keep``."""
        chosen = make_task(task, **{key: value for key, value in fields.items() if value is not None})
        name = f"{step.replace(' ', '-')}-{task}"

        def make() -> Result:
            (found,) = evaluate(
                folder,
                {task: chosen},
                data=CACHE / "data",
                seeds=(self.chosen.seed,),
                output=self.models / "measured" / step,
                keep=keep,
                progress=True,
            )
            details = {**found.details, "task": found.settings["task"]}
            return self.result(task, step, folder, found.metrics, found.seconds, details)

        self.once(name, folder if keep is None else keep / f"{task}-seed{self.chosen.seed}", make)

    def tuned(self, step: str, folder: Path, task: str, keep: Path | None = None) -> None:
        """Fine-tune without a teacher."""
        more = {"epochs": self.chosen.epochs, "subset": self.chosen.subset, "learning_rate": self.chosen.tuning_rate}
        self.measure(step, folder, task, keep, max_length=LENGTH, **more)


def objective_of(chosen: argparse.Namespace) -> tuple[str, ...]:
    """The objectives on text and on a task.

    Raises:
        ValueError: If they are not two known objectives.
    """
    found = tuple(chosen.objectives.split(","))
    if len(found) != len(BEST) or not set(found) <= set(OBJECTIVES):
        raise ValueError(
            f"--objectives takes two of {', '.join(OBJECTIVES)}, joined by a comma; got {chosen.objectives!r}"
        )
    return found


def figures(report: RecoveryReport) -> dict[str, float]:
    """The metrics of a stage."""
    before = {f"{name}_before": value for name, value in report.metrics_before.items()}
    return {"held_out_before": report.held_out_before, "held_out_after": report.held_out_after} | (
        before | report.metrics_after
    )


def parts(report: RecoveryReport) -> dict[str, object]:
    """The other data of a stage, for the details."""
    return {key: value for key, value in asdict(report).items() if key in PARTS}


def run(bench: Bench) -> None:
    """Run all steps."""
    chosen = bench.chosen
    original = replace(bench, models=bench.models.with_name(ORIGINAL), results=bench.results.with_name(ORIGINAL))
    pressed = bench.compress()
    one = bench.distil("stage one", pressed, None, bench.model, chosen.steps_one, chosen.rate_one)
    if (bench.model / "modules.json").is_file():
        original.measure(ORIGINAL, bench.model, "sts", sets="stsb")
        for name, folder in (("pressed", pressed), ("stage one", one)):
            bench.measure(name, folder, "sts", sets="stsb")
    for task in chosen.tasks.split(","):
        original.tuned(ORIGINAL, bench.model, task, original.models)
        teacher = original.models / f"{task}-seed{chosen.seed}"
        bench.distil("both stages", one, task, teacher, chosen.steps_two, chosen.rate_two)
        if chosen.ablations:
            bench.distil("no text", pressed, task, teacher, chosen.steps_two, chosen.rate_two)
            bench.tuned("no teacher", one, task)


def main() -> int:
    """Read the options, prepare the data, run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=CACHE / "models" / "all-MiniLM-L6-v2")
    parser.add_argument("--preset", choices=PRESETS, default="kronecker-8x")
    parser.add_argument("--tasks", default="mrpc,sst2", help="GLUE tasks, separated by commas")
    parser.add_argument("--objectives", default=",".join(BEST), help=f"of both stages: {', '.join(OBJECTIVES)}")
    parser.add_argument("--steps-one", type=int, default=1200, help="steps of distillation on text")
    parser.add_argument("--steps-two", type=int, default=400, help="steps of distillation on each task")
    parser.add_argument("--rate-one", type=float, default=0.02, help="relative to each tensor, as in Recovery")
    parser.add_argument("--rate-two", type=float, default=0.02)
    parser.add_argument("--epochs", type=int, default=3, help="epochs of plain fine-tuning")
    parser.add_argument("--tuning-rate", type=float, default=1e-4, help="learning rate of plain fine-tuning")
    parser.add_argument("--subset", type=int, default=6000, help="training rows of plain fine-tuning, at most")
    parser.add_argument("--ablations", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the public data sets")
    parser.add_argument("--out", type=Path, default=RESULTS / "kroneckerbert")
    chosen = parser.parse_args()
    transformers_logging.set_verbosity_error()
    try:
        prepare(chosen.data)
        objectives = objective_of(chosen)
        name = chosen.preset if objectives == BEST else "-".join((chosen.preset, *objectives))
        run(Bench(chosen.model, chosen, CACHE / "runs" / "kroneckerbert" / name, chosen.out / name))
    except ValueError as error:
        sys.exit(f"error: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
