"""Read lines of text from files (plain, gzip or JSON lines), folders of them, pipes, and standard input."""

import atexit
import gzip
import json
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from vocabpress.progress import Bar

DEFAULT_FIELD = "text"  # of JSON lines
STDIN = "-"
SUFFIXES = (".txt", ".text", ".md", ".jsonl", ".txt.gz", ".text.gz", ".jsonl.gz")  # of the files read from a folder


def sources(paths: Iterable[str | Path]) -> list[Path]:
    """The files to read, in order. A folder gives the text files in it; a pipe is copied to a temporary file.

    A pipe can be read only once, so callers that read their text several times call this first.

    Args:
        paths: Files, folders, pipes, or ``-`` for standard input. A file of JSON lines may name a field:
            ``corpus.jsonl:content``.

    Raises:
        ValueError: If there is no such file, or no text in a folder.
    """
    return [file for path in paths for file in _expanded(str(path))]


def _expanded(path: str) -> list[Path]:
    file = Path(path)
    if path == STDIN or file.is_fifo() or file.is_char_device() or file.is_socket():  # which can be read only once
        return [_spool(path)]
    place, _ = _with_field(path)
    if place.is_dir():
        found = sorted(file for file in place.rglob("*") if file.is_file() and file.name.endswith(SUFFIXES))
        if not found:
            raise ValueError(f"the folder {path} holds no text; give one with files such as {', '.join(SUFFIXES[:4])}")
        return found
    if not place.is_file():
        raise ValueError(f"no such text file: {path}")
    return [Path(path)]


def _spool(path: str) -> Path:
    """A temporary copy of a pipe's content, deleted when the process ends."""
    with ExitStack() as stack:
        stream = sys.stdin.buffer if path == STDIN else stack.enter_context(Path(path).open("rb"))
        copy = stack.enter_context(tempfile.NamedTemporaryFile(prefix="vocabpress-", suffix=".txt", delete=False))
        atexit.register(Path(copy.name).unlink, missing_ok=True)
        shutil.copyfileobj(stream, copy)
        return Path(copy.name)


def _with_field(path: str) -> tuple[Path, str]:
    """Split a path into the file and the field of its JSON lines."""
    place, colon, field = path.rpartition(":")
    if colon and field and place.endswith((".jsonl", ".jsonl.gz")) and not Path(path).exists():
        return Path(place), field
    return Path(path), DEFAULT_FIELD


def read_lines(paths: Iterable[str | Path], progress: bool = False) -> Iterator[str]:
    """Yield the lines of UTF-8 text that are not blank, with a progress bar over the bytes.

    Args:
        paths: As in `sources`.
        progress: Whether to show the bar.

    Raises:
        ValueError: If a file is missing, empty, broken, or not UTF-8.
    """
    files = [_with_field(str(file)) for file in sources(paths)]
    total = sum(file.stat().st_size for file, _ in files)
    with Bar(total=total, desc="reading text", disable=not progress) as bar:
        for file, field in files:
            before, seen = bar.n, False
            with file.open("rb") as stored:
                for number, raw in enumerate(_raw_lines(file, stored), start=1):
                    if number % 256 == 0:
                        bar.update(before + stored.tell() - bar.n)
                    line = _line_text(raw, file, number, field)
                    if line:
                        seen = True
                        yield line
            if not seen:
                raise ValueError(f"{file} holds no text; give a file with at least some sentences")


def _raw_lines(file: Path, stored: IO[bytes]) -> Iterator[bytes]:
    """The lines of a file, decompressed."""
    stream = gzip.GzipFile(fileobj=stored) if stored.read(2) == b"\x1f\x8b" else stored
    stored.seek(0)
    try:
        yield from stream
    except (EOFError, OSError) as error:  # of gzip
        raise ValueError(f"{file} is broken: {error}; compress it again") from None


def _line_text(raw: bytes, file: Path, number: int, field: str) -> str:
    """The text of a line, or of a field if the line is JSON; line breaks in it become spaces."""
    try:
        line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
    except UnicodeDecodeError:
        message = f"{file} is not UTF-8 text (line {number}); convert it, e.g. with iconv -t utf-8"
        raise ValueError(message) from None
    if not line or not file.name.removesuffix(".gz").endswith(".jsonl"):
        return line
    try:
        data: Any = json.loads(line)
    except ValueError:
        raise ValueError(f"{file} has no JSON in line {number}; each line of a .jsonl file is an object") from None
    text = data.get(field) if isinstance(data, dict) else data
    if not isinstance(text, str):
        has = ", ".join(data) if isinstance(data, dict) else type(data).__name__
        raise ValueError(f"{file} has no text under {field!r} in line {number}, it has {has}; write {file}:FIELD")
    return " ".join(text.split())
