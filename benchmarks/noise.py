"""How exactly STS-B dev separates a compressed encoder from the original: writes results/noise.json.

python benchmarks/noise.py --data DIR

The 1,500 pairs are resampled with replacement a thousand times (a paired bootstrap), and the Spearman of both encoders
is computed on each sample. The spread of their difference is the sampling noise of the pairs.
"""

import sys

import torch
from sentence_transformers import SentenceTransformer

from common import RESULTS, Judge, Variant, measure, parse, sts_dev
from vocabpress import TCQ
from vocabpress.evaluate.sentences import pair_cosines, spearman
from vocabpress.results import Result, write_results

RATIOS = (25, 50, 103)
DRAWINGS = 1000


def drawn(pairs: list[tuple[str, str, float]], seed: int) -> Judge:
    """A judge that measures the difference of two encoders on STS-B dev, and its spread over samples of the pairs."""
    first, second = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    human = torch.tensor([pair[2] for pair in pairs])

    def judge(encoder: SentenceTransformer, original: SentenceTransformer) -> dict[str, float]:
        both = [pair_cosines(each, first, second) for each in (encoder, original)]
        generator = torch.Generator().manual_seed(seed)
        whole = [100 * spearman(cosines, human) for cosines in both]
        shares, differences = [], []
        for _ in range(DRAWINGS):
            ids = torch.randint(len(pairs), (len(pairs),), generator=generator)
            small, large = (100 * spearman(cosines[ids], human[ids]) for cosines in both)
            shares.append(small / large)
            differences.append(small - large)
        ordered = torch.tensor(shares).quantile(torch.tensor([0.05, 0.95])).tolist()
        return {
            "sts_dev_spearman": whole[0],
            "original": whole[1],
            "share": whole[0] / whole[1],
            "difference_deviation": float(torch.tensor(differences).std()),
            "share_5": ordered[0],
            "share_95": ordered[1],
        }

    return judge


def main() -> int:
    """Measure the default without text at three ratios."""
    arguments = parse(__doc__)
    judge, results = drawn(sts_dev(arguments.data), arguments.seed), list[Result]()
    for ratio in RATIOS:
        variant = Variant("tcq, by vocabulary order", TCQ(), ratio, {"calibration": "vocabulary-order"})
        results.append(measure(variant, "noise", arguments.seed, judge))
        write_results(RESULTS / "noise.json", results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
