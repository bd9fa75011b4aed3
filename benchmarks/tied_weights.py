"""What weights a tied table, and on which text they are measured: writes results/tied_weights.json.

python benchmarks/tied_weights.py --data DIR

SmolLM2's tied table by tcq, one choice changed at a time, nothing trained. Perplexity over the original's and KL to the
original, in windows of 512 tokens from all of WikiText-2 valid, and on short stories. About a minute a row on two free
cores; rows that are there are not measured again.
"""

import json
import math
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from bench import CACHE, HERE, SENTENCES, prepare
from common import RESULTS, parse
from vocabpress import TCQ, Budget, Calibration
from vocabpress.calibrate import calibrate
from vocabpress.calibrate.own import TOKENS, own_files
from vocabpress.evaluate.scores import divergences
from vocabpress.hf.checkpoint import open_tokenizer
from vocabpress.results import Result, read_results, write_results

FILE = RESULTS / "tied_weights.json"
MODEL = CACHE / "real_models" / "smollm2"
WINDOW, WINDOWS, AT_ONCE = 512, 12, 2
Text = Literal["its own and the Declaration", "its own", "the Declaration", "Wikipedia", "none"]


@dataclass(frozen=True)
class Row:
    """What is varied.

    Attributes:
        text: What the calibration is measured on; ``"none"`` is the vocabulary's order without a metric.
        exponent: Of the predicted probabilities.
        metric: Whether directions are weighted.
        unbiased: Whether codes lose no length.
        memory: Bits of the trellis' state.
    """

    text: Text = "its own and the Declaration"
    exponent: float = 0.5
    metric: bool = True
    unbiased: bool = True
    memory: int = 12

    @property
    def name(self) -> str:
        """What differs from the default."""
        usual = {**vars(Row())}
        parts = {
            "text": f"text: {self.text}",
            "exponent": f"exponent {self.exponent:g}",
            "metric": "no metric",
            "unbiased": "codes of least error",
            "memory": f"memory {self.memory}",
        }
        return ", ".join(word for field, word in parts.items() if getattr(self, field) != usual[field]) or "default"


ROWS = {
    25.0: (Row(), Row(exponent=0.25), Row(exponent=0.75), Row(unbiased=False), Row(text="Wikipedia"), Row(text="none")),
    8.0: (Row(), Row(exponent=0.25), Row(exponent=0.75), Row(unbiased=False), Row(text="none"), Row(memory=14)),
    12.8: (
        *(Row(), Row(exponent=0.25), Row(exponent=0.75), Row(metric=False), Row(unbiased=False)),
        *(Row(text="its own"), Row(text="the Declaration"), Row(text="Wikipedia"), Row(text="none")),
    ),
}


def calibration(text: Text, data: Path) -> Calibration:
    """A calibration on some text; once, minutes."""
    file = CACHE / "tied_weights" / f"{text.replace(' ', '-')}.safetensors"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            given: dict[str, Any] = {"metric": text != "none", "own_tokens": 0, "progress": True}
            if text == "Wikipedia":
                lines = (data / SENTENCES).read_text(encoding="utf-8").splitlines()
                sentences = file.with_suffix(".txt")
                sentences.write_text("".join(line.split("\t", 1)[-1] + "\n" for line in lines), encoding="utf-8")
                given |= {"text": [sentences], "sequences": 400}
            elif text == "its own":
                given["text"] = stack.enter_context(own_files(MODEL, TOKENS, 0, torch.device("cpu"), True))
            elif text == "its own and the Declaration":
                del given["own_tokens"]
            calibrate(MODEL, **given).save(file)
    return Calibration.load(file)


def windows(text: str) -> Tensor:
    """Windows from everywhere in a text, (n, tokens)."""
    ids: list[int] = open_tokenizer(MODEL)(text)["input_ids"]
    starts = range(0, len(ids) - WINDOW, max(1, (len(ids) - WINDOW) // WINDOWS))
    return torch.tensor([ids[start : start + WINDOW] for start in list(starts)[:WINDOWS]])


def texts(data: Path) -> dict[str, Tensor]:
    """Name -> windows."""
    wikitext = (data / "wikitext-2" / "wiki.valid.tokens").read_text(encoding="utf-8")
    stories = json.loads((data / "tinystories-1000" / "tinystories_1000.json").read_text(encoding="utf-8"))
    stories = "\n\n".join(stories)
    return {"wikitext": windows(wikitext), "stories": windows(stories)}


@torch.inference_mode()
def answers(model: Any, rows: Tensor) -> tuple[list[Tensor], Tensor]:
    """Logits in float16 of each few windows, and the losses of all tokens."""
    logits, losses = [], []
    for some in rows.split(AT_ONCE):
        found = model(some).logits[:, :-1].flatten(0, 1).float()
        losses.append(torch.nn.functional.cross_entropy(found, some[:, 1:].flatten(), reduction="none"))
        logits.append((found - found.amax(-1, keepdim=True)).half())
    return logits, torch.cat(losses)


def main() -> int:
    """Measure the rows."""
    arguments = parse(__doc__)
    prepare(arguments.data)
    if subprocess.run([sys.executable, HERE / "real_models" / "get.py", "smollm2"], check=False).returncode:
        return 1
    model: Any = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    table = model.get_input_embeddings().weight
    original, read = table.detach().clone(), texts(arguments.data)
    before = {name: answers(model, rows) for name, rows in read.items()}
    results = read_results(FILE) if FILE.exists() else []
    there = {(result.settings["ratio"], result.variant) for result in results}
    for ratio, rows in ROWS.items():
        for row in rows:
            if (ratio, row.name) in there:
                continue
            known = replace(calibration(row.text, arguments.data), metric_strength=1.0)
            if row.text != "none":
                known = known.by_predictions(row.exponent)
            given: dict[str, Any] = known.for_fit() | ({} if row.metric else {"metric": None})
            start = time.perf_counter()
            form = TCQ(unbiased=row.unbiased, memory=row.memory).fit(original, budget=Budget.ratio(ratio), **given)
            seconds, metrics = time.perf_counter() - start, dict[str, float]()
            with torch.no_grad():
                table.copy_(form.dense())
            for name, (logits, losses) in before.items():
                after, now = answers(model, read[name])
                pairs = [divergences(*pair) for pair in zip(logits, after, strict=True)]
                metrics[f"{name}_ratio"] = math.exp(float((now - losses).mean()))
                for metric in ("kl", "top1_agreement"):
                    metrics[f"{name}_{metric}"] = float(torch.cat([pair[metric] for pair in pairs]).mean())
            settings = {"ratio": ratio, "row": vars(row), "seed": 0}
            sizes = {"table": form.total_bits() // 8}
            results.append(Result("tied_weights", row.name, settings, sizes, metrics, seconds))
            write_results(FILE, results)
            print(f"{ratio:g}x {row.name}: {metrics}", file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
