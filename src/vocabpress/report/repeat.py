"""How to repeat what a report shows: commands, seeds, versions, and what stands against comparing the results."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from vocabpress.budget import Budget
from vocabpress.calibrate.calibration import ROOT
from vocabpress.methods import is_method
from vocabpress.report.frame import Model, is_original
from vocabpress.report.labels import MEASURED
from vocabpress.report.tables import Sheet, SheetCell
from vocabpress.results import Result

SHORT_COMMIT = 10  # characters
MOST_NAMES = 8  # in a warning
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
    "uniform": ["--from", "uniform"],
    "vocabulary-order": ["--from", "vocabulary-order"],
    "text": ["--text", "TEXT"],
    "counts": ["--from", "COUNTS"],
    "tfidf": ["--text", "TEXT", "--weights-from", "tfidf"],
    "gates": ["--text", "TEXT", "--weights-from", "gates"],
    "given": ["--from", "WEIGHTS"],
}
RECOVER_OPTIONS = ("mode", "steps", "seed")  # the other settings go through --set
OWN_PLACE = ("text", "task", "teacher", "before")  # what was learnt from, and an earlier recovery


def environments(results: Sequence[Result]) -> Sheet:
    """Each environment that results name, and how many come from it."""
    counts = Counter(_environment(result.environment) for result in results)
    rows = [[*(SheetCell(text) for text in lines), SheetCell(f"{n:,}", "", n)] for lines, n in counts.most_common()]
    heads = ["commit", "versions", "Python", "machine", "device", "threads", "results"]
    return Sheet("Environments", heads, rows, len(heads) - 1)


def _environment(found: dict[str, Any]) -> tuple[str, ...]:
    versions = found.get("versions") or {}
    named = ", ".join(f"{package} {version}" for package, version in sorted(versions.items()) if version)
    rest = [str(found.get(key, "–")) for key in ("python", "machine", "device", "threads")]
    return f"{_commit(found)}{' with uncommitted changes' if found.get('uncommitted_changes') else ''}", named, *rest


def _commit(found: dict[str, Any]) -> str:
    return str(found.get("commit") or "not known")[:SHORT_COMMIT]


def seeds(results: Sequence[Result]) -> str:
    """The seeds of measurements and fits, in a sentence."""
    words = []
    for key, what in (("seed", "measurements"), ("fit_seed", "fits")):
        found = {str(r.settings[key]) for r in results if r.settings.get(key) is not None}
        found = ", ".join(sorted(found, key=lambda text: (len(text), text)))
        words += [f"Seeds of the {what}: {found or 'not known'}."] * bool(found or key == "seed")
    return " ".join(words)


def warnings(results: Sequence[Result], models: Sequence[Model]) -> list[str]:
    """What a reader has to know before comparing rows, one sentence each."""
    found = []
    commits = Counter(_commit(result.environment) for result in results)
    if len(commits) > 1:
        named = _some([f"{commit} ({count:,})" for commit, count in commits.most_common()], ", ")
        found.append(f"The results come from {len(commits)} commits: {named}.")
    changed = sum(bool(result.environment.get("uncommitted_changes")) for result in results)
    if changed:
        found.append(f"{changed:,} of {len(results):,} results were measured with uncommitted changes.")
    for model in models:
        if not any(is_original(result) for result in results if str(result.settings.get("model") or "") == model.name):
            found.append(f"{model.title}: no result of the original, so no line to compare with.")
        again = []
        for row, runs in zip(model.rows.itertuples(), model.runs, strict=True):
            drawn = {(run.settings.get("seed"), run.settings.get("fit_seed")) for run in runs}
            again += [f"{row.task}: {row.label}"] * (len(runs) > len(drawn))
        if again:
            named = _some(again, "; ")
            found.append(f"{model.title}: measured more than once with the same seeds, and averaged: {named}.")
        sizeless = sorted(set(model.compressed.label[model.compressed.table.isna()]))
        if sizeless:
            found.append(f"{model.title}: no size is known, so no chart shows {_some(sizeless, ', ')}.")
    return found


def _some(names: list[str], between: str) -> str:
    """The first names, and how many more there are."""
    more = len(names) - MOST_NAMES
    return between.join(names[:MOST_NAMES]) + (f" and {more:,} more" if more > 0 else "")


def commands(model: Model) -> list[str]:
    """The commands that make each table that is ours: `vocabpress compress`, and `vocabpress recover` after it."""
    rows = model.rows[~(model.rows.original | model.rows.peer)].drop_duplicates(["label", "asked"])
    lines = []
    for row in rows.itertuples():
        settings = model.runs[row.Index][0].settings
        lines += (recover_command if row.recovered else compress_commands)(model.name, settings)
    return list(dict.fromkeys(lines))


def recover_command(model: str, chosen: Mapping[str, Any]) -> list[str]:
    """The command that recovers a table of these settings; none where they do not say how."""
    settings = chosen.get("recovered")
    if not isinstance(settings, dict):
        return []
    task = settings.get("task")
    lesson = ["--text", "TEXT"] if task is None else ["--task", str(task), "--data", "DATA"]
    teacher = model if task is None else str(settings.get("teacher"))
    words = ["vocabpress", "recover", "OUTPUT", "--teacher", teacher, *lesson, "-o", "RECOVERED"]
    for name in RECOVER_OPTIONS:
        words += [f"--{name}", str(settings[name])] if name in settings else []
    for name, value in settings.items():
        if name not in (*RECOVER_OPTIONS, *MEASURED, *OWN_PLACE) and value is not None:
            words += ["--set", f"{name}={value}"]
    return [shlex.join(words)]


def compress_commands(model: str, settings: Mapping[str, Any]) -> list[str]:
    """The commands that make a table of these settings; none if it is not of our methods, or its budget not known."""
    budget = settings.get("budget") or (settings.get("ratio") and {"amount": settings["ratio"], "unit": "ratio"})
    if not is_method(settings.get("method")) or not budget:
        return []
    words = ["vocabpress", "compress", model, "-o", "OUTPUT", "--method", settings["method"]]
    words += Budget.read(budget).options()
    for name, value in (settings.get("fields") or {}).items():
        words += ["--set", f"{name}={value}"] if value is not None else []
    for name, value in (settings.get("linears") or {}).items():
        words += ["--linears", f"{name}={value}"]
    options = _calibration(settings)
    plain = options[:1] in ([], ["--calibration"]) or options == PLAIN["text"]
    words += options if plain else ["--calibration", "CALIBRATION"]
    words += ["--seed", str(settings.get("fit_seed", settings.get("seed", 0)))]
    first = [] if plain else [["vocabpress", "calibrate", model, "-o", "CALIBRATION", *options]]
    return [shlex.join(command) for command in (*first, words)]


def _calibration(settings: Mapping[str, Any]) -> list[str]:
    """Options of compress where it needs no calibration made first, else those of calibrate."""
    words, _, power = str(settings.get("token_weights")).partition(", to the power ")
    known = settings.get("calibration") or {"source": SOURCES.get(words, words), "exponent": float(power or ROOT)}
    source, exponent, strength = str(known["source"]), known.get("exponent", ROOT), settings.get("metric")
    if exponent == ROOT and strength is None and (source in PLAIN or source not in CALIBRATED):
        return PLAIN.get(source, [])
    options = [*CALIBRATED.get(source, []), *([] if exponent == ROOT else ["--exponent", f"{exponent:g}"])]
    if strength is None:
        return options if source == "gates" else [*options, "--no-metric"]
    text = [] if "--text" in options else ["--text", "TEXT"]
    return [*options, *text, "--metric-strength", f"{strength:g}"]
