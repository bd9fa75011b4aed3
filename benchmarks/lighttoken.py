"""Which of LightToken's unpublished details gain: writes results/lighttoken.json. Only the table is measured.

python benchmarks/lighttoken.py
"""

import sys
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from common import Variant, parse, run_all
from vocabpress import LightToken
from vocabpress.methods.lighttoken import norm

BOUNDS = ("am_gm", "triangle", "tight_triangle", "mse", "cosine")


@dataclass(frozen=True)
class OtherLoss(LightToken):
    """LightToken with another loss that fits the paper's description; n, m: norms, c: cosine.

    am_gm: (n - m)^2 + (n^2 + m^2)(1 - c) bounds the squared error. triangle: |n - m| + n sqrt(2 (1 - c)) bounds the
    error itself, tight_triangle with min(n, m) for n. cosine: n^2 (1 - c), with a hundredth of (n - m)^2.
    """

    bound: str = "am_gm"

    def row_loss(self, reconstructed: Tensor, original: Tensor) -> Tensor:
        """The loss of each row; overrides LightToken's."""
        n, m = norm(original), norm(reconstructed)
        apart = 1 - (original * reconstructed).sum(-1) / (n * m)
        if self.bound == "am_gm":
            return (n - m).square() + (n.square() + m.square()) * apart
        if self.bound == "cosine":
            return n.square() * apart + 0.01 * (n - m).square()
        length = n if self.bound == "triangle" else torch.minimum(n, m)
        return (n - m).abs() + length * (2 * apart).clamp(min=1e-8).sqrt()


def with_loss(base: LightToken, name: str) -> LightToken:
    """The same method with another loss."""
    return replace(base, loss="mse") if name == "mse" else OtherLoss(**asdict(base), bound=name)


def main() -> int:
    """Measure all variants at ratio 25; about ten minutes on two cores."""
    arguments = parse(__doc__)
    base = LightToken(rank=0, stages=1)
    variants = [
        Variant("searched", LightToken(), 25),
        *(Variant(f"k={k}, S={s}", replace(base, rank=k, stages=s), 25) for k in (0, 2, 8, 32) for s in (1, 2, 4)),
        *(
            Variant(f"k={k}, S={s}, no polish", replace(base, rank=k, stages=s, polish=0), 25)
            for k in (0, 8)
            for s in (1, 2, 4)
        ),
        *(Variant(f"loss {name}", with_loss(base, name), 25) for name in BOUNDS),
        *(Variant(f"lambda {weight}", replace(base, cosine_weight=weight), 25) for weight in (1.0, 2.0, 4.0, 8.0)),
        *(
            Variant(f"lambda {weight}, no polish", replace(base, cosine_weight=weight, polish=0), 25)
            for weight in (1.0, 4.0)
        ),
        Variant("no training", replace(base, epochs=0), 25),
        Variant("no training, no polish", replace(base, epochs=0, polish=0), 25),
        Variant("20 epochs", replace(base, epochs=20), 25),
        Variant("polish 5", replace(base, polish=5), 25),
        Variant("polish 20", replace(base, polish=20), 25),
        Variant("float16 factors", replace(base, factors="float16"), 25),
        Variant("int4 factors", replace(base, factors="int4"), 25),
    ]
    run_all("lighttoken", variants, arguments.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
