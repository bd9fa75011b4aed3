"""A tokenizer with fewer tokens, as the JSON of the `tokenizers` library.

Text whose tokens are all kept is cut into the same tokens as before:

* WordPiece takes the longest piece that there is, Unigram the most likely cut, WordLevel whole words: leaving out what
  was not taken changes nothing.
* BPE merges two pieces at a time, so whatever a kept token may be merged from is kept, and all merges between kept
  tokens in their order.

Text that has other tokens falls back to shorter ones: bytes where the tokenizer has bytes, else single characters.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import regex

MODELS = ("WordPiece", "BPE", "Unigram", "WordLevel")
BYTE_TOKENS = {f"<0x{number:02X}>" for number in range(256)}  # of byte fallback


def pieces(data: dict[str, Any]) -> dict[str, int]:
    """Token -> id, of the model's own vocabulary and of what was added to it.

    Raises:
        ValueError: If the kind of tokenizer is not known here.
    """
    model = data["model"]
    if model["type"] not in MODELS:
        raise ValueError(f"the tokenizer is a {model['type']}; only {', '.join(MODELS)} can be trimmed")
    vocabulary = model["vocab"]
    own = {piece: index for index, (piece, _) in enumerate(vocabulary)} if isinstance(vocabulary, list) else vocabulary
    return own | {token["content"]: token["id"] for token in data["added_tokens"]}


def of_scripts(known: dict[str, int], backend: Any, scripts: Sequence[str]) -> list[int]:
    """Ids of the tokens whose characters are of these Unicode scripts, or of none: digits, punctuation, signs.

    Args:
        known: Token -> id.
        backend: The tokenizer of the `tokenizers` library, whose decoder says what a token stands for.
        scripts: Such as ``Latin`` or ``Cyrillic``.

    Raises:
        ValueError: If Unicode has no such script.
    """
    for script in scripts:
        try:
            regex.compile(rf"\p{{Script={script}}}")
        except regex.error:
            message = f"Unicode has no script {script!r}; give Latin, Cyrillic, Greek, Han, Hangul, Arabic or its like"
            raise ValueError(message) from None
    allowed = "".join(rf"\p{{Script={script}}}" for script in (*scripts, "Common", "Inherited"))
    whole = regex.compile(f"[{allowed}]*")

    def matches(piece: str) -> bool:
        text = piece if backend.decoder is None else backend.decoder.decode([piece])
        text = text.removeprefix("##").replace("▁", " ")
        return "\N{REPLACEMENT CHARACTER}" not in text and whole.fullmatch(text) is not None  # no part of a character

    return [index for piece, index in known.items() if matches(piece)]


def closure(data: dict[str, Any], wanted: Iterable[int]) -> list[int]:
    """The ids to keep, rising: those that are wanted, and those that the tokenizer can't do without.

    Always kept: added tokens, tokens that the post-processor inserts, the one for what is unknown, all bytes. With a
    kept token: what it is merged from, and its characters one by one.
    """
    known, model = pieces(data), data["model"]
    kept = set(wanted) | {token["id"] for token in data["added_tokens"]} | set(_inserted(data.get("post_processor")))
    if model.get("unk_token") in known:  # some name one that they don't have
        kept.add(known[model["unk_token"]])
    kept |= {
        part[key]
        for part, key in ((model, "unk_id"), (data.get("padding") or {}, "pad_id"))
        if part.get(key) is not None
    }
    kept |= {known[piece] for piece in (*BYTE_TOKENS, *_alphabet(data)) if piece in known}
    names = {index: piece for piece, index in known.items()}
    prefix = model.get("continuing_subword_prefix") or ""
    parents: dict[int, list[tuple[int, int]]] = {}
    for left, right in _merges(model):
        made = known.get(left + right.removeprefix(prefix))
        if made is not None and left in known and right in known:
            parents.setdefault(made, []).append((known[left], known[right]))
    waiting = list(kept)
    while waiting:
        index = waiting.pop()
        letters = names.get(index, "").removeprefix(prefix)
        forms = (form for letter in letters for form in (letter, prefix + letter) if form in known)
        found = {known[form] for form in forms} | {part for pair in parents.get(index, ()) for part in pair}
        waiting += found - kept
        kept |= found
    return sorted(kept)


def renumbered(data: dict[str, Any], kept: Sequence[int]) -> dict[str, Any]:
    """The tokenizer with the kept ids alone, numbered anew from 0 in their order.

    Args:
        data: The tokenizer; not changed.
        kept: Rising, as `closure` gives them.
    """
    new = {old: index for index, old in enumerate(kept)}
    model = dict(data["model"])
    if isinstance(model["vocab"], list):
        model["vocab"] = [model["vocab"][old] for old in kept if old < len(model["vocab"])]
    else:
        model["vocab"] = {piece: new[old] for piece, old in model["vocab"].items() if old in new}
    if isinstance(model.get("unk_id"), int):
        model["unk_id"] = new[model["unk_id"]]
    if "merges" in model:
        prefix, there = model.get("continuing_subword_prefix") or "", model["vocab"]
        model["merges"] = [
            [left, right]
            for left, right in _merges(model)
            if left in there and right in there and left + right.removeprefix(prefix) in there
        ]
    added = [token | {"id": new[token["id"]]} for token in data["added_tokens"]]
    changed: dict[str, Any] = {"model": model, "added_tokens": added}
    changed["post_processor"] = _renumber(data.get("post_processor"), new)
    if isinstance(data.get("padding"), dict):
        changed["padding"] = data["padding"] | {"pad_id": new[data["padding"]["pad_id"]]}
    return data | changed


def _merges(model: dict[str, Any]) -> list[tuple[str, str]]:
    """Pairs; older files write them as one string."""
    found = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model.get("merges") or ())
    return [(left, right) for left, right in found]


def _alphabet(data: dict[str, Any]) -> list[str]:
    """What a byte-level tokenizer writes for each byte: all 256, which any text may need."""
    parts = [part for key in ("pre_tokenizer", "normalizer") for part in _components(data.get(key))]
    if not any(part.get("type") == "ByteLevel" for part in parts):
        return []
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = 256 - len(shown)
    return [chr(number) for number in (*shown, *range(256, 256 + hidden))]


def _components(part: Any) -> list[dict[str, Any]]:
    """A pre-tokenizer, normaliser or post-processor, those of a sequence one by one."""
    if not isinstance(part, dict):
        return []
    inner = next((part[key] for key in ("pretokenizers", "normalizers", "processors") if key in part), None)
    return [part] if inner is None else [found for each in inner for found in _components(each)]


def _inserted(processor: Any) -> list[int]:
    """Ids that a post-processor puts into every text."""
    found: list[int] = []
    for part in _components(processor):
        found += [part[key][1] for key in ("sep", "cls") if key in part]
        found += [index for token in part.get("special_tokens", {}).values() for index in token["ids"]]
    return found


def _renumber(processor: Any, new: dict[int, int]) -> Any:
    """A post-processor with other ids."""
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
