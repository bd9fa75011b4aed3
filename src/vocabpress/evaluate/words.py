"""The tokens of single words."""

from typing import Any


def ids_of(tokenizer: Any, word: str) -> list[int]:
    """The tokens of a word as it stands inside a sentence; empty where the tokenizer does not know all of it.

    Byte-level vocabularies spell a word with the space before it, others don't: whichever takes fewer tokens.
    """
    spellings = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (f" {word}", word)]
    ids: list[int] = min(spellings, key=len)  # of equally short ones that with the space
    return [] if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids else ids


def row_of(tokenizer: Any, word: str) -> int | None:
    """The one token of a word as it is, or in lower case; None where it takes several or is unknown."""
    for text in (word, word.lower()):
        ids = ids_of(tokenizer, text)
        if len(ids) == 1:
            return ids[0]
    return None
