"""Files of scored pairs: two sentences or two words, and how alike people found them."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Pair(NamedTuple):
    """Two texts and the human score."""

    first: str
    second: str
    score: float


class Columns(NamedTuple):
    """Where a file keeps what; columns are counted from 0.

    Attributes:
        first: Of the first text.
        second: Of the second.
        score: Of the score.
        separator: Between columns; None is any white space.
        highest: The highest score there is; the lowest is 0.
        unscored: Whether rows may lack a score, and are left out.
    """

    first: int
    second: int
    score: int
    separator: str | None = "\t"
    highest: float = math.inf
    unscored: bool = False


STSB = Columns(5, 6, 4, highest=5.0)
SEMEVAL = Columns(1, 2, 0, highest=5.0, unscored=True)
WORDS = Columns(0, 1, 2, separator=None)


def read_pairs(file: Path, columns: Columns) -> list[Pair]:
    """Read a file of pairs; blank lines are passed over, quotes are text.

    Raises:
        ValueError: With file and line number, if it is not UTF-8, a line has too few columns or an empty text, or a
            score is none; also if the file holds fewer than two pairs.
    """
    pairs: list[Pair] = []
    with file.open("rb") as stream:  # split at line feeds alone: sentences hold other characters that Python splits at
        for number, raw in enumerate(stream, start=1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError:
                raise ValueError(f"{file}, line {number}: not UTF-8 text; download the file again") from None
            if line.strip():
                pair = _read(line.split(columns.separator), columns, f"{file}, line {number}")
                pairs += [] if pair is None else [pair]
    if len(pairs) < 2:
        raise ValueError(f"{file} holds {len(pairs)} scored pairs; it is empty or cut off, download it again")
    return pairs


def _read(cells: Sequence[str], columns: Columns, where: str) -> Pair | None:
    needed = max(columns.first, columns.second, columns.score) + 1
    if len(cells) < needed:
        between = "tabs" if columns.separator == "\t" else "white space"
        raise ValueError(f"{where}: {len(cells)} columns separated by {between}, {needed} are needed; is it cut off?")
    text = cells[columns.score].strip()
    if columns.unscored and not text:
        return None
    try:
        score = float(text)
    except ValueError:
        raise ValueError(f"{where}: column {columns.score + 1} is a score, got {text[:40]!r}") from None
    if not 0 <= score <= columns.highest or math.isinf(score):
        most = "" if math.isinf(columns.highest) else f" and {columns.highest:g} at most"
        raise ValueError(f"{where}: a score is 0 at least{most}, got {text}")
    first, second = cells[columns.first].strip(), cells[columns.second].strip()
    if not first or not second:
        raise ValueError(f"{where}: one of the two texts is empty")
    return Pair(first, second, score)
