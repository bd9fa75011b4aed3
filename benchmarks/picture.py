"""Draw the picture of README.md, docs/picture.svg, from the results: quality against size, and the bytes of a model.

python benchmarks/picture.py            write
python benchmarks/picture.py --check    fail if the picture shows other figures than the results

The figures are also in the picture's metadata, so a check needs no comparison of drawings.
"""

import html
import json
import sys
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from figures import cells, is_original
from mdtable import RESULTS
from vocabpress.results import read_results

LINES = {
    "tcq, by vocabulary order": ("tcq, the default", "#1f5fa8"),
    "tcq": ("tcq, all tokens alike", "#8fb7e3"),
    "lighttoken": ("LightToken", "#c2541b"),
    "product": ("product codes", "#5a8f3c"),
    "svd": ("SVD", "#888888"),
}
BARS = {
    "original, float32": "original",
    "table 25x": "table 25x",
    "table 25x, body int8": "table 25x, body int8",
}
OUTPUT = RESULTS.parents[1] / "docs" / "picture.svg"


def figures() -> dict[str, Any]:
    """The figures of the picture: points of each curve, the original's score, and bytes of table and model."""
    found = cells("minilm", "sts")
    compressed = [row for row in found if not is_original(row) and not row.settings["recovered"]]
    sizes = {row.variant: row.bytes for row in read_results(RESULTS / "combination.json")}
    return {
        "curves": {
            variant: sorted([r.settings["ratio"], r.metrics["stsb_dev"]] for r in compressed if r.variant == variant)
            for variant in LINES
        },
        "original": next(row.metrics["stsb_dev"] for row in found if is_original(row)),
        "bytes": {variant: [sizes[variant]["table"], sizes[variant]["model"]] for variant in BARS},
    }


def draw(shown: dict[str, Any]) -> Figure:
    """The picture of these figures."""
    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    curves, bars = figure.subplots(1, 2, width_ratios=(3, 2))
    for variant, (label, colour) in LINES.items():
        curves.plot(*zip(*shown["curves"][variant], strict=True), marker="o", color=colour, label=label)
    curves.axhline(shown["original"], color="black", linewidth=0.8, linestyle="--", label="original")
    ratios = [ratio for ratio, _ in shown["curves"]["tcq"]]
    curves.set_xscale("log")
    curves.set_xticks(ratios, [f"{ratio:g}x" for ratio in ratios])
    curves.minorticks_off()
    curves.set(xlabel="times smaller than the table in float32", ylabel="STS-B dev, Spearman x 100", ylim=(56, 89))
    curves.set_title("all-MiniLM-L6-v2, table compressed, nothing trained", fontsize=10)
    curves.legend(frameon=False, loc="lower left")
    for place, variant in enumerate(reversed(BARS)):
        table, model = (size / 1e6 for size in shown["bytes"][variant])
        bars.barh(place, table, 0.45, color="#1f5fa8", label="token table" if place == 0 else None)
        bars.barh(place, model - table, 0.45, left=table, color="#c9d6e5", label="the rest" if place == 0 else None)
        bars.text(model + 1, place, f"{model:.1f} MB", va="center")
        bars.text(0, place + 0.34, BARS[variant], va="center", fontsize=9)
    bars.set(xlim=(0, 108), ylim=(-0.4, 2.6), yticks=[], xlabel="MB on disk")
    bars.legend(frameon=False, loc="lower right")
    for axes in (curves, bars):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def main(arguments: list[str]) -> int:
    """Write the picture, or compare its figures."""
    shown = json.dumps(figures())
    if "--check" in arguments:
        same = html.escape(shown, quote=False) in OUTPUT.read_text(encoding="utf-8")
        print("" if same else f"{OUTPUT} shows other figures than benchmarks/results; run python benchmarks/picture.py")
        return 0 if same else 1
    mpl.rcParams.update({"svg.hashsalt": "vocabpress", "font.size": 10})
    draw(json.loads(shown)).savefig(OUTPUT, metadata={"Date": None, "Description": shown})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
