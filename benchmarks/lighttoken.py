"""Which of LightToken's unpublished details pay: writes results/lighttoken.json. The table alone is judged.

python benchmarks/lighttoken.py
"""

import sys
from dataclasses import replace

from common import Variant, parse, run_all
from vocabpress import LightToken
from vocabpress.fitting.losses import ROW_LOSSES


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
        *(Variant(f"loss {loss}", replace(base, loss=loss), 25) for loss in ROW_LOSSES if loss != "calibrated"),
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
