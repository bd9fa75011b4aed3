"""Names that tell rows apart, with no more settings in them than that takes."""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from vocabpress.report.names import method
from vocabpress.results import Result

SEEDS = ("seed", "fit_seed")
MEASURED = ("steps_taken", "held_out_before")  # what a recovery found, written among its settings
# Settings that show elsewhere than in the name of a variant.
OWN_COLUMN = {*SEEDS, "model", "method", "ratio", "budget", "recovered", "task", "text", "peer"}


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
    return str(result.settings.get("budget") or result.bytes.get("table"))


def variant_name(result: Result, among: list[Result]) -> str:
    """The variant as a legend shows it; settings join where it has several at one size."""
    label = _label(result, [other for other in among if other.variant == result.variant], _method_settings)
    return method(result.variant) + label


def recovery_name(result: Result, among: list[Result]) -> str | None:
    """``"recovered"``, or None; settings join where a variant was recovered in several ways at one size."""
    if not result.settings.get("recovered"):
        return None
    rivals = [other for other in among if other.variant == result.variant and other.settings.get("recovered")]
    return "recovered" + _label(result, rivals, _recovery_settings)


def task_name(result: Result, among: list[Result]) -> str:
    """The task; settings join where it was run with several."""
    rivals = [other for other in among if other.task == result.task]
    return result.task + _label(result, rivals, _task_settings, apart=lambda _: "")


def _label(
    result: Result,
    rivals: list[Result],
    settings: Callable[[Result], dict[str, Any]],
    apart: Callable[[Result], str] = asked_size,
) -> str:
    """What the result's settings say that those of its rivals do not, such as ``" (factors int8)"``.

    Args:
        result: To be named.
        rivals: Results of the same name, this one among them.
        settings: What tells them apart.
        apart: Rivals for which this differs need no telling apart.
    """
    seen: dict[str, set[str]] = defaultdict(set)
    for rival in rivals:
        seen[apart(rival)].add(canonical(settings(rival)))
    if all(len(found) == 1 for found in seen.values()):
        return ""
    own, others = settings(result), [settings(rival) for rival in rivals]
    differ = [name for name in sorted(own) if any(other.get(name) != own[name] for other in others)]
    words = ", ".join(f"{name.rsplit('.', 1)[-1].replace('_', ' ')} {_word(own[name])}" for name in differ)
    return f" ({words})" if words else ""


def _method_settings(result: Result) -> dict[str, Any]:
    return _flat({name: value for name, value in result.settings.items() if name not in OWN_COLUMN})


def _recovery_settings(result: Result) -> dict[str, Any]:
    return _flat({"recovered": without_seeds(result.settings["recovered"])})


def _task_settings(result: Result) -> dict[str, Any]:
    return _flat({name: without_seeds(result.settings.get(name)) for name in ("task", "text")})


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
