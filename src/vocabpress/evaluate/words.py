"""Tokenizers, and the tokens of single words."""

from typing import Any

from vocabpress.evaluate.task import Subject


def need_tokenizer(subject: Subject) -> Any:
    """The model's tokenizer.

    Raises:
        ValueError: If it has none. Of some classes transformers makes one of special tokens alone where a folder holds
            no vocabulary; it would turn every text into unknown tokens.
    """
    tokenizer: Any = subject.tokenizer()
    if len(tokenizer) - len(set(tokenizer.all_special_ids)) < 2:  # T5's has a space besides
        raise ValueError(f"{subject.model} has no tokenizer that transformers can load: its files hold no vocabulary")
    return tokenizer


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
