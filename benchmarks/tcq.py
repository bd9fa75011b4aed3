"""What each part of trellis-coded quantisation is worth: writes results/tcq.json. The table, and STS-B dev.

python benchmarks/tcq.py --data DIR

The base counts token weights in the text of the reference models (about 4 million words), takes their square root, cuts
eight blocks, and has a memory of 10 bits; every other variant differs from it in what its name says.
"""

import sys
from pathlib import Path
from typing import Any

from bench import CACHE, prepare
from common import SAMPLE, Variant, parse, references, run_all, sts_dev
from vocabpress import TCQ, LightToken, Product, Residual, Sensitivity, Uniform
from vocabpress.recover import measure_metric

RATIOS = (25, 50, 103, 206)
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

    others = {"uniform": Uniform(), "product": Product(), "residual": Residual(), "lighttoken": LightToken()}
    found = [
        Variant("base", TCQ(), ratio, text),
        *(Variant(f"memory {memory}", TCQ(memory=memory), ratio, text) for memory in (8, 12)),
        *(Variant(f"blocks {blocks}", TCQ(blocks=blocks), ratio, text) for blocks in (1, 2, 4, 16, 32)),
        *(Variant(f"counts ** {power}", TCQ(), ratio, {**text, "weights": power}) for power in (0.25, 0.75, 1.0)),
        *(Variant(f"metric ** {strength}", TCQ(), ratio, heeded(strength)) for strength in (0.25, 0.5, 0.75, 1.0)),
        Variant("no text", TCQ(), ratio),
        Variant("no text, metric ** 0.5", TCQ(), ratio, {"metric": Sensitivity(metric(), 0.5)}),
        Variant("vocabulary order", TCQ(), ratio, {"counts": "vocabulary-order"}),
        *(Variant(f"{words:,} words", TCQ(), ratio, {"text": [excerpt(words)]}) for words in WORDS),
        *(
            Variant(f"min_bits {bits:g} of the mean", TCQ(min_bits=bits * 32 / ratio), ratio, text)
            for bits in (0.5, 0.75)
        ),
    ]
    # Other codes of the same bytes, every token alike.
    kept = others if ratio == 25 else {name: each for name, each in others.items() if name != "uniform"}
    return found + [Variant(name, method, ratio) for name, method in kept.items() if ratio in (25, 103)]


def main() -> int:
    """Measure all variants; about an hour on two cores. What is in the file already is not measured again."""
    arguments = parse(__doc__)
    prepare(arguments.data)
    if not CORPUS.is_file():
        sys.exit(f"no {CORPUS}; python benchmarks/reference_models/train.py causal gathers it")
    pairs = sts_dev(arguments.data)
    every = [variant for ratio in RATIOS for variant in variants(ratio)]
    run_all("tcq", every, arguments.seed, pairs, references("tcq", arguments.seed, pairs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
