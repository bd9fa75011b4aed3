"""Remove tokens from a tokenizer, given as the JSON of the `tokenizers` library.

Text whose tokens all remain is split into the same tokens as before:

* WordPiece takes the longest piece, Unigram the most likely split, WordLevel whole words. Removing pieces that were not
  taken does not change the result.
* BPE merges two pieces at a time. So the pieces that a remaining token is merged from must remain, and all merges
  between remaining tokens, in their order.

Text with removed tokens is split into shorter ones: bytes if the tokenizer has bytes, otherwise single characters.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import regex
from tokenizers.pre_tokenizers import ByteLevel

MODELS = ("WordPiece", "BPE", "Unigram", "WordLevel")
BYTE_TOKENS = {f"<0x{number:02X}>" for number in range(256)}  # for byte fallback


def pieces(data: dict[str, Any]) -> dict[str, int]:
    """Token -> id, for the vocabulary of the model and the added tokens.

    Raises:
        ValueError: If this kind of tokenizer can't be trimmed.
    """
    model = data["model"]
    if model["type"] not in MODELS:
        raise ValueError(f"the tokenizer is a {model['type']}; only {', '.join(MODELS)} can be trimmed")
    vocabulary = model["vocab"]
    own = {piece: index for index, (piece, _) in enumerate(vocabulary)} if isinstance(vocabulary, list) else vocabulary
    return own | {token["content"]: token["id"] for token in data["added_tokens"]}


def of_scripts(pieces: dict[str, int], backend: Any, scripts: Sequence[str]) -> set[int]:
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
    classes = "".join(rf"\p{{Script={script}}}" for script in (*scripts, "Common", "Inherited"))
    allowed = regex.compile(f"[{classes}]*")

    def is_allowed(piece: str) -> bool:
        text = piece if backend.decoder is None else backend.decoder.decode([piece])
        text = text.removeprefix("##").replace("▁", " ")
        is_part = "\N{REPLACEMENT CHARACTER}" in text  # some of the bytes of a character
        return not is_part and allowed.fullmatch(text) is not None

    return {index for piece, index in pieces.items() if is_allowed(piece)}


def closure(data: dict[str, Any], wanted: Iterable[int]) -> list[int]:
    """The ids to keep, in rising order: the wanted ones, and those that the tokenizer needs.

    It always needs added tokens, tokens that the post-processor inserts, the unknown token, and all bytes. For each
    token it also needs the pieces that it is merged from, and its single characters.
    """
    known, model = pieces(data), data["model"]
    needed = set(wanted) | {token["id"] for token in data["added_tokens"]} | set(_inserted(data.get("post_processor")))
    if model.get("unk_token") in known:  # some tokenizers name one that is not in their vocabulary
        needed.add(known[model["unk_token"]])
    needed |= {
        part[key]
        for part, key in ((model, "unk_id"), (data.get("padding") or {}, "pad_id"))
        if part.get(key) is not None
    }
    needed |= {known[piece] for piece in (*BYTE_TOKENS, *_alphabet(data)) if piece in known}
    names = {index: piece for piece, index in known.items()}
    prefix = model.get("continuing_subword_prefix") or ""
    parents: dict[int, list[tuple[int, int]]] = {}
    for left, right in _merges(model):
        made = known.get(left + right.removeprefix(prefix))
        if made is not None and left in known and right in known:
            parents.setdefault(made, []).append((known[left], known[right]))
    queue = list(needed)
    while queue:
        index = queue.pop()
        letters = names.get(index, "").removeprefix(prefix)
        forms = (form for letter in letters for form in (letter, prefix + letter) if form in known)
        found = {known[form] for form in forms} | {part for pair in parents.get(index, ()) for part in pair}
        queue += found - needed
        needed |= found
    return sorted(needed)


def renumbered(data: dict[str, Any], ids: Sequence[int]) -> dict[str, Any]:
    """The tokenizer with these ids only, renumbered from 0 in their order.

    Args:
        data: The tokenizer; not changed.
        ids: Ids in rising order, from `closure`.
    """
    new = {old: index for index, old in enumerate(ids)}
    model = dict(data["model"])
    if isinstance(model["vocab"], list):
        model["vocab"] = [model["vocab"][old] for old in ids if old < len(model["vocab"])]
    else:
        model["vocab"] = {piece: new[old] for piece, old in model["vocab"].items() if old in new}
    if isinstance(model.get("unk_id"), int):
        model["unk_id"] = new[model["unk_id"]]
    if "merges" in model:
        prefix, vocabulary = model.get("continuing_subword_prefix") or "", model["vocab"]
        model["merges"] = [
            [left, right]
            for left, right in _merges(model)
            if all(piece in vocabulary for piece in (left, right, left + right.removeprefix(prefix)))
        ]
    added = [token | {"id": new[token["id"]]} for token in data["added_tokens"]]
    changed: dict[str, Any] = {"model": model, "added_tokens": added}
    changed["post_processor"] = _renumber(data.get("post_processor"), new)
    if isinstance(data.get("padding"), dict):
        changed["padding"] = data["padding"] | {"pad_id": new[data["padding"]["pad_id"]]}
    return data | changed


def _merges(model: dict[str, Any]) -> list[tuple[str, str]]:
    """Pairs of pieces; in older files a pair is one string."""
    found = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model.get("merges") or ())
    return [(left, right) for left, right in found]


def _alphabet(data: dict[str, Any]) -> list[str]:
    """The 256 characters by which a byte-level tokenizer represents bytes; none for other tokenizers."""
    parts = [part for key in ("pre_tokenizer", "normalizer") for part in _components(data.get(key))]
    return ByteLevel.alphabet() if any(part.get("type") == "ByteLevel" for part in parts) else []


def _components(part: Any) -> list[dict[str, Any]]:
    """The parts of a pre-tokenizer, normaliser or post-processor, with sequences flattened."""
    if not isinstance(part, dict):
        return []
    inner = next((part[key] for key in ("pretokenizers", "normalizers", "processors") if key in part), None)
    return [part] if inner is None else [found for each in inner for found in _components(each)]


def _inserted(processor: Any) -> list[int]:
    """Ids that a post-processor inserts into every text."""
    found: list[int] = []
    for part in _components(processor):
        found += [part[key][1] for key in ("sep", "cls") if key in part]
        found += [index for token in part.get("special_tokens", {}).values() for index in token["ids"]]
    return found


def _renumber(processor: Any, new: dict[int, int]) -> Any:
    """A post-processor with the new ids."""
    if not isinstance(processor, dict):
        return processor
    changed: dict[str, Any] = {}
    if "processors" in processor:
        changed["processors"] = [_renumber(part, new) for part in processor["processors"]]
    for key in ("sep", "cls"):
        if key in processor:
            changed[key] = [processor[key][0], new[processor[key][1]]]
    if "special_tokens" in processor:
        tokens = processor["special_tokens"].items()
        changed["special_tokens"] = {name: token | {"ids": [new[i] for i in token["ids"]]} for name, token in tokens}
    return processor | changed
