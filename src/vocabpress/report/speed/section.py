"""The section on speed and memory: a part for each benchmark, with its charts and tables."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from vocabpress.report.charts import Chart
from vocabpress.report.rows import Row
from vocabpress.report.speed.crossing import crossing
from vocabpress.report.speed.curves import forward_passes, growth
from vocabpress.report.speed.forms import beside_dense
from vocabpress.report.speed.memory import over_file, peaks
from vocabpress.report.speed.tables import figures, ratios
from vocabpress.report.speed.timed import TIMED, by_place, machine, place_names
from vocabpress.report.tables import Table

TITLE = "Speed and memory"
Draw = Callable[[str], Chart | None]  # takes the id of the drawing
Kind = tuple[str, Callable[..., Chart | None]]  # a title, and what draws the rows of one place


@dataclass(frozen=True)
class Part:
    """What one benchmark measured.

    Attributes:
        title: Heading.
        lead: What the figures mean, in a sentence or two.
        draws: How each chart is drawn.
        more_draws: The same, of charts that are folded away.
        ratios: Times over the dense peers', a table for each place; none where nothing has a peer.
        figures: Every metric.
    """

    title: str
    lead: str
    draws: list[Draw]
    more_draws: list[Draw]
    ratios: list[Table]
    figures: Table


HEADS = (
    "Inner products with all rows of a table, as an output head computes them. Each form was timed in turn with the "
    "dense table, and with one read of as many bytes as it stores: the floor, which no head that reads all its codes "
    "can beat. A speed-up is the dense table's time over the form's: above 1 is faster."
)
GPU = "On a GPU, in turn with a dense table. A speed-up is the dense table's time over the form's: above 1 is faster."
FORWARD = "Forward passes of a whole model, in turn with the original; ratios are times over its: below 1 is faster."
SCALING = "Seconds and peak memory of a fit as the table grows, all else the same."
MEMORY = (
    "Peak memory of compressing a checkpoint. Its own memory is what a job needs; pages of mapped files beside it are "
    "dropped when the system needs room."
)
RESIDENT = "What a table takes in memory, once loaded and read, over what it takes in the file."
# task -> title, lead
PARTS = {
    "heads": ("Output heads", HEADS),
    "gpu": ("Lookups and heads on a GPU", GPU),
    "reading": ("Forward passes", FORWARD),
    "runtimes": ("Forward passes in onnxruntime", FORWARD),
    "scaling": ("Fits as tables grow", SCALING),
    "memory": ("Compressing large checkpoints", MEMORY),
    "resident": ("Tables in memory", RESIDENT),
}
DRAWN: dict[str, list[Kind]] = {
    "heads": [("Logits of one vector", partial(beside_dense, name="logits_1_ms", floor="floor_ms"))],
    "gpu": [
        ("Lookup", partial(beside_dense, name="lookup_ms")),
        ("Logits of one vector", partial(beside_dense, name="logits_ms", floor="floor_ms")),
    ],
    "reading": [("Forward passes", forward_passes)],
    "runtimes": [("Forward passes", forward_passes)],
    "scaling": [
        ("Seconds of a fit", partial(growth, name="seconds")),
        ("Memory of a fit", partial(growth, name="memory_over_table")),
        ("Working set of a fit", partial(growth, name="working_set")),
    ],
    "memory": [("Peak memory", peaks)],
    "resident": [("Memory of a loaded table", over_file)],
}
MORE: dict[str, list[Kind]] = {"heads": [("Two ways to logits", crossing)]}


def parts(rows: Sequence[Row]) -> list[Part]:
    """A part for each task that has timings, in the order of `TIMED`."""
    found = []
    for task in TIMED:
        members = [row for row in rows if row.results[0].task == task]
        if members:
            title, lead = PARTS[task]
            draws, more = (_draws(charts.get(task, []), members, task == "scaling") for charts in (DRAWN, MORE))
            tables = ratios(members, task in ("heads", "gpu"), "logits_1_ms" if task == "heads" else "")
            found.append(Part(title, lead, draws, more, tables, figures(members, f"{title}: every figure")))
    return found


def _draws(kinds: Sequence[Kind], rows: Sequence[Row], over_rows: bool) -> list[Draw]:
    """The charts of a task: each of its kinds, and of each kind one for every place."""
    places = by_place(rows, over_rows)
    names = place_names(list(places))
    return [
        partial(draw, members, title=f"{title}: {names[at]}" if names[at] else title)
        for title, draw in kinds
        for at, members in places.items()
    ]


def warn(rows: Sequence[Row]) -> list[str]:
    """What a reader has to know before comparing timings."""
    machines = dict.fromkeys(machine(result) for row in rows for result in row.results)
    if len(machines) < 2:
        return []
    return [f"{TITLE}: timed on {len(machines)} machines ({'; '.join(machines)}); compare within one."]
