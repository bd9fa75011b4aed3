"""Write two pages that open offline: the benchmarks of speed and memory, and all other results.

    python benchmarks/speed_page.py

writes .cache/reports/speed.html and .cache/reports/all.html.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt

from mdtable import RESULTS
from vocabpress.report.charts import Chart, level_axis, looks_of, to_chart
from vocabpress.report.collect import Collection, collect
from vocabpress.report.frame import Frame, pandas
from vocabpress.report.names import method, short, size
from vocabpress.report.page import Block, PageSection, render, to_page
from vocabpress.report.tables import EMPTY, Sheet, SheetCell
from vocabpress.results import Result, write_whole

REPORTS = Path(__file__).resolve().parents[1] / ".cache" / "reports"
STORED, DENSE, FLOOR = "as stored", "dense", "bandwidth floor"
PROPORTIONAL = "in proportion to the rows"
TABLES, TILES = "tables of inner products", "decoded tiles"
FORWARD = "Forward passes of a whole model, in turn with the original; ratios are times over its: below 1 is faster."
HEADS = (
    "Inner products with all rows of a table, as an output head computes them. Each form was timed in turn with the "
    "dense table, and with one read of as many bytes as it stores: the floor, which no head that reads all its codes "
    "can beat. A speed-up is the dense table's time over the form's: above 1 is faster."
)
GPU = "On a GPU, in turn with a dense table. A speed-up is the dense table's time over the form's: above 1 is faster."
MEMORY = (
    "Peak memory of compressing a checkpoint. Its own memory is what a job needs; pages of mapped files beside it are "
    "dropped when the system needs room."
)
PARTS = {  # task -> title, what the figures mean
    "heads": ("Output heads", HEADS),
    "gpu": ("Lookups and heads on a GPU", GPU),
    "reading": ("Forward passes", FORWARD),
    "runtimes": ("Forward passes in onnxruntime", FORWARD),
    "scaling": ("Fits as tables grow", "Seconds and peak memory of a fit as the table grows, all else the same."),
    "memory": ("Compressing large checkpoints", MEMORY),
    "resident": ("Tables in memory", "What a table takes in memory, once loaded and read, over what its file takes."),
    "trellis": ("Search of a trellis", "Rows a second, by compiled loops and in torch."),
    "dryrun": ("Forecasts", "What a dry run expects beside what a fit took; of bytes and memory it is a bound."),
    "start": ("Start-up", "Seconds until a command answers, and over the import of torch and transformers."),
}
# Column of a result -> what was timed, on how much, and which form of the table.
TIMES = {
    **{f"logits_{n}_ms": ("logits", n, STORED) for n in (1, 8, 64)},
    **{f"logits_{n}_dense_ms": ("logits", n, DENSE) for n in (1, 8, 64)},
    **{f"tables_{n}_ms": ("two ways to logits", n, TABLES) for n in (1, 4, 16, 64)},
    **{f"tiles_{n}_ms": ("two ways to logits", n, TILES) for n in (1, 4, 16, 64)},
    "floor_ms": ("logits", 1, FLOOR),
    "top_ms": ("top 50", 1, STORED),
    "top_dense_ms": ("top 50", 1, DENSE),
    "logits_ms": ("logits", 1, STORED),
    "logits_ms_dense": ("logits", 1, DENSE),
    "lookup_ms": ("lookup", "", STORED),
    "lookup_ms_dense": ("lookup", "", DENSE),
    "lookup_graph_ms": ("lookup in a CUDA graph", "", STORED),
    "lookup_graph_ms_dense": ("lookup in a CUDA graph", "", DENSE),
    **{f"ms_{shape}": ("forward pass", shape, STORED) for shape in ("1x16", "1x128", "8x128")},
    **{f"ms_{shape}_original": ("forward pass", shape, DENSE) for shape in ("1x16", "1x128", "8x128")},
}
ORDER = {name: place for place, time in reversed(list(enumerate(TIMES.values()))) for name in map(str, time)}
IN_BYTES = ("anonymous", "resident", "working_set")  # metrics that are sizes
PEAKS = {  # of compressing: metric or size -> name
    "anonymous": "memory of its own",
    "resident": "with pages of mapped files",
    "table_before": "the table",
    "limit": "the limit",
    "model_before": "the whole checkpoint",
}
GROWTH = {
    "seconds": "seconds",
    "memory_over_table": "peak memory over the table",
    "working_set": "bytes besides the table",
}
PLACE = ["task", "where", "name", "table"]


def measurements(results: Sequence[Result]) -> Frame:
    """A data frame with a line for each figure of each result.

    Returns:
        Columns ``task``, ``where`` (model or shape, and the machine if there are several), ``name``, ``table`` (bytes),
        ``rows`` (of the table), ``seed``, ``what``, ``batch``, ``form``, ``value``.
    """
    machines = {_machine(result) for result in results}
    lines = []
    for result in results:
        chosen = result.settings
        rows, columns = chosen.get("rows"), chosen.get("columns")
        shape = f"{columns:,} columns" if result.task == "scaling" else f"{rows:,} x {columns:,}" if rows else ""
        machine = _machine(result) if len(machines) > 1 else ""
        several = len({r.settings.get("ratio") for r in results if r.task == result.task}) > 1
        name = method(result.variant) + (f", {chosen['ratio']:g}x" if several and chosen.get("ratio") else "")
        place = {
            "task": result.task,
            "where": ", ".join(filter(None, [chosen.get("model", ""), shape, machine])),
            "name": name,
            "table": result.bytes.get("table", 0),
            "rows": rows or 0,
            "seed": chosen.get("seed", 0),
        }
        sizes = {key: count for key, count in result.bytes.items() if key != "table"}
        for metric, value in {**result.metrics, **sizes}.items():
            what, batch, form = TIMES.get(metric, (metric, "", STORED))
            lines.append({**place, "what": what, "batch": str(batch), "form": form, "value": float(value)})
    return pandas.DataFrame(lines)


def _machine(result: Result) -> str:
    found = result.environment
    return f"{found.get('device')}, {found.get('machine')}, {found.get('threads')} threads"


def ratios(found: Frame) -> Frame:
    """Times beside those of the dense table in the same run, means over seeds.

    Returns:
        ``stored`` and ``dense`` milliseconds, and ``speed_up``, their ratio; by place, ``what`` and ``batch``.
    """
    keys = [*PLACE, "what", "batch", "seed"]
    wide = found[found.form.isin([STORED, DENSE])].pivot_table("value", keys, "form", sort=False)
    wide = wide.reindex(columns=[STORED, DENSE]).set_axis(["stored", "dense"], axis=1).dropna()
    wide["speed_up"] = wide.dense / wide.stored
    return wide.groupby(level=keys[:-1], sort=False).mean().reset_index()


def ratio_sheets(found: Frame, over: bool) -> list[Sheet]:
    """A table for each place: speed-ups over the dense table, or with ``over`` times over it."""
    sheets = []
    for where, own in ratios(found).groupby("where", sort=False):
        columns: dict[str, dict[str, SheetCell]] = {}
        for line in own.sort_values(["what", "batch"], key=lambda column: column.map(ORDER)).itertuples():
            value: Any = 1 / line.speed_up if over else line.speed_up
            head = f"{', '.join(filter(None, [line.what, line.batch]))}\u00a0{'↓' if over else '↑'}"
            remark = f"{_milliseconds(line.stored)} vs. {_milliseconds(line.dense)} ms"
            columns.setdefault(head, {})[line.name] = SheetCell(short(value), remark, value)
        names = own.drop_duplicates("name").sort_values("table")
        body = [
            [SheetCell(name), _bytes(table), *(column.get(name, EMPTY) for column in columns.values())]
            for name, table in zip(names.name, names.table, strict=True)
        ]
        caption = f"{'Time over' if over else 'Speed-up over'} the dense table in the same run: {where}"
        sheets.append(Sheet(caption, ["variant", "bytes of the table", *columns], body))
    return sheets


def figures(found: Frame) -> Sheet:
    """Every figure of a task, a mean over seeds, as it was measured."""
    shown = found.assign(head=found.what + found.batch.map(lambda batch: batch and f", {batch}") + ", " + found.form)
    keys = [*PLACE, "rows"]
    wide = shown.pivot_table("value", keys, "head", sort=False).reset_index()
    heads = list(wide.columns[len(keys) :])
    counted = {head: head.split(",")[0] in (*IN_BYTES, *PEAKS) or head.startswith(("table", "model")) for head in heads}
    body = [
        [
            SheetCell(line["name"]),
            SheetCell(line["where"]),
            _bytes(line["table"]),
            SheetCell(f"{line['rows']:,}", "", line["rows"]),
        ]
        + [_figure(line[head], size if counted[head] else short) for head in heads]
        for _, line in wide.iterrows()
    ]
    names = [head.removesuffix(f", {STORED}").replace("_", " ") for head in heads]
    return Sheet("Every figure", ["variant", "measured on", "bytes of the table", "rows", *names], body, 2)


def _figure(value: float, say: Any) -> SheetCell:
    return EMPTY if pandas.isna(value) else SheetCell(say(value), "", value)


def _milliseconds(time: Any) -> str:
    return f"{time:,.0f}" if time >= 100 else f"{time:.3g}"


def _bytes(count: float) -> SheetCell:
    return SheetCell(size(count), "", count) if count else EMPTY


def dots(title: str, points: Frame, axis: str, caption: str = "") -> Chart:
    """A row for each name, a mark for each kind; `points` has ``name``, ``kind`` and ``value``."""
    names, kinds = list(dict.fromkeys(points.name)), list(dict.fromkeys(points.kind))
    base = alt.Chart(points).encode(
        y=alt.Y("name:N", sort=names, title=None).axis(labelLimit=200, grid=True),
        x=level_axis(points.value, axis, alt.X("value:Q")),
        **looks_of("kind", kinds, range(len(kinds))),
        tooltip=["name:N", "kind:N", alt.Tooltip("value:Q", format=",.4~g")],
    )
    return to_chart(title, [base.mark_point(filled=True, size=80)], caption, rows=len(names))


def curves(title: str, points: Frame, x: Any, axis: str) -> Chart:
    """A curve for each name, dashed by ``kind``; `points` has ``name``, ``kind``, ``at`` and ``value``."""
    names, kinds = list(dict.fromkeys(points.name)), list(dict.fromkeys(points.kind))
    pick = alt.selection_point(fields=["name"], bind="legend")
    base = alt.Chart(points).encode(
        x=x,
        y=level_axis(points.value, axis, alt.Y("value:Q")),
        opacity=alt.when(pick).then(alt.value(1)).otherwise(alt.value(0.1)),
        color=looks_of("name", names, range(len(names)))["color"],
        tooltip=["name:N", "kind:N", "at", alt.Tooltip("value:Q", format=",.4~g")],
    )
    dash = alt.StrokeDash("kind:N", legend=None).scale(domain=kinds, range=[[1, 0], [5, 4]])
    lines = base.mark_line(strokeWidth=2).encode(strokeDash=dash).add_params(pick)
    marks = (
        base.transform_filter(alt.FieldEqualPredicate(field="kind", equal=kinds[0])) if PROPORTIONAL in kinds else base
    )
    caption = f"Solid: {kinds[0]}. Dashed: {kinds[1]}." if len(kinds) > 1 else ""
    return to_chart(title, [lines, marks.mark_point(filled=True, size=50)], caption)


def in_proportion(points: Frame) -> Frame:
    """The points, and for each name a line from its first point in proportion to ``at``."""
    lines = []
    for name, own in points.sort_values("at").groupby("name", sort=False):
        first, last = own.iloc[0], own.iloc[-1]
        for at in (first["at"], last["at"]):
            lines.append({"name": name, "kind": PROPORTIONAL, "at": at, "value": first["value"] * at / first["at"]})
    return pandas.concat([points, pandas.DataFrame(lines)])


def charts(task: str, found: Frame) -> list[Chart]:
    """The charts of a task, one for each place."""
    drawn = []
    for where, own in found.groupby("where", sort=False):
        own = own.assign(kind=own.form).sort_values("table", kind="stable")
        for what in ("lookup", "logits"):
            points = own[(own.what == what) & own.batch.isin(["", "1"])]
            if DENSE in set(points.form):
                caption = "The smallest table first. Left of its dense mark a form is faster."
                drawn.append(dots(f"{what.capitalize()} of one call: {where}", points, "milliseconds ↓", caption))
        ways = own[own.what == "two ways to logits"].assign(at=lambda frame: frame.batch.astype(float))
        if len(ways):
            x = level_axis(ways["at"], "vectors", alt.X("at:Q"))
            drawn.append(curves(f"Two ways to logits: {where}", ways, x, "milliseconds ↓"))
        passes = ratios(own)
        passes = passes[passes.what == "forward pass"]
        passes = passes.assign(at=lambda frame: frame.batch, kind="", value=lambda frame: 1 / frame.speed_up)
        if len(passes):
            x = alt.X("at:N", sort=None, title="sequences x tokens of a batch").axis(labelAngle=0)
            drawn.append(curves(f"Forward passes: {where}", passes, x, "time over the original's ↓"))
        if task == "scaling":
            for what, axis in GROWTH.items():
                points = own[own.what == what].assign(at=lambda frame: frame.rows, kind="measured")
                x = level_axis(points["at"], "rows of the table", alt.X("at:Q"))
                points = in_proportion(points) if what == "seconds" else points
                drawn += [curves(f"{axis.capitalize()}: {where}", points, x, f"{axis} ↓")] * bool(len(points))
        if task == "memory":
            points = own[own.what.isin(PEAKS)].assign(kind=lambda frame: frame.what.map(PEAKS))
            drawn.append(dots(f"Peak memory: {where}", points, "bytes ↓"))
        if task == "resident":
            over = own[own.what == "memory_over_file"].assign(kind="in memory")
            whole = own[own.what == "table_before"].assign(kind="dense in float32", value=lambda f: f.value / f.table)
            points = pandas.concat([over, whole])
            drawn.append(dots(f"Memory of a loaded table: {where}", points, "memory over the file's bytes ↓"))
    return drawn


def section(results: Sequence[Result], task: str) -> PageSection:
    """A task's charts and tables."""
    found = measurements([result for result in results if result.task == task])
    (title, lead), figure = PARTS[task], figures(found)
    sheets = ratio_sheets(found, over=task in ("reading", "runtimes"))
    return PageSection(
        title,
        [Block(note=lead, charts=charts(task, found), sheets=sheets), Block(fold=figure.caption, sheets=[figure])],
    )


def main() -> int:
    """Write both pages."""
    found = collect([RESULTS])
    timed = [result for result in found.results if result.task in PARTS]
    machines = {_machine(result) for result in timed}
    warning = [f"Timed on {len(machines)} machines ({'; '.join(sorted(machines))}); compare within one."]
    sections = [section(timed, task) for task in PARTS if any(result.task == task for result in timed)]
    lead = f"{len(timed)} results of speed and memory."
    page = render("vocabpress: speed and memory", lead, warning * (len(machines) > 1), sections)
    write_whole(REPORTS / "speed.html", page)
    models = [result for result in found.results if result.task not in PARTS and result.settings.get("model")]
    page = to_page(Collection(models, found.files, found.skipped), "vocabpress: all benchmarks", progress=True)
    write_whole(REPORTS / "all.html", page)
    print(f"{REPORTS / 'speed.html'} and {REPORTS / 'all.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
