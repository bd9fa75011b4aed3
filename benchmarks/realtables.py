"""Tables of the real models, each from results/*.json, for `figures.py`."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mdtable import RESULTS, table
from vocabpress.report.names import size
from vocabpress.results import Result, read_results

LANGUAGE = {"perplexity": ("perplexity", 2), "KL, nats": ("kl", 4), "same first token": ("top1_agreement", 3)}
ENCODERS = {
    "STS-B dev": ("stsb_dev", 2),
    **{f"STS {year}": (f"sts{year}", 2) for year in (12, 13, 14)},
    "retrieval": ("top1", 2),
}
BEST = ("original", "torchao-int8", "rtn-4", "rtn-3", "tcq, 8x", "tcq, 12.8x", "tcq, 25x")
WAYS = ("as stored", "hot rows, 1 MB", "resident")
PLACEHOLDER = "not measured yet"


@dataclass
class Row:
    """What is known of one checkpoint: bytes, the metrics of all tasks, seconds of the fit."""

    sizes: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float | None = None

    def add(self, result: Result) -> None:
        """Add the result of a fit or of a task."""
        self.sizes |= result.bytes
        self.metrics |= result.metrics
        fitted = result.seconds if result.task == "press" else result.details.get("coding_seconds")
        self.seconds = self.seconds if fitted is None else fitted

    def figures(self, columns: Mapping[str, tuple[str, int]]) -> list[str]:
        """The cells of a line after its name: bytes, bits a weight, metrics, seconds."""
        bits = 32 * self.sizes["table"] / self.sizes["table_float32"]
        metrics = (f"{self.metrics[m]:.{places}f}" if m in self.metrics else "-" for m, places in columns.values())
        seconds = "-" if self.seconds is None else f"{self.seconds:.0f}"
        return [size(self.sizes["table"]), f"{bits:.2f}", size(self.sizes["model"]), *metrics, seconds]


def checkpoints(plan: str) -> dict[str, Row]:
    """Name -> what is known of the checkpoints of a plan and of its peers; the largest table first."""
    found = dict[str, Row]()
    for file in sorted((RESULTS / plan).rglob("*.json")):
        for result in read_results(file):
            name = file.parent.name if result.settings.get("peer") else result.variant
            if result.settings.get("ratio"):
                name += f", {result.settings['ratio']:g}x" + (", recovered" if result.settings["recovered"] else "")
            found.setdefault(name, Row()).add(result)
    return dict(sorted(found.items(), key=lambda item: -item[1].sizes["table"]))


def compared(plan: str, columns: Mapping[str, tuple[str, int]], only: tuple[str, ...] = ("",)) -> str:
    """A line for each checkpoint and peer of a plan; metrics that none of them has are left out.

    Args:
        plan: Name of the plan.
        columns: Head -> metric and decimals.
        only: Starts of the names to show.
    """
    found = [(name, row) for name, row in checkpoints(plan).items() if name.startswith(only)]
    columns = {head: column for head, column in columns.items() if any(column[0] in row.metrics for _, row in found)}
    headers = ["", "table", "bits a weight", "all weights", *columns, "seconds to fit"]
    lines = [[name, *row.figures(columns)] for name, row in found]
    return table(headers, lines or [[PLACEHOLDER, *["-"] * (len(headers) - 1)]])


def tied_heads() -> str:
    """A line for each method and ratio: quality, seconds of the fit; memory and tokens a second by way of reading."""
    file, found = RESULTS / "tied_heads.json", dict[str, dict[str, Result]]()
    for result in read_results(file) if file.exists() else []:
        found.setdefault(result.settings["cell"], {})[result.variant] = result
    headers = ["", "table", *LANGUAGE, "seconds to fit"]
    headers += [f"{what}, {way}" for what in ("memory", "tokens a second") for way in WAYS]
    lines = []
    for name, rows in found.items():
        fit, ways = rows["quality"], [rows.get(way) for way in WAYS]
        metrics = [f"{fit.metrics[m]:.{places}f}" if m in fit.metrics else "-" for m, places in LANGUAGE.values()]
        memory = ["-" if row is None else size(row.bytes["memory"]) for row in ways]
        speed = ["-" if row is None else f"{row.metrics['tokens_per_second']:.1f}" for row in ways]
        seconds = f"{fit.seconds:.0f}" if fit.seconds else "-"
        lines.append([name, size(fit.bytes["table"]), *metrics, seconds, *memory, *speed])
    return table(headers, lines or [[PLACEHOLDER, *["-"] * (len(headers) - 1)]])


def tied_weights() -> str:
    """A line for each choice at each ratio: what a tied table loses on two texts."""
    file = RESULTS / "tied_weights.json"
    columns = {"perplexity": ("ratio", 3), "KL": ("kl", 4)}
    metrics = [(f"{text}_{name}", places) for text in ("wikitext", "stories") for name, places in columns.values()]
    lines = [
        [f"{found.settings['ratio']:g}x", found.variant, *(f"{found.metrics[m]:.{places}f}" for m, places in metrics)]
        for found in sorted(read_results(file) if file.exists() else [], key=lambda each: each.settings["ratio"])
    ]
    headers = ["ratio", "", *(f"{text}, {name}" for text in ("WikiText-2", "stories") for name in columns)]
    return table(headers, lines or [[PLACEHOLDER, *["-"] * (len(headers) - 1)]])


def whole(only: str = "") -> str:
    """A line for each model at each ratio, or for one model: bytes, and what is left of each measure."""
    file = RESULTS / "whole.json"
    found = {each.variant: each for each in (read_results(file) if file.exists() else [])}
    columns = {"STS-B dev": "stsb_dev", "retrieval, top 1": "top1"}
    lines = []
    for name, row in ((name, row) for name, row in found.items() if name.startswith(only)):
        before = found[f"{row.settings['model']}, original"].metrics
        shares = [f"{100 * row.metrics[m] / before[m]:.1f} %" if m in before else "-" for m in columns.values()]
        ratio = f"{row.metrics['perplexity'] / before['perplexity']:.3f}" if "perplexity" in before else "-"
        quality = f"{row.metrics['quality']:.1f}" if "quality" in row.metrics else "-"
        parts = [size(int(row.metrics[p])) if p in row.metrics else "-" for p in ("table_bytes", "body_bytes")]
        name = name.removeprefix(f"{only}, ")
        lines.append([name, size(row.bytes["file"]), *parts, quality, *shares, *([] if only else [ratio])])
    headers = ["", "file", "table", "maps", "quality", *columns]
    headers += [] if only else ["perplexity over the original's"]
    return table(headers, lines or [[PLACEHOLDER, *["-"] * (len(headers) - 1)]])
