"""A compressed table and a body in int8: writes results/combination.json.

python benchmarks/combination.py --data DIR        needs torchao

all-MiniLM-L6-v2: each row is the folder that `vocabpress compress MODEL -o OUT --ratio RATIO --body int8` writes, or
parts of it: bytes of the weight files, and STS-B dev.
"""

import sys
import tempfile
from pathlib import Path

from sentence_transformers import SentenceTransformer
from transformers import AutoModel

from common import SAMPLE, Judge, Variant, parse, run_all, sts_dev, sts_judge
from vocabpress import TCQ
from vocabpress.hf.companions import copy_companions
from vocabpress.hf.folders import weight_bytes
from vocabpress.hf.inner import body_config
from vocabpress.results import Result

ORDER = {"calibration": "vocabulary-order"}  # what compress does without text
INT8 = {**ORDER, "body": "int8"}
VARIANTS = [
    Variant("table 25x", TCQ(), 25, ORDER),
    Variant("table 25x, body int8", TCQ(), 25, INT8),
    Variant("table 103x", TCQ(), 103, ORDER),
    Variant("table 103x, body int8", TCQ(), 103, INT8),
]


def alone(name: str, folder: Path, judge: Judge, seed: int) -> Result:
    """A model whose table is not compressed."""
    encoder = SentenceTransformer(str(folder), device="cpu")
    table = encoder[0].get_parameter("model.embeddings.word_embeddings.weight")
    sizes = {
        "table": table.numel() * table.itemsize,
        "model": weight_bytes(folder),
        "model_before": weight_bytes(SAMPLE),
    }
    metrics = judge(encoder, SentenceTransformer(str(SAMPLE), device="cpu"))
    print(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in metrics.items()), flush=True)
    settings = {"model": "all-MiniLM-L6-v2", "method": "original", "body": name, "seed": seed}
    return Result("combination", name, settings, sizes, metrics, 0.0)


def main() -> int:
    """Measure all variants."""
    arguments = parse(__doc__)
    judge = sts_judge(sts_dev(arguments.data))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        model = AutoModel.from_pretrained(SAMPLE, dtype="auto", quantization_config=body_config("int8"))
        model.save_pretrained(out)
        copy_companions(SAMPLE, out)
        first = [
            alone("original, float32", SAMPLE, judge, arguments.seed),
            alone("body int8", out, judge, arguments.seed),
        ]
    run_all("combination", VARIANTS, arguments.seed, judge, first)
    return 0


if __name__ == "__main__":
    sys.exit(main())
