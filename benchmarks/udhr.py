"""Packs the Universal Declaration of Human Rights in some forty languages for `vocabpress.calibrate.declaration`.

python benchmarks/udhr.py --data DATA    writes src/vocabpress/calibrate/udhr.jsonl.gz

The source is `udhr2.zip` of github.com/nltk/nltk_data (5db857e, packages/corpora), which has it from unicode.org/udhr.
The text is in the public domain. The languages are those with many speakers, at least one for each large script.
"""

import gzip
import json
import zipfile
from pathlib import Path

from common import parse

LANGUAGES = (
    "eng", "deu", "fra", "spa", "por_BR", "ita", "nld", "swe", "dan", "nob", "fin", "est", "lav", "lit", "pol",
    "ces", "slk", "slv", "hrv", "hun", "ron", "cat", "eus", "tur", "vie", "ind", "tgl", "swh", "rus", "ukr", "bul",
    "srp_cyrl", "ell_monotonic", "hye", "kat", "heb", "arb", "pes_1", "urd", "hin", "ben", "mar", "tam", "tel",
    "tha", "khm", "cmn_hans", "cmn_hant", "jpn", "kor", "amh",
)  # fmt: skip
OUTPUT = Path(__file__).resolve().parents[1] / "src" / "vocabpress" / "calibrate" / "udhr.jsonl.gz"


def main() -> None:
    """Write one JSON object for each paragraph."""
    lines = []
    with zipfile.ZipFile(parse(__doc__).data / "udhr" / "udhr2.zip") as source:
        for language in LANGUAGES:
            if f"udhr2/{language}.txt" not in source.namelist():
                continue
            text = source.read(f"udhr2/{language}.txt").decode("utf-8-sig")
            paragraphs = (" ".join(line.split()) for line in text.splitlines())
            lines += [
                json.dumps({"language": language, "text": part}, ensure_ascii=False) for part in paragraphs if part
            ]
    OUTPUT.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0))
    print(f"{len(lines):,} paragraphs, {OUTPUT.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
