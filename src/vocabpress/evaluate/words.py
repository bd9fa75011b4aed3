"""The tokens of single words."""

from typing import Any


def ids_of(tokenizer: Any, word: str) -> list[int]:
    """The tokens of a word inside a sentence; empty if the tokenizer does not know all of it.

    Byte-level vocabularies include the space before a word, others don't: the spelling with fewer tokens is taken.
    """
    spellings = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (f" {word}", word)]
    ids: list[int] = min(spellings, key=len)  # if equal, that with the space
    return [] if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids else ids


def row_of(tokenizer: Any, word: str) -> int | None:
    """The single token of a word, or of it in lower case; None if there is none."""
    for text in (word, word.lower()):
        ids = ids_of(tokenizer, text)
        if len(ids) == 1:
            return ids[0]
    return None
