"""A collection of results as one HTML page that needs nothing else: no network, no other file."""

import base64
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vocabpress.progress import Bar
from vocabpress.report.charts import BOUND, Chart, rate_distortion, rate_quality
from vocabpress.report.collect import Collection
from vocabpress.report.console import size
from vocabpress.report.names import metric, short
from vocabpress.report.repeat import commands, environments, settings_of, warnings
from vocabpress.report.rows import Model, Row, same_size
from vocabpress.report.speed.section import TITLE, Part, parts, warn
from vocabpress.report.tablecharts import common, deciles, spectrum, storage
from vocabpress.report.tables import Table, overview, recovery, task_table
from vocabpress.report.tables import storage as storage_table
from vocabpress.results import Result

HERE = Path(__file__).parent
MOST_WORDS = 12  # words whose neighbours are shown
BOUND_NOTE = "The least relative error at a rate for Gaussian rows of the table's covariance; real rows may beat it."
SIZES = ("ratio_to_float32", "bits_per_weight")
Draw = Callable[[str], Chart | None]  # takes the id of the drawing


@dataclass(frozen=True)
class Section:
    """What the page says of one model; see the template."""

    id: str
    model: Model
    lead: str
    best_at: str
    best: list[dict[str, str]]
    charts: list[Chart]
    more_charts: list[Chart]
    storage_chart: Chart | None
    overview: Table
    recovery: Table | None
    storage_table: Table | None
    words: list[dict[str, Any]]
    tables: list[Table]


def to_page(found: Collection, title: str, progress: bool = False) -> str:
    """The page.

    Args:
        found: At least one result.
        title: Of the page.
        progress: Whether to draw a progress bar on stderr, over the charts.

    Raises:
        ValueError: If jinja2 or matplotlib is not installed.
    """
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError:
        raise ValueError("a report needs jinja2; pip install 'vocabpress[report]'") from None
    plans, speed = [_charts(model) for model in found.models], parts(found.timings)
    total = sum(map(len, plans)) + sum(len(part.draws + part.more_draws) for part in speed)
    with Bar(total=total, desc="drawing", disable=not progress) as bar:
        sections = [
            _section(f"model-{number}", model, plan, bar)
            for number, (model, plan) in enumerate(zip(found.models, plans, strict=True), 1)
        ]
        timed = [_timed(f"speed-{number}", part, bar) for number, part in enumerate(speed, 1)]
    script = (HERE / "page.js").read_text(encoding="utf-8")
    shown = {name for model in found.models for task in model.tasks for name in model.metrics(task)}
    shown |= {name for row in found.timings for name in row.metrics}
    # autoescape: names of models and words of vocabularies are other people's text
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("page.html.jinja").render(
        title=title,
        lead=_lead(found),
        warnings=warnings(found.results, found.models) + warn(found.timings),
        sections=sections,
        speed=timed,
        speed_title=TITLE,
        repeat={
            "seeds": _seeds(found.results),
            "environments": environments(found.results),
            "commands": [(model.name, lines) for model in found.models if (lines := commands(model))],
        },
        notes=_notes(
            [*SIZES * bool(found.models), *sorted(shown)], any(model.details("bound") for model in found.models)
        ),
        style=(HERE / "page.css").read_text(encoding="utf-8"),
        script=script,
        script_hash=_digest(script),
    )


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all, making its folder.

    Raises:
        ValueError: If it can't be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ValueError(f"can't write {path}: {error.strerror or error}; give another place") from None


def _charts(model: Model) -> list[tuple[str, Draw]]:
    """(where it goes, how it is drawn) of each chart of a model: the keys first."""
    plan: list[tuple[str, Draw]] = [("key", partial(rate_distortion, model))]
    for task in model.tasks:
        for index, name in enumerate(model.metrics(task)):
            # the rate-distortion chart shows the errors of rows already
            key = index == 0 and name != "relative_error" and task != "recover"
            plan.append(("key" if key else "more", partial(rate_quality, model, task, name)))
    plan += [("key", partial(deciles, model, "relative_error")), ("key", partial(spectrum, model))]
    plan += [("more", partial(deciles, model, "mean_cosine")), ("storage", partial(storage, model))]
    return plan


def _section(name: str, model: Model, plan: list[tuple[str, Draw]], bar: Any) -> Section:
    drawn: dict[str, list[Chart]] = {"key": [], "more": [], "storage": []}
    for number, (place, draw) in enumerate(plan):
        chart = draw(f"{name}-chart-{number}")
        bar.update()
        if chart is not None:
            drawn[place].append(chart)
    if not drawn["key"]:
        drawn["key"], drawn["more"] = drawn["more"][:1], drawn["more"][1:]
    return Section(
        id=name,
        model=model,
        lead=_summary(model),
        best_at=common(model),
        best=_best(model),
        charts=drawn["key"],
        more_charts=drawn["more"],
        storage_chart=next(iter(drawn["storage"]), None),
        overview=overview(model),
        recovery=recovery(model),
        storage_table=storage_table(model),
        words=_words(model),
        tables=[task_table(model, task) for task in model.tasks],
    )


