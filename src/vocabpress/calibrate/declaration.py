"""Text that comes with the package: the Universal Declaration of Human Rights, in the languages of a tokenizer.

The text is the same in each of fifty languages, so the numbers of tokens that a tokenizer needs for it can be compared.
The language with the fewest tokens is what the vocabulary was made for; the model can be used in languages near it. The
Declaration is in the public domain; `benchmarks/udhr.py` packs it and names the source.
"""

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

FILE = "udhr.jsonl.gz"
NEAR = (
    1.75  # times the fewest tokens; our choice: French in an English vocabulary needs more, Greek in that of XLM-R less
)
MOST_UNKNOWN = 0.03  # of the tokens of a language


@cache
def declarations() -> dict[str, list[str]]:
    """Paragraphs of the Declaration by the code of the language."""
    found: dict[str, list[str]] = {}
    packed = files("vocabpress.calibrate").joinpath(FILE).read_bytes()
    for line in gzip.decompress(packed).decode("utf-8").splitlines():
        entry = json.loads(line)
        found.setdefault(entry["language"], []).append(entry["text"])
    return found


def known_languages(tokenizer: Any) -> list[str]:
    """The languages in which a tokenizer needs at most `NEAR` times the fewest tokens, the fewest first.

    Languages of which it knows not all characters are left out.

    Args:
        tokenizer: A tokenizer of transformers.

    Raises:
        ValueError: If it knows none of them.
    """
    unknown, needed = tokenizer.unk_token_id, {}
    for language, paragraphs in declarations().items():
        rows = tokenizer(paragraphs, add_special_tokens=False)["input_ids"]
        total = sum(len(row) for row in rows)
        strange = 0 if unknown is None else sum(row.count(unknown) for row in rows)
        if total and strange <= MOST_UNKNOWN * total:
            needed[language] = total
    if not needed:
        raise ValueError(
            "the tokenizer knows none of the languages of the text that comes with vocabpress; give --text"
        )
    least = min(needed.values())
    return sorted((language for language, total in needed.items() if total <= NEAR * least), key=needed.__getitem__)


@contextmanager
def declaration_files(tokenizer: Any) -> Iterator[list[Path]]:
    """A temporary text file: the Declaration in all languages that a tokenizer knows, a paragraph a line.

    Raises:
        ValueError: As `known_languages`.
    """
    lines = [paragraph for language in known_languages(tokenizer) for paragraph in declarations()[language]]
    with TemporaryDirectory(prefix="vocabpress-text-") as folder:
        file = Path(folder) / "declaration.txt"
        file.write_text("\n".join(lines), encoding="utf-8")
        yield [file]
