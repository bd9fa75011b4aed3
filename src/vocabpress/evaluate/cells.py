"""Text files with a row on each line, such as those of GLUE and of scored pairs."""

import math
from collections.abc import Iterator
from pathlib import Path


def read_cells(file: Path, separator: str | None = "\t") -> Iterator[tuple[str, list[str]]]:
    """The place, for messages, and the cells of each line that is not blank; quotes are text.

    The file is UTF-8, with or without a byte-order mark; a ValueError if not.
    """
    with file.open("rb") as stream:  # split only at line feeds: sentences contain other line separators of Python
        for number, raw in enumerate(stream, start=1):
            where = f"{file}, line {number}"
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError:
                raise ValueError(f"{where}: not UTF-8 text; convert it, e.g. with iconv -t utf-8") from None
            if line.strip():
                yield where, line.split(separator)


def read_score(text: str, highest: float, where: str) -> float:
    """A score from 0 to ``highest``, which may be infinity; errors name the place ``where``."""
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not 0 <= score <= highest or math.isinf(score):
        limit = "0 or more" if math.isinf(highest) else f"from 0 to {highest:g}"
        raise ValueError(f"{where}: a score is a number {limit}, got {text[:40]!r}")
    return score
