"""A collection of results as one HTML page that needs nothing else: no network, no other file."""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vocabpress.progress import Bar
from vocabpress.report import charts, repeat, tables
from vocabpress.report.charts import Chart, by_frequency, common_size
from vocabpress.report.collect import Collection
from vocabpress.report.frame import Model, group
from vocabpress.report.names import metric, short, size
from vocabpress.report.tables import Sheet, SheetCell
from vocabpress.results import Result

HERE = Path(__file__).parent
MOST_NEIGHBOURS = 12  # words whose neighbours are shown
BOUND_NOTE = "The least relative error at a rate for Gaussian rows of the table's covariance; real rows may beat it."
HOW = (
    "In a chart: point at a mark for its numbers, click a name of the legend to bring it out (with shift for several), "
    "drag to move, scroll with shift to zoom, double-click to reset. ↓ lower is better, ↑ higher is better."
)


@dataclass(frozen=True)
class Block:
    """A part of a section; what is empty or None is not shown."""

    title: str = ""
    note: str = ""  # a paragraph
    fold: str = ""  # the line that opens the block; empty for one that is open
    cards: Sequence[dict[str, str]] = ()  # figures in boxes: ``label``, ``value``, ``original``, ``name``
    charts: Sequence[Chart | None] = ()  # side by side
    sheets: Sequence[Sheet | None] = ()  # one below another
    code: str = ""  # commands
    terms: Sequence[tuple[str, str]] = ()  # (term, what it means)

    def __bool__(self) -> bool:
        return bool(self.note or self.cards or any(self.charts) or any(self.sheets) or self.code or self.terms)


@dataclass(frozen=True)
class PageSection:
    """What the page says of one thing."""

    title: str
    blocks: list[Block] = field(default_factory=list)


def to_page(found: Collection, title: str, progress: bool = False) -> str:
    """The page of at least one result; a ValueError if a package of the `report` extra is not installed."""
    models = group(found.results)
    sections = [_section(model) for model in Bar(models, desc="drawing", disable=not progress)]
    sections += [_repeat(found.results, models), _meanings(models)]
    named = sum(bool(model.name) for model in models)
    lead = (
        f"{_count(len(found.results), 'result')} of {_count(named, 'model')}, from {_count(found.files, 'file')}. {HOW}"
    )
    return render(title, lead, repeat.warnings(found.results, models), sections)


