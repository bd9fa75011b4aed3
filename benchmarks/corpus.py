"""Text of several kinds in which tokens are counted: books, films, speeches, reviews, Wikipedia, stories.

Public documents, about four million words. One document in twenty-five, by a hash of its name, is left out, books
apart, so that text of the same kinds is left to measure on.
"""

import hashlib
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

LEFT_OUT_ONE_IN = 25
BOOKS = ("bronte", "darwin", "dubois", "shakespeare")
ARCHIVES = ("movie_reviews", "state_union", "inaugural")
SENTENCE_ARCHIVES = {
    "subjectivity": ("plot.tok.gt9.5000", "quote.tok.gt9.5000"),
    "sentence_polarity": ("rt-polarity.neg", "rt-polarity.pos"),
}


def write_corpus(data: Path, file: Path) -> None:
    """Write the text from the folder of public data sets: a paragraph a line, an empty line after each document.

    Raises:
        OSError: If a source is missing.
    """
    documents = ["\n".join(_paragraphs(text)) for name, text in _documents(data) if not _left_out(name)]
    file.write_text("\n\n".join(filter(None, documents)) + "\n", encoding="utf-8")


def _left_out(name: str) -> bool:
    digest = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return not name.startswith("book/") and digest % LEFT_OUT_ONE_IN == 0


def _documents(data: Path) -> Iterator[tuple[str, str]]:
    """(name, text) of every document."""
    for book in BOOKS:
        yield (
            f"book/{book}",
            (data / "public-domain-books" / f"{book}.txt").read_text(encoding="utf-8", errors="replace"),
        )
    for archive in ARCHIVES:
        with zipfile.ZipFile(data / "text-corpora" / f"{archive}.zip") as stored:
            for name in stored.namelist():
                if name.endswith(".txt") and "README" not in name:
                    yield name, stored.read(name).decode("utf-8", errors="replace")
    for archive, files in SENTENCE_ARCHIVES.items():
        with zipfile.ZipFile(data / "text-corpora" / f"{archive}.zip") as stored:
            for file in files:
                lines = stored.read(f"{archive}/{file}").decode("latin-1").splitlines()
                yield from ((f"{archive}/{file}/{number}", line) for number, line in enumerate(lines))
    sentences = data / "leipzig-enwiki-2016-10k" / "eng_wikipedia_2016_10K-sentences.txt"
    for number, line in enumerate(sentences.read_text(encoding="utf-8").splitlines()):
        yield f"leipzig/{number}", line.split("\t")[-1]
    stories = json.loads((data / "tinystories-1000" / "tinystories_1000.json").read_text(encoding="utf-8"))
    yield from ((f"tinystories/{number}", story) for number, story in enumerate(stories))


def _paragraphs(text: str) -> list[str]:
    """Paragraphs with their lines joined; a text without blank lines is one paragraph."""
    parts = (" ".join(part.split()) for part in re.split(r"\n\s*\n", text))
    return [part for part in parts if part]
