"""tokenizer.json without the blanks between its parts, which are about half of its bytes.

Nothing is parsed and written again: a number that is printed differently could be read as another float, and the scores
of unigram models decide how a text is cut.
"""

import json
import re
import warnings
from pathlib import Path
from typing import Any

TOKENIZER = "tokenizer.json"
STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"'
STRING_OR_BLANKS = re.compile(rf"({STRING})|[ \t\n\r]+")
WHOLE_STRING = re.compile(STRING)


def make_compact(file: Path) -> None:
    """Rewrite a JSON file without the blanks. One that is broken stays as it is, with a warning."""
    before = file.read_bytes()
    try:
        after = compact(before)
    except ValueError as error:
        warnings.warn(f"{file.name} is not JSON, and is copied as it is: {error}", stacklevel=2)
        return
    if after != before:
        file.write_bytes(after)


def compact(data: bytes) -> bytes:
    """The same JSON, in UTF-8, without blanks between its parts, with characters in the place of their escapes.

    It parses to equal values, numbers as the same text; if that can't be done, it is the argument itself. A ValueError
    if it is not JSON.
    """
    text = data.decode("utf-8")
    parsed = _parsed(text)
    smaller = STRING_OR_BLANKS.sub(r"\1", text)
    if "\\u" in smaller:
        smaller = WHOLE_STRING.sub(lambda match: _unescaped(match[0]), smaller)
    return smaller.encode("utf-8") if _parsed(smaller) == parsed else data


def _parsed(text: str) -> Any:
    """The values of a JSON text, floats as they are written; a ValueError if it is not JSON."""
    try:
        return json.loads(text, parse_float=str, parse_constant=str)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _unescaped(string: str) -> str:
    r"""A JSON string with ``é`` for ``\u00e9``; half of a pair of surrogates has no UTF-8 and stays escaped."""
    if "\\u" not in string:
        return string
    shorter = json.dumps(json.loads(string), ensure_ascii=False)
    try:
        shorter.encode("utf-8")
    except UnicodeEncodeError:
        return string
    return shorter
