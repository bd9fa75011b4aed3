"""How to repeat what a report shows: commands, seeds, versions, and what stands against comparing the results."""

import re
import shlex
from collections import Counter
from collections.abc import Sequence
from typing import Any

from vocabpress.calibrate.calibration import ROOT
from vocabpress.methods import is_method
from vocabpress.report.labels import MEASURED
from vocabpress.report.rows import Model, Row
from vocabpress.report.tables import Cell, Table
from vocabpress.results import Result

SHORT_COMMIT = 10  # characters
SOURCES = {  # where token weights come from, in the words of earlier versions -> the source of a calibration
    "vocabulary order": "vocabulary-order",
    "saved counts": "counts",
    "TF-IDF of text": "tfidf",
    "saved weights": "given",
}
PLAIN = {  # source -> options of compress, where no calibration need be made first
    "uniform": ["--calibration", "uniform"],
    "vocabulary-order": ["--calibration", "vocabulary-order"],
    "text": ["--text", "TEXT"],
}
CALIBRATED = {  # source -> options of calibrate
    "uniform": ["--exponent", "0"],
    "text": ["--text", "TEXT"],
    "counts": ["--from", "COUNTS"],
    "tfidf": ["--text", "TEXT", "--weights-from", "tfidf"],
    "gates": ["--text", "TEXT", "--weights-from", "gates"],
    "given": ["--from", "WEIGHTS"],
}
RECOVER_OPTIONS = ("mode", "steps", "seed")  # the other settings go through --set
TOLD = ("text", "task", "teacher", "before")  # what was learnt from, and an earlier recovery


def environments(results: Sequence[Result]) -> Table:
    """Each environment that results name, and how many come from it."""
    counts = Counter(_environment(result.environment) for result in results)
    rows = [[*(Cell(text) for text in lines), Cell(f"{n:,}", "", n)] for lines, n in counts.most_common()]
    heads = ["commit", "versions", "Python", "machine", "device", "threads", "results"]
    return Table("Environments", heads, rows, len(heads) - 1)


def _environment(found: dict[str, Any]) -> tuple[str, ...]:
    commit = str(found.get("commit") or "not known")[:SHORT_COMMIT]
    versions = found.get("versions") or {}
    said = ", ".join(f"{package} {version}" for package, version in sorted(versions.items()) if version)
    rest = [str(found.get(key, "–")) for key in ("python", "machine", "device", "threads")]
    return f"{commit}{' with uncommitted changes' if found.get('uncommitted_changes') else ''}", said, *rest


def warnings(results: Sequence[Result], models: Sequence[Model]) -> list[str]:
    """What a reader has to know before comparing rows, one sentence each."""
    found = []
    commits = Counter(str(r.environment.get("commit") or "not known")[:SHORT_COMMIT] for r in results)
    if len(commits) > 1:
        named = _some([f"{commit} ({count:,})" for commit, count in commits.most_common()], ", ")
        found.append(f"The results come from {len(commits)} commits: {named}.")
    changed = sum(bool(result.environment.get("uncommitted_changes")) for result in results)
    if changed:
        found.append(f"{changed:,} of {len(results):,} results were measured with uncommitted changes.")
    for model in models:
        if not any(row.original for row in model.rows):
            found.append(f"{model.name}: no result of the original, so no line to compare with.")
        again = [row for row in model.rows if len(row.results) > len({_seeds(r) for r in row.results})]
        if again:
            named = _some([f"{row.task}: {row.label}" for row in again], "; ")
            found.append(f"{model.name}: measured more than once with the same seeds, and averaged: {named}.")
        sizeless = sorted({row.label for row in model.rows if not row.table})
        if sizeless:
            found.append(f"{model.name}: no size is known, so no chart shows {_some(sizeless, ', ')}.")
    return found


def _some(names: list[str], between: str, most: int = 8) -> str:
    """The first names, and how many more there are."""
    more = len(names) - most
    return between.join(names[:most]) + (f" and {more:,} more" if more > 0 else "")


def _seeds(result: Result) -> tuple[Any, Any]:
    return result.settings.get("seed"), result.settings.get("fit_seed")


