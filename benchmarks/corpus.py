"""The text of the reference models: public documents, split into training and held-out text.

One document in twenty-five is held out, by a hash of its name; books are only for training. A held-out
document that shares a run of 13 words with the training text is dropped (reviews quote each other).
"""

import hashlib
import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HELD_OUT_ONE_IN = 25
OVERLAP_WORDS = 13
BOOKS = ("bronte", "darwin", "dubois", "shakespeare")
ARCHIVES = ("movie_reviews", "state_union", "inaugural")
SENTENCE_ARCHIVES = {
    "subjectivity": ("plot.tok.gt9.5000", "quote.tok.gt9.5000"),
    "sentence_polarity": ("rt-polarity.neg", "rt-polarity.pos"),
}


@dataclass(frozen=True)
class Corpus:
    """Documents, each a list of paragraphs.

    Attributes:
        training: From all sources.
        held_out: From all sources except books; shares no run of 13 words with the training text.
        dropped: Number of held-out documents that did.
    """

    training: list[list[str]]
    held_out: list[list[str]]
    dropped: int


def read_corpus(data: Path) -> Corpus:
    """All documents under the folder of public data sets, split and checked.

    Raises:
        OSError: If a source is missing.
    """
    training, candidates = [], []
    for name, text in _documents(data):
        document = _paragraphs(text)
        if not document:
            continue
        digest = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
        held_out = not name.startswith("book/") and digest % HELD_OUT_ONE_IN == 0
        (candidates if held_out else training).append(document)
    seen = {gram for document in training for gram in _runs(document)}
    held_out = [document for document in candidates if not any(gram in seen for gram in _runs(document))]
    return Corpus(training, held_out, len(candidates) - len(held_out))


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


def _runs(document: list[str]) -> Iterator[int]:
    """Hashes of all runs of 13 words, only letters and digits, in lower case."""
    words = re.findall(r"[a-z0-9]+", " ".join(document).lower())
    return (hash(tuple(words[start : start + OVERLAP_WORDS])) for start in range(len(words) - OVERLAP_WORDS + 1))


def write_corpus(corpus: Corpus, folder: Path) -> None:
    """`training.txt` and `held-out.txt`: a paragraph a line, an empty line after each document."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, documents in (("training", corpus.training), ("held-out", corpus.held_out)):
        text = "\n\n".join("\n".join(document) for document in documents) + "\n"
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
