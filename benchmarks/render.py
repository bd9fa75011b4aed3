"""Put the figures of results/*.json into README.md and docs: every block between `<!-- results: NAME -->` markers.

python benchmarks/render.py            write
python benchmarks/render.py --check    fail if a block is not what the results say
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

from vocabpress.report.console import size
from vocabpress.results import Result, read_results

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"
PAGES = ["README.md", "LOG.md", *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"(<!-- results: ([a-z0-9-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(headers: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, the first column to the left."""
    rule = ["---", *["---:"] * (len(headers) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [headers, rule, *rows]) + "\n"


def sts_row(result: Result) -> list[str]:
    """One line of the STS tables."""
    metrics = result.metrics

    def figure(name: str, places: int) -> str:
        return f"{metrics[name]:.{places}f}" if name in metrics else "-"

    return [
        result.variant,
        size(result.bytes["table"]),
        figure("ratio_to_float32", 2),
        figure("relative_error", 3),
        figure("mean_cosine", 3),
        figure("sentence_cosine", 3),
        figure("sts_dev_spearman", 2),
    ]


def sts(ratio: float) -> str:
    """STS-B dev at one ratio, between ceiling and floor."""
    rows = read_results(RESULTS / "sts.json")
    kept = [row for row in rows if row.settings.get("ratio", ratio) == ratio]
    headers = ["variant", "table", "ratio", "relative error", "row cosine", "sentence cosine", "STS-B dev"]
    return table(headers, [sts_row(row) for row in kept])


def lighttoken() -> str:
    """The details of LightToken."""
    rows = read_results(RESULTS / "lighttoken.json")
    headers = ["variant", "ratio", "relative error", "row cosine"]
    figures = [("ratio_to_float32", 2), ("relative_error", 4), ("mean_cosine", 4)]
    body = [[row.variant, *(f"{row.metrics[name]:.{places}f}" for name, places in figures)] for row in rows]
    return table(headers, body)


BLOCKS: dict[str, Callable[[], str]] = {
    "sts-25": lambda: sts(25),
    "sts-103": lambda: sts(103),
    "lighttoken": lighttoken,
}


def main(arguments: list[str]) -> int:
    """Write the pages, or compare them."""
    stale = []
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        fresh = BLOCK.sub(lambda match: match[1] + BLOCKS[match[2]]() + match[3], text)
        if fresh != text:
            stale.append(page)
            if "--check" not in arguments:
                (ROOT / page).write_text(fresh, encoding="utf-8")
    if "--check" in arguments and stale:
        print(f"figures are not those of benchmarks/results: {', '.join(stale)}; run python benchmarks/render.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
