"""STS-B dev before and after, for each method: writes results/sts.json.

make bench      or      python benchmarks/sts.py --data DIR
"""

import sys

from common import Variant, parse, references, run_all, sts_dev, sts_judge
from vocabpress import SVD, Autoencoder, LightToken


def main() -> int:
    """Measure all variants; about ten minutes on two cores."""
    arguments = parse(__doc__)
    judge = sts_judge(sts_dev(arguments.data))
    text = {"text": [arguments.data / "leipzig-enwiki-2016-10k" / "eng_wikipedia_2016_10K-sentences.txt"]}
    staged = LightToken(rank=8, stages=4, polish=0, factors="float16")
    variants = [
        Variant("svd", SVD(), 25),
        Variant("svd, int8 factors", SVD("int8"), 25),
        Variant("svd, int4 factors", SVD("int4"), 25),
        Variant("autoencoder", Autoencoder(), 25),
        Variant("autoencoder, non-linear", Autoencoder(nonlinear=True), 25),
        Variant("autoencoder, int4 factors", Autoencoder(factors="int4"), 25),
        Variant("lighttoken, k=8, S=4, float16, no polish", staged, 25),
        Variant("lighttoken", LightToken(), 25),
        Variant("lighttoken, weighted by text", LightToken(), 25, text),
        Variant("lighttoken, weighted by vocabulary order", LightToken(), 25, {"calibration": "vocabulary-order"}),
        Variant("svd", SVD(), 103),
        Variant("svd, int4 factors", SVD("int4"), 103),
        Variant("autoencoder", Autoencoder(), 103),
        Variant("lighttoken", LightToken(), 103),
        Variant("lighttoken, weighted by text", LightToken(), 103, text),
    ]
    run_all("sts", variants, arguments.seed, judge, references("sts", arguments.seed, judge))
    return 0


if __name__ == "__main__":
    sys.exit(main())