def commands(model: Model) -> list[str]:
    """The commands that make each table that is ours: `vocabpress compress`, and `vocabpress recover` after it."""
    lines = [
        [recover_command(model.name, row)] if row.recovered else compress_commands(model.name, row)
        for row in model.tables
    ]
    return list(dict.fromkeys(line for several in lines for line in several if line))


def recover_command(model: str, row: Row) -> str | None:
    """The command that recovers a table; None where it is not ours, or not told."""
    settings = row.results[0].settings.get("recovered")
    if row.peer or not isinstance(settings, dict):
        return None
    task = settings.get("task")
    lesson = ["--text", "TEXT"] if task is None else ["--task", str(task), "--data", "DATA"]
    teacher = model if task is None else str(settings.get("teacher"))
    words = ["vocabpress", "recover", "OUTPUT", "--teacher", teacher, *lesson, "-o", "RECOVERED"]
    for name in RECOVER_OPTIONS:
        words += [f"--{name}", str(settings[name])] if name in settings else []
    for name, value in settings.items():
        if name not in (*RECOVER_OPTIONS, *MEASURED, *TOLD) and value is not None:
            words += ["--set", f"{name}={value}"]
    return shlex.join(words)


def compress_commands(model: str, row: Row) -> list[str]:
    """The commands that make a table; none where it is not one of our methods, or its budget is not known."""
    settings = row.results[0].settings
    budget = _budget(settings)
    if row.peer or not is_method(settings.get("method")) or budget is None:
        return []
    words = ["vocabpress", "compress", model, "-o", "OUTPUT", "--method", settings["method"], *budget]
    fields = settings.get("fields") or {}
    for name, value in fields.items():
        words += ["--set", f"{name}={value}"] if value is not None else []
    for name, value in (settings.get("linears") or {}).items():
        words += ["--linears", f"{name}={value}"]
    options = _calibration(settings)
    plain = options[:1] in ([], ["--calibration"]) or options == PLAIN["text"]
    words += options if plain else ["--calibration", "CALIBRATION"]
    words += ["--seed", str(settings.get("fit_seed", settings.get("seed", 0)))]
    first = [] if plain else [["vocabpress", "calibrate", model, "-o", "CALIBRATION", *options]]
    return [shlex.join(command) for command in (*first, words)]


def _calibration(settings: dict[str, Any]) -> list[str]:
    """Options of compress where it needs no calibration made first, else those of calibrate."""
    said, _, power = str(settings.get("token_weights")).partition(", to the power ")
    known = settings.get("calibration") or {"source": SOURCES.get(said, said), "exponent": float(power or ROOT)}
    source, exponent, strength = str(known["source"]), known.get("exponent", ROOT), settings.get("metric")
    if exponent == ROOT and strength is None and (source in PLAIN or source not in CALIBRATED):
        return PLAIN.get(source, [])
    options = [*CALIBRATED.get(source, []), *([] if exponent == ROOT else ["--exponent", f"{exponent:g}"])]
    if strength is None:
        return options if source == "gates" else [*options, "--no-metric"]
    text = [] if "--text" in options else ["--text", "TEXT"]
    return [*options, *text, "--metric-strength", f"{strength:g}"]


def _budget(settings: dict[str, Any]) -> list[str] | None:
    """The options of a budget in words; see `vocabpress.budget.Budget`."""
    said = str(settings.get("budget"))
    if match := re.fullmatch(r"ratio ([\d.e+]+) to (\w+)", said):
        return ["--ratio", match[1], *(["--reference", match[2]] if match[2] != "float32" else [])]
    if match := re.fullmatch(r"([\d.e+-]+) bits per weight", said):
        return ["--bits-per-weight", match[1]]
    if match := re.fullmatch(r"([\d,]+) bytes", said):
        return ["--size", match[1].replace(",", "")]
    return ["--ratio", f"{settings['ratio']:g}"] if isinstance(settings.get("ratio"), int | float) else None


def settings_of(results: Sequence[Result], key: str) -> list[str]:
    """Each value that a setting takes, as text, in order."""
    values = {str(result.settings[key]): result.settings[key] for result in results if key in result.settings}
    return sorted((text for text, value in values.items() if value is not None), key=lambda text: (len(text), text))
