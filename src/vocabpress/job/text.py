"""The text of a job, in two parts: most of it calibrates and trains, a few lines measure what changed."""

import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vocabpress.calibrate.declaration import declaration_files
from vocabpress.hf.checkpoint import open_tokenizer
from vocabpress.texts import read_lines

HELD_OUT = 200  # lines at most
ONE_IN, ONE_IN_DECLARATION = 10, 3  # lines at most; the Declaration has about a hundred in a language
MOST_UNKNOWN = 0.5  # of the tokens of a text
DECLARATION = "the Universal Declaration of Human Rights"


@dataclass(frozen=True)
class JobText:
    """The text of a job.

    Attributes:
        files: What calibrates and trains; empty if there is no text.
        held_out: Distinct lines that are not in them, in no order; empty if there is too little text.
        name: Where the text comes from, for people.
        lines: Number of all lines.
        lacking: Why no lines are held out.
    """

    files: Sequence[Path]
    held_out: Sequence[str]
    name: str
    lines: int = 0
    lacking: str = ""


NO_TEXT = JobText((), (), DECLARATION)


@contextmanager
def open_text(
    files: Sequence[Path], names: Sequence[str | Path], folder: Path, measures: bool = True
) -> Iterator[JobText]:
    """The user's text, or without any the Universal Declaration in the languages of the tokenizer.

    Args:
        files: UTF-8 text files, which can be read twice; may be empty.
        names: Their names as the user gave them.
        folder: Folder of the checkpoint with the tokenizer.
        measures: Whether lines are held out.

    Raises:
        ValueError: If a file is unusable, or most of its tokens are unknown to the tokenizer.
    """
    with ExitStack() as stack:
        try:
            tokenizer = open_tokenizer(folder)
            whole = files or stack.enter_context(declaration_files(tokenizer))
        except ValueError as error:
            if files:
                raise
            yield replace(NO_TEXT, lacking=str(error))
            return
        lines, count = draw(whole)
        check_known(lines, tokenizer)
        share = count // (ONE_IN if files else ONE_IN_DECLARATION) if measures else 0
        held_out = list(dict.fromkeys(lines[:share]))
        rest = Path(stack.enter_context(TemporaryDirectory(prefix="vocabpress-text-"))) / "calibration.txt"
        name = ", ".join(Path(each).name for each in names) or DECLARATION
        if held_out and write_without(whole, held_out, rest):
            yield JobText([rest], held_out, name, count)
        else:
            yield JobText(whole, (), name, count, f"the text has too few different lines to hold some out, {count:,}")


def draw(files: Sequence[Path]) -> tuple[list[str], int]:
    """At most `HELD_OUT` lines from everywhere in the text, always the same ones, and the number of all lines."""
    chance, drawn, count = random.Random(0), list[str](), 0
    for line in read_lines(files):
        if count < HELD_OUT:
            drawn.append(line)
        elif (place := chance.randrange(count + 1)) < HELD_OUT:
            drawn[place] = line
        count += 1
    chance.shuffle(drawn)
    return drawn, count


def check_known(lines: Sequence[str], tokenizer: Any) -> None:
    """Refuse text in a language that the tokenizer does not know.

    Raises:
        ValueError: If more than `MOST_UNKNOWN` of its tokens are the unknown one.
    """
    tokens = [token for row in tokenizer(list(lines), add_special_tokens=False)["input_ids"] for token in row]
    unknown = tokens.count(tokenizer.unk_token_id)
    if unknown > MOST_UNKNOWN * len(tokens):
        raise ValueError(
            f"the tokenizer does not know {unknown / len(tokens):.0%} of the tokens of the text; give text in a "
            "language of the model"
        )


def write_without(files: Sequence[Path], lines: Sequence[str], target: Path) -> bool:
    """Write the text without some lines, wherever they occur; returns whether at least half of it is left."""
    left, gone, apart = 0, 0, frozenset(lines)
    with target.open("w", encoding="utf-8") as out:
        for line in read_lines(files):
            if line in apart:
                gone += 1
            else:
                left += 1
                out.write(f"{line}\n")
    return left >= max(gone, 1)