def _timed(name: str, part: Part, bar: Any) -> dict[str, Any]:
    """A part on speed, its charts drawn; see the template."""
    charts = []
    for number, draw in enumerate(part.draws + part.more_draws):
        charts.append(draw(f"{name}-chart-{number}"))
        bar.update()
    keys = len(part.draws)
    return {"part": part, "charts": list(filter(None, charts[:keys])), "more_charts": list(filter(None, charts[keys:]))}


def _lead(found: Collection) -> str:
    timed = sum(len(row.results) for row in found.timings)
    said = [f"{_count(len(found.results) - timed, 'result')} of {_count(len(found.models), 'model')}"] * bool(
        found.models
    )
    said += [f"{_count(timed, 'result')} of speed and memory"] * bool(timed)
    return f"{' and '.join(said)}, from {_count(found.files, 'file')}."


def _summary(model: Model) -> str:
    """How much was measured, and between which sizes."""
    names = {row.name: row for row in model.compressed if not model.is_reference(row)}
    peers = sum(row.peer for row in names.values())
    sized = sorted((r for r in model.compressed if r.table and not model.is_reference(r)), key=lambda r: r.table or 0)
    said = _count(len(names), "variant") + (f", {peers} of them by others," if peers else "")
    if sized:
        low, high = sized[0], sized[-1]
        one = same_size(low.table, high.table)
        said += f" at about {_sized(low)}" if one else f" from {_sized(low)} to {_sized(high)}"
    float32 = next((row.float32 for row in model.rows if row.float32), None)
    said += f"; in float32 the table takes {size(float32)}" if float32 else ""
    seeds = max(len(row.results) for row in model.rows)
    several = f", with up to {seeds} seeds; ± is their sample standard deviation" if seeds > 1 else ""
    return f"{said}. Measured on {_count(len(model.tasks), 'task')}{several}."


def _sized(row: Row) -> str:
    return f"{size(row.table or 0)}" + (f" (ratio {row.ratio:.3g})" if row.ratio else "")


def _best(model: Model) -> list[dict[str, str]]:
    """At the common size, the best of each task's headline."""
    found = []
    for task in model.tasks:
        for name in model.metrics(task)[:1]:
            shown = metric(name)
            rows = [row for row in model.at_common_size(model.of(task)) if name in row.metrics]
            if shown.better is None or len(rows) < 2 or task in ("recover", "press"):
                continue
            sign = 1 if shown.better == "lower" else -1
            best = min(rows, key=lambda row: sign * row.metrics[name].mean)
            value, original = best.metrics[name].mean, model.original(task, name)
            found.append(
                {
                    "label": f"{task}: {shown.label}{shown.arrow}",
                    "value": short(value),
                    "original": short(original.mean) if original and original.mean else "",
                    "name": best.label,
                }
            )
    return found


def _words(model: Model) -> list[dict[str, Any]]:
    """Words, their neighbours in the original, and those in each table of the common size."""
    found: dict[str, dict[str, Any]] = {}
    for row in model.at_common_size(model.rows):
        for item in row.details("neighbours"):
            word = str(item["word"])
            original = [_visible(near) for near in item["original"]]
            entry = found.setdefault(word, {"word": _visible(word), "original": original, "lines": []})
            neighbours = [{"text": text, "new": text not in original} for text in map(_visible, item["compressed"])]
            kept = sum(not near["new"] for near in neighbours)
            entry["lines"].append({"name": row.label, "kept": kept, "neighbours": neighbours})
    return list(found.values())[:MOST_WORDS]


def _visible(token: Any) -> str:
    """A token's text; one of blanks alone is quoted."""
    text = str(token)
    return text if text.strip() else repr(text)


def _seeds(results: Sequence[Result]) -> str:
    seeds, fits = settings_of(results, "seed"), settings_of(results, "fit_seed")
    said = f"Seeds of the measurements: {', '.join(seeds) or 'not known'}."
    return said + (f" Seeds of the fits: {', '.join(fits)}." if fits else "")


def _notes(names: Sequence[str], bound: bool) -> list[tuple[str, str]]:
    """(labels, what they mean) of the metrics that are shown and known."""
    labels: dict[str, list[str]] = {}
    for shown in [metric(name) for name in names]:
        if shown.note and shown.label not in labels.setdefault(shown.note, []):
            labels[shown.note].append(shown.label)
    return [(", ".join(same), note) for note, same in labels.items()] + [(BOUND, BOUND_NOTE)] * bound


def _digest(script: str) -> str:
    """What a content security policy calls the script: nothing else on the page may run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