def render(title: str, lead: str, warnings: Sequence[str], sections: Sequence[PageSection]) -> str:
    """Sections as HTML, with all that draws the charts."""
    try:
        import vl_convert
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise ValueError(f"a report needs {error.name}; pip install 'vocabpress[report]'") from None
    bundle: Any = vl_convert.javascript_bundle  # whose annotations ask for an argument that it does not need
    drawn = [chart for section in sections for block in section.blocks for chart in block.charts if chart]
    specs = {"config": charts.CONFIG, "specs": [chart.spec for chart in drawn]}
    # autoescape: names of models and words of vocabularies are other people's text
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined)
    environment.filters["digest"] = _digest
    return environment.get_template("page.html.jinja").render(
        title=title,
        lead=lead,
        warnings=warnings,
        sections=sections,
        drawn_at=drawn.index,
        specs=json.dumps(specs, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
        style=(HERE / "page.css").read_text(encoding="utf-8"),
        scripts=[bundle(), (HERE / "page.js").read_text(encoding="utf-8")],
    )


def _digest(script: str) -> str:
    """What a content security policy calls a script: nothing else on the page may run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _section(model: Model) -> PageSection:
    keys, more = [charts.rate_distortion(model)], []
    for task in model.tasks:
        for index, name in enumerate(model.metrics(task)):
            # the rate-distortion chart shows the errors of rows already
            key = index == 0 and name != "relative_error" and task not in ("recover", "press")
            (keys if key else more).append(charts.quality(model, task, name))
    keys += [by_frequency(model, "relative_error"), charts.spectrum_chart(model)]
    more = [*filter(None, more), by_frequency(model, "mean_cosine")]
    blocks = [
        Block(note=_summary(model), cards=_best(model)),
        Block(charts=keys if any(keys) else more[:1]),
        Block("All tables", sheets=[tables.overview(model)]),
        Block("Before and after recovery", sheets=[tables.recovery(model)]),
        Block("Bytes by part", charts=[charts.bytes_by_part(model)]),
        Block(fold="Every saved tensor", sheets=[tables.saved_tensors(model)]),
        *_neighbours(model),
        *_answers(model),
        Block("Every metric", fold="More charts", charts=more),
    ]
    sheets = [tables.task_sheet(model, task) for task in model.tasks]
    return PageSection(model.title, [*blocks, *(Block(fold=sheet.caption, sheets=[sheet]) for sheet in sheets)])


def _summary(model: Model) -> str:
    """How much was measured, and between which sizes."""
    names = model.compressed.drop_duplicates("name")
    peers = int(names.peer.sum())
    words = _count(len(names), "variant") + (f", {peers} of them by others," if peers else "")
    sized = model.compressed.dropna(subset="table").sort_values("table")
    if len(sized):
        low, high = (f"{size(row.table)} (ratio {row.ratio:.3g})" for row in sized.iloc[[0, -1]].itertuples())
        words += f" at about {low}" if sized.table.max() < 1.12 * sized.table.min() else f" from {low} to {high}"
    float32 = model.rows.float32.dropna()
    words += f"; in float32 the table takes {size(float32.iloc[0])}" if len(float32) else ""
    seeds = max(len(runs) for runs in model.runs)
    several = f", with up to {seeds} seeds; ± is their sample standard deviation" if seeds > 1 else ""
    best = f" The boxes show the best compressed table at {common_size(model)}, task by task." if _best(model) else ""
    return f"{words}. Measured on {_count(len(model.tasks), 'task')}{several}.{best}"


def _best(model: Model) -> list[dict[str, str]]:
    """At the common size, the best of each task's headline."""
    found = []
    for task in model.tasks:
        for name in model.metrics(task)[:1]:
            shown, every = metric(name), model.of(task, name)
            values = model.at_common_size(every)
            if shown.better is None or len(values) < 2 or task in ("recover", "press"):
                continue
            best = values.sort_values("mean", ascending=shown.better == "lower", kind="stable").iloc[0]
            original = every["mean"][every.original & (every["mean"] != 0)]
            found.append(
                {
                    "label": f"{task}: {shown.head}",
                    "value": short(best["mean"]),
                    "original": short(original.iloc[0]) if len(original) else "",
                    "name": best.label,
                }
            )
    return found


def _neighbours(model: Model) -> list[Block]:
    """Words, their nearest neighbours in the original, and those in each table of the common size."""
    rows: dict[str, list[list[SheetCell]]] = {}

    def line(label: str, words: Sequence[str], same: int) -> list[SheetCell]:
        return [SheetCell(label), SheetCell(", ".join(words)), SheetCell(str(same), "", same)]

    for row, items in model.detailed("neighbours"):
        for item in items:
            original, near = ([_visible(token) for token in item[key]] for key in ("original", "compressed"))
            first = line("Original", original, len(original))
            marked = [text if text in original else f"+{text}" for text in near]
            same = sum(text in original for text in near)
            rows.setdefault(_visible(item["word"]), [first]).append(line(row.label, marked, same))
    heads = ["method", "nearest first; +: not among the original's", "unchanged"]
    sheets = [Sheet(f"Neighbours of {word}", heads, found, 2) for word, found in rows.items()][:MOST_NEIGHBOURS]
    lead = [Block(f"Nearest neighbours by cosine, at {common_size(model)}", sheets=sheets[:1])]
    return lead + [Block(fold=sheet.caption, sheets=[sheet]) for sheet in sheets[1:]]


def _answers(model: Model) -> list[Block]:
    """Prompts, the original's answers, and those with each table of the common size."""
    rows: dict[str, list[list[SheetCell]]] = {}
    for row, items in model.detailed("answers"):
        for item in items:
            first = [SheetCell("Original"), SheetCell(item["original"])]
            rows.setdefault(item["prompt"], [first]).append([SheetCell(row.label), SheetCell(item["answer"])])
    heads = ["method", f"answer, at {common_size(model)}"]
    sheets = [Sheet(prompt, heads, found, 2) for prompt, found in rows.items()]
    return [Block(fold=sheet.caption, sheets=[sheet]) for sheet in sheets]


def _visible(token: Any) -> str:
    """A token's text; one of blanks alone is quoted."""
    return str(token) if str(token).strip() else repr(str(token))


def _repeat(results: Sequence[Result], models: Sequence[Model]) -> PageSection:
    commands = [(model.name, lines) for model in models if (lines := repeat.commands(model))]
    blocks = [Block(f"Commands for {name}", code="\n".join(lines)) for name, lines in commands]
    return PageSection(
        "How to repeat it", [Block(note=repeat.seeds(results), sheets=[repeat.environments(results)]), *blocks]
    )


def _meanings(models: Sequence[Model]) -> PageSection:
    """What the metrics that are shown and known mean; several of one meaning stand together."""
    shown = ["ratio_to_float32", "bits_per_weight", *sorted({name for model in models for name in model.values.metric})]
    labels: dict[str, list[str]] = {}
    for known in [metric(name) for name in dict.fromkeys(shown)]:
        if known.note and known.label not in labels.setdefault(known.note, []):
            labels[known.note].append(known.label)
    terms = [(", ".join(same), note) for note, same in labels.items()]
    bound = [(charts.BOUND, BOUND_NOTE)] * any(model.details("bound") for model in models)
    return PageSection("What the figures mean", [Block(terms=terms + bound)])


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
