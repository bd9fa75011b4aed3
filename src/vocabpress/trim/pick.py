"""Select tokens by Unicode script."""

from collections.abc import Sequence
from typing import Any

import regex


def of_scripts(pieces: dict[str, int], backend: Any, scripts: Sequence[str]) -> list[int]:
    """Ids of the tokens whose characters belong to these Unicode scripts, or to none: digits, punctuation, symbols.

    Args:
        pieces: Token -> id.
        backend: Tokenizer of the `tokenizers` library, whose decoder gives the text of a token.
        scripts: Names such as ``Latin`` or ``Cyrillic``.

    Raises:
        ValueError: If Unicode has no such script.
    """
    for script in scripts:
        try:
            regex.compile(rf"\p{{Script={script}}}")
        except regex.error:
            message = f"Unicode has no script {script!r}; give one such as Latin, Cyrillic, Han, Hangul or Arabic"
            raise ValueError(message) from None
    allowed = "".join(rf"\p{{Script={script}}}" for script in (*scripts, "Common", "Inherited"))
    whole = regex.compile(f"[{allowed}]*")
    return [index for piece, index in pieces.items() if _matches(whole, text_of(piece, backend))]


def text_of(piece: str, backend: Any) -> str:
    """The text of a token; contains U+FFFD if the token is a part of a character's bytes."""
    text = piece if backend.decoder is None else backend.decoder.decode([piece])
    return text.removeprefix("##").replace("▁", " ")


def _matches(whole: regex.Pattern[str], text: str) -> bool:
    return "\N{REPLACEMENT CHARACTER}" not in text and whole.fullmatch(text) is not None
