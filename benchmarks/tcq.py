"""What each part of trellis-coded quantisation is worth: writes results/tcq.json. The table, and STS-B dev.

python benchmarks/tcq.py --data DIR

The base counts token weights in the text of the reference models (about 4 million words), takes their square root, cuts
eight blocks, and has a memory of 12 bits; every other variant differs from it in what its name says.
"""

import sys
from pathlib import Path
from typing import Any

from bench import CACHE, prepare
from common import SAMPLE, Variant, parse, references, run_all, sts_dev, sts_judge
from vocabpress import TCQ, FastScan, LightToken, Product, Residual, Sensitivity
from vocabpress.recover import measure_metric

RATIOS = (25, 103, 50, 206)
IN_FULL = (25, 103)  # the others with a few variants
OTHERS = {"fastscan": FastScan(), "product": Product(), "residual": Residual(), "lighttoken": LightToken()}
FLOORS = (0.5, 0.75)
CORPUS = CACHE / "reference_models" / "text" / "training.txt"
WORDS = (10_000, 100_000, 1_000_000)


def excerpt(words: int) -> Path:
    """Lines of the corpus, evenly spread, of about so many words."""
    file = CACHE / "text" / f"{words}-words.txt"
    if not file.exists():
        lines = CORPUS.read_text(encoding="utf-8").splitlines()
        total = sum(len(line.split()) for line in lines)
        file.write_text("\n".join(lines[:: max(1, total // words)]) + "\n", encoding="utf-8")
    return file


def metric() -> Path:
    """The metric of the sample model, measured once."""
    file = CACHE / "metric" / "all-MiniLM-L6-v2.safetensors"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        measure_metric(SAMPLE, file, text=[CACHE / "text" / "wikipedia-sentences.txt"], progress=True)
    return file


def variants(ratio: int) -> list[Variant]:
    """All at one ratio."""
    text: dict[str, Any] = {"text": [CORPUS]}

    def heeded(strength: float, **more: Any) -> dict[str, Any]:
        return {**text, **more, "metric": Sensitivity(metric(), strength)}

    found = [
        Variant("base", TCQ(), ratio, text),
        Variant("memory 10", TCQ(memory=10), ratio, text),
        Variant("counts ** 0.25", TCQ(), ratio, {**text, "weights": 0.25}),
        Variant("metric ** 0.5", TCQ(), ratio, heeded(0.5)),
        Variant("direction ** 0.5", TCQ(), ratio, {**text, "direction": 0.5}),
        Variant("no text", TCQ(), ratio),
        Variant("vocabulary order", TCQ(), ratio, {"counts": "vocabulary-order"}),
    ]
    if ratio not in IN_FULL:
        return found
    return [
        *found,
        Variant("memory 8", TCQ(memory=8), ratio, text),
        *(Variant(f"blocks {blocks}", TCQ(blocks=blocks), ratio, text) for blocks in (1, 2, 4, 16, 32)),
        Variant("no text, blocks 1", TCQ(blocks=1), ratio),
        *(Variant(f"counts ** {power}", TCQ(), ratio, {**text, "weights": power}) for power in (0.75, 1.0)),
        *(Variant(f"metric ** {strength}", TCQ(), ratio, heeded(strength)) for strength in (0.25, 0.75, 1.0)),
        Variant("no text, metric ** 0.5", TCQ(), ratio, {"metric": Sensitivity(metric(), 0.5)}),
        Variant("direction ** 1", TCQ(), ratio, {**text, "direction": 1.0}),
        Variant("direction ** 0.5, metric ** 0.5", TCQ(), ratio, heeded(0.5, direction=0.5)),
        Variant("no text, direction ** 1", TCQ(), ratio, {"direction": 1.0}),
        *(Variant(f"{words:,} words", TCQ(), ratio, {"text": [excerpt(words)]}) for words in WORDS),
        *(Variant(f"min_bits {part:g} of the mean", TCQ(min_bits=part * 32 / ratio), ratio, text) for part in FLOORS),
        # Other codes of the same bytes, every token alike.
        *(Variant(name, method, ratio) for name, method in OTHERS.items()),
    ]


def main() -> int:
    """Measure all variants; about an hour on a core. What is in the file already is not measured again."""
    arguments = parse(__doc__)
    prepare(arguments.data)
    if not CORPUS.is_file():
        sys.exit(f"no {CORPUS}; python benchmarks/reference_models/train.py causal gathers it")
    judge = sts_judge(sts_dev(arguments.data))
    every = [variant for ratio in RATIOS for variant in variants(ratio)]
    run_all("tcq", every, arguments.seed, judge, references("tcq", arguments.seed, judge))
    return 0


if __name__ == "__main__":
    sys.exit(main())
