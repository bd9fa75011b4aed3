"""Lines of text from wherever it comes: files, compressed ones, JSON lines, folders of them, pipes, standard input."""

import atexit
import gzip
import json
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

from vocabpress.progress import Bar

FIELD = "text"  # of JSON lines, where none is named
STDIN = "-"
SUFFIXES = (".txt", ".text", ".md", ".jsonl", ".txt.gz", ".text.gz", ".jsonl.gz")  # of what is read in a folder


def sources(paths: Iterable[str | Path]) -> list[Path]:
    """The files that are meant, in order: a folder stands for those of text in it, a pipe for a copy of what it gives.

    A pipe gives its text once: who reads several times asks here first.

    Args:
        paths: Files, folders, pipes, ``-`` for standard input; of a file of JSON lines a field may follow,
            ``corpus.jsonl:content``.

    Raises:
        ValueError: If there is no such file, or no text in a folder.
    """
    return [file for path in paths for file in _files(str(path))]


def _files(path: str) -> list[Path]:
    if path == STDIN or _is_pipe(Path(path)):
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


def _is_pipe(path: Path) -> bool:
    """Whether a file can be read once only."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode)


def _spool(path: str) -> Path:
    """A copy of all that a pipe gives, because text is read several times; it goes when the process ends."""
    with ExitStack() as stack:
        stream = sys.stdin.buffer if path == STDIN else stack.enter_context(Path(path).open("rb"))
        copy = stack.enter_context(tempfile.NamedTemporaryFile(prefix="vocabpress-", suffix=".txt", delete=False))
        atexit.register(_forget, Path(copy.name))
        shutil.copyfileobj(stream, copy)
        return Path(copy.name)


def _forget(copy: Path) -> None:
    with suppress(OSError):
        copy.unlink()


def _with_field(path: str) -> tuple[Path, str]:
    """A file, and the field of its JSON that is text."""
    place, colon, field = path.rpartition(":")
    if colon and field and place.endswith((".jsonl", ".jsonl.gz")) and not Path(path).exists():
        return Path(place), field
    return Path(path), FIELD


def read_lines(paths: Iterable[str | Path], progress: bool = False) -> Iterator[str]:
    """The lines of UTF-8 text that are not blank, one at a time, with a progress bar over the bytes.

    Args:
        paths: As `sources` takes them.
        progress: Whether to show it.

    Raises:
        ValueError: If a file is missing, empty, broken, or not UTF-8.
    """
    files = [_with_field(str(file)) for file in sources(paths)]
    total = sum(file.stat().st_size for file, _ in files)
    with Bar(total=total, desc="reading text", disable=not progress) as bar:
        for file, field in files:
            before, seen = bar.n, False
            with file.open("rb") as stored:
                for number, raw in enumerate(_unpacked(file, stored), start=1):
                    if number % 256 == 0:
                        bar.update(before + stored.tell() - bar.n)
                    line = _text(raw, file, number, field)
                    if line:
                        seen = True
                        yield line
            if not seen:
                raise ValueError(f"{file} holds no text; give a file with at least some sentences")


def _unpacked(file: Path, stored: IO[bytes]) -> Iterator[bytes]:
    """Lines as bytes."""
    stream = gzip.GzipFile(fileobj=stored) if stored.read(2) == b"\x1f\x8b" else stored
    stored.seek(0)
    try:
        yield from stream
    except (EOFError, OSError) as error:  # of gzip
        raise ValueError(f"{file} is broken: {error}; make it again") from None


def _text(raw: bytes, file: Path, number: int, field: str) -> str:
    """A line's text; of JSON, that of a field, its line breaks as spaces."""
    try:
        line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
    except UnicodeDecodeError:
        message = f"{file} is not UTF-8 text (line {number}); convert it, e.g. with iconv -t utf-8"
        raise ValueError(message) from None
    if not line or not file.name.removesuffix(".gz").endswith(".jsonl"):
        return line
    try:
        told: Any = json.loads(line)
    except ValueError:
        raise ValueError(f"{file} holds no JSON in line {number}; a .jsonl file has an object in each") from None
    found = told.get(field) if isinstance(told, dict) else told
    if not isinstance(found, str):
        has = ", ".join(told) if isinstance(told, dict) else type(told).__name__
        raise ValueError(f"{file} has no text under {field!r} in line {number}, it has {has}; write {file}:FIELD")
    return " ".join(found.split())
