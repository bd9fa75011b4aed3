"""Names that tell rows apart, with no more settings in them than that takes."""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vocabpress.results import Result

SEEDS = ("seed", "fit_seed")
MEASURED = ("steps_taken", "held_out_before")  # what a recovery found, written among its settings


def canonical(value: Any) -> str:
    """JSON that is equal where the values are."""
    return json.dumps(value, sort_keys=True, default=str)


def without_seeds(settings: Any) -> Any:
    """The settings, at any depth, without the seeds and without what differs with them."""
    if not isinstance(settings, Mapping):
        return settings
    return {name: without_seeds(value) for name, value in settings.items() if name not in (*SEEDS, *MEASURED)}


def asked_size(result: Result) -> str:
    """The size that was asked for, or else the size: rows of one such size stand beside each other."""
    ratio = result.settings.get("ratio")
    if isinstance(ratio, int | float):
        return f"ratio {ratio:g}"
    return canonical(result.settings.get("budget") or result.bytes.get("table"))


def differences(
    results: Sequence[Result],
    named: Callable[[Result], Any],
    settings: Callable[[Result], Mapping[str, Any]],
    apart: Callable[[Result], str] = asked_size,
) -> list[str]:
    """What each result's settings say that those of others of its name do not, such as ``" (factors int8)"``.

    ``named`` gives the name of a result without its settings, ``settings`` those that may tell it apart. Results of one
    name for which ``apart`` differs need no telling apart.
    """
    groups: dict[Any, list[int]] = defaultdict(list)
    for index, result in enumerate(results):
        groups[named(result)].append(index)
    flat = [_flat(without_seeds(settings(result))) for result in results]
    words = [""] * len(results)
    for members in groups.values():
        seen, values = defaultdict(set), defaultdict(set)
        for index in members:
            seen[apart(results[index])].add(canonical(flat[index]))
            for name in flat[index]:
                values[name].add(canonical(flat[index][name]))
        if all(len(found) == 1 for found in seen.values()):
            continue
        for index in members:
            own = flat[index]
            differ = [n for n in sorted(own) if len(values[n]) > 1 or any(n not in flat[other] for other in members)]
            parts = [f"{name.rsplit('.', 1)[-1].replace('_', ' ')} {_word(own[name])}" for name in differ]
            words[index] = f" ({', '.join(parts)})" if parts else ""
    return words


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level, names joined by dots; what is None says nothing and is left out."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        elif value is not None:
            flat[f"{prefix}{name}"] = value
    return flat


def _word(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
