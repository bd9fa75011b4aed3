"""Insert the figures of results/*.json into README.md and docs: every block between `<!-- results: NAME -->` markers.

python benchmarks/render.py            write
python benchmarks/render.py --check    fail if a block differs from the results
"""

import re
import sys
from pathlib import Path

from figures import BLOCKS

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "LOG.md", *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"(<!-- results: ([a-z0-9-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


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
