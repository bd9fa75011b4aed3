"""The tables of README.md and docs, each from results/*.json, which `render.py` inserts between the markers."""

import statistics
from collections.abc import Callable, Sequence

import realtables
import timings
from conformance import page
from mdtable import RESULTS, table
from vocabpress.report.frame import group
from vocabpress.report.names import size
from vocabpress.results import Result, read_results

BEST = (
    *("svd", "autoencoder", "lighttoken", "product", "residual", "fastscan"),
    *("tcq", "tcq, by vocabulary order", "tcq, by frequency"),
)


def sts_row(result: Result) -> list[str]:
    """One line of the STS tables."""
    metrics = result.metrics

    def figure(name: str, places: int) -> str:
        return f"{metrics[name]:.{places}f}" if name in metrics else "-"

    return [
        result.variant,
        size(result.bytes["table"]),
        figure("ratio_to_float32", 2),
        figure("relative_error", 3),
        figure("mean_cosine", 3),
        figure("sentence_cosine", 3),
        figure("sts_dev_spearman", 2),
    ]


def sts(ratio: float) -> str:
    """STS-B dev at one ratio, between ceiling and floor."""
    rows = read_results(RESULTS / "sts.json")
    chosen = [row for row in rows if row.settings.get("ratio", ratio) == ratio]
    headers = ["variant", "table", "ratio", "relative error", "row cosine", "sentence cosine", "STS-B dev"]
    return table(headers, [sts_row(row) for row in chosen])


def lighttoken() -> str:
    """The details of LightToken."""
    rows = read_results(RESULTS / "lighttoken.json")
    headers = ["variant", "ratio", "relative error", "row cosine"]
    figures = [("ratio_to_float32", 2), ("relative_error", 4), ("mean_cosine", 4)]
    body = [[row.variant, *(f"{row.metrics[name]:.{places}f}" for name, places in figures)] for row in rows]
    return table(headers, body)


def cells(plan: str, task: str) -> list[Result]:
    """The results of one task of a plan, without peers."""
    found = [result for file in sorted((RESULTS / plan / "results").glob("*.json")) for result in read_results(file)]
    return [result for result in found if result.task == task]


def is_original(result: Result) -> bool:
    """Whether the uncompressed model was measured."""
    return result.settings["method"] == "original"


def mean(results: list[Result], metric: str, places: int) -> str:
    """The mean over seeds, with the sample standard deviation if there are several."""
    values = [result.metrics[metric] for result in results if metric in result.metrics]
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.{places}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{places}f}{spread}"


def grid(plan: str, task: str, metric: str, places: int = 2, only: Sequence[str] = ()) -> str:
    """A line for each method, a column for each ratio: the metric before and after recovery, and of the original.

    Args:
        plan: Name of the plan.
        task: The task whose results are shown.
        metric: A metric of the task.
        places: Decimals.
        only: Methods to show, in this order; by default all.
    """
    found = cells(plan, task)
    originals = [result for result in found if is_original(result)]
    found = [result for result in found if not is_original(result)]
    ratios = sorted({result.settings["ratio"] for result in found})
    body = []
    for variant in only or dict.fromkeys(result.variant for result in found):
        for recovered in (False, True):
            rows = [r for r in found if r.variant == variant and bool(r.settings["recovered"]) == recovered]
            if rows:
                figures = [mean([r for r in rows if r.settings["ratio"] == ratio], metric, places) for ratio in ratios]
                body.append([f"{variant}, recovered" if recovered else variant, *figures])
    original = mean(originals, metric, places)
    return table(["", *(f"{ratio:g}x" for ratio in ratios)], [["original", *[original] * len(ratios)], *body])


def over_bound(plan: str) -> str:
    """A line for each method, a column for each ratio: relative error over the Gaussian bound at its bytes, in dB."""
    (model,) = group([row for row in cells(plan, "reconstruction") if not row.settings["recovered"]])
    every: dict[tuple[str, float], str] = {}
    for line in model.values[model.values.metric == "over_bound"].itertuples():
        cell = model.runs[line.row][0]
        if "frequency" not in cell.variant:
            every[cell.variant, cell.settings["ratio"]] = f"{line.mean:.2f}"
    ratios = sorted({ratio for _, ratio in every})
    variants = sorted({variant for variant, _ in every})
    body = [[name, *(every.get((name, ratio), "-") for ratio in ratios)] for name in variants]
    return table(["", *(f"{ratio:g}x" for ratio in ratios)], body)


def recoveries(plan: str) -> str:
    """Held-out losses of each recovery, and its minutes."""
    rows = sorted(cells(plan, "recover"), key=lambda row: (row.variant, row.settings["ratio"]))
    headers = ["", "ratio", "held-out loss before", "after", "steps", "minutes"]
    figures = [("held_out_before", 3), ("held_out_after", 3), ("steps", 0), ("minutes", 1)]
    return table(
        headers,
        [
            [
                row.variant,
                f"{row.settings['ratio']:g}x",
                *(f"{row.metrics[name]:.{places}f}" for name, places in figures),
            ]
            for row in rows
        ],
    )


def peers(plan: str) -> str:
    """The peers of a plan, smallest ratio first."""
    found: dict[tuple[str, int], dict[str, Result]] = {}
    for file in sorted((RESULTS / plan / "peers").rglob("*.json")):
        for result in read_results(file):
            found.setdefault((str(file.parent.name), result.bytes["table"]), {})[result.task] = result
    body = []
    for (setting, stored), tasks in sorted(found.items(), key=lambda item: -item[0][1]):
        any_of = next(iter(tasks.values()))
        errors, sts_ = tasks.get("reconstruction"), tasks.get("sts")
        body.append(
            [
                setting,
                size(stored),
                f"{any_of.bytes['table_float32'] / stored:.2f}",
                "-" if errors is None else f"{errors.metrics['relative_error']:.3f}",
                "-" if sts_ is None else f"{sts_.metrics['stsb_dev']:.2f}",
            ]
        )
    return table(["peer", "table", "ratio", "relative error", "STS-B dev"], body)


def beside_peers(plan: str) -> str:
    """Peers of a plan, and our own methods at the same sizes; smallest ratio first."""
    rows = []
    for file in sorted((RESULTS / plan / "peers").rglob("reconstruction.json")):
        rows += [(result, str(file.parent.name)) for result in read_results(file)]
    rows += [(result, result.variant) for result in cells(plan, "reconstruction") if not is_original(result)]
    rows.sort(key=lambda row: (-row[0].bytes["table"], row[1]))
    return table(
        ["", "table", "ratio", "relative error"],
        [
            [
                name,
                size(result.bytes["table"]),
                f"{result.bytes['table_float32'] / result.bytes['table']:.2f}",
                f"{result.metrics['relative_error']:.3f}",
            ]
            for result, name in rows
        ],
    )


def kronecker() -> str:
    """Kronecker products and low ranks of the same bytes."""
    found: dict[tuple[str, str], dict[str, Result]] = {}
    for result in read_results(RESULTS / "kronecker.json"):
        settings = result.settings
        found.setdefault((settings["part"], settings["setting"]), {})[settings["method"]] = result
    rows = [
        [f"{part}, {setting}", size(forms["kronecker"].bytes["table"])]
        + [f"{forms[name].metrics['relative_error']:.3f}" for name in ("kronecker", "svd")]
        for (part, setting), forms in found.items()
    ]
    return table(["", "bytes", "Kronecker", "low rank"], rows)


def recovery() -> str:
    """Recovery's own choices."""
    rows = read_results(RESULTS / "recovery.json")
    headers = ["variant", "embedding loss", "hidden loss", "sentence cosine", "STS-B dev", "minutes"]
    names = [("embedding_loss", 3), ("hidden_loss", 3), ("sentence_cosine", 3), ("sts_dev_spearman", 2)]
    return table(
        headers,
        [
            [row.variant]
            + [f"{row.metrics[name]:.{places}f}" if name in row.metrics else "-" for name, places in names]
            + [f"{row.seconds / 60:.1f}" if row.seconds else "-"]
            for row in rows
        ],
    )


def variants(benchmark: str, ratio: float, columns: dict[str, tuple[str, int]]) -> str:
    """A line for each variant of a benchmark at one ratio, and for its references.

    Args:
        benchmark: Name of the JSON file.
        ratio: To float32.
        columns: Head -> metric and decimals.
    """
    rows = [row for row in read_results(RESULTS / f"{benchmark}.json") if row.settings.get("ratio") in (None, ratio)]
    figures = [
        [
            row.variant,
            *(f"{row.metrics[name]:.{places}f}" if name in row.metrics else "-" for name, places in columns.values()),
        ]
        for row in rows
    ]
    return table(["", *columns], figures)


def combination() -> str:
    """Compressed tables, bodies in int8, and both: bytes of the weight files, STS-B dev."""
    rows = read_results(RESULTS / "combination.json")
    body = [
        [
            row.variant,
            size(row.bytes["table"]),
            size(row.bytes["model"]),
            f"{row.bytes['model_before'] / row.bytes['model']:.2f}",
            f"{row.metrics['sentence_cosine']:.3f}",
            f"{row.metrics['sts_dev_spearman']:.2f}",
        ]
        for row in rows
    ]
    return table(["", "table", "whole model", "times smaller", "sentence cosine", "STS-B dev"], body)


def noise() -> str:
    """Share of the original's STS-B dev, and its sampling noise."""
    rows = [
        [
            f"{row.settings['ratio']:g}x",
            f"{row.metrics['sts_dev_spearman']:.2f}",
            *(f"{100 * row.metrics[key]:.2f} %" for key in ("share", "share_5", "share_95")),
            f"{row.metrics['difference_deviation']:.2f}",
        ]
        for row in read_results(RESULTS / "noise.json")
    ]
    return table(["", "STS-B dev", "of the original", "5th percentile", "95th percentile", "deviation, points"], rows)


TRELLIS = {
    "relative error": ("relative_error", 3),
    "by frequency": ("weighted_relative_error", 3),
    "sentence cosine": ("sentence_cosine", 3),
    "STS-B dev": ("sts_dev_spearman", 2),
}
MAPS = {
    "relative error": ("relative_error", 3),
    "sentence cosine": ("sentence_cosine", 3),
    "STS-B dev": ("sts_dev_spearman", 2),
    "retrieval, top 1": ("top1", 1),
}
DOMAINS = {kind: (f"{kind}_cosine", 3) for kind in ("wikipedia", "naturalist", "plays", "reviews", "rare")}
STEPS = {"original": "original", "pressed": "no text", "stage one": "both stages"}
"""A model before its task -> the step with its metrics as "before"; compressed models have the tuned teacher's head."""


def kroneckerbert(preset: str) -> str:
    """Size and quality after each step of KroneckerBERT: STS-B dev, F1 of MRPC, accuracy of SST-2."""
    found: dict[tuple[str, str], Result] = {}
    folders = [RESULTS / "kroneckerbert" / name for name in ("original", preset)]
    for file in (file for folder in folders for file in sorted(folder.glob("*.json"))):
        for result in read_results(file):
            found[result.variant.rpartition(", ")[2], result.task] = result

    def figure(step: str, task: str, metric: str) -> str:
        result = found.get((step, task))
        return f"{result.metrics[metric]:.1f}" if result is not None and metric in result.metrics else "-"

    rows = []
    for step in ("original", "pressed", "stage one", "no text", "no teacher", "both stages"):
        source, suffix = (STEPS[step], "" if step == "original" else "_before") if step in STEPS else (step, "")
        figures = [figure(source, task, metric + suffix) for task, metric in (("mrpc", "f1"), ("sst2", "accuracy"))]
        sizes = {row.bytes["model"] for (of, _), row in found.items() if of == step and "model" in row.bytes}
        measured = [figure(step, "sts", "stsb_dev"), *figures]
        if any(shown != "-" for shown in measured):
            rows.append([step.replace("pressed", "compressed"), size(min(sizes)) if sizes else "-", *measured])
    return table(["", "model", "STS-B dev", "MRPC, F1", "SST-2, accuracy"], rows)


def architectures() -> list[Result]:
    """One result for each architecture of transformers."""
    return read_results(RESULTS / "architectures.json")


BLOCKS: dict[str, Callable[[], str]] = {
    "architectures-counts": lambda: table(*page.counts(architectures())),
    "architectures-working": lambda: table(*page.working(architectures())),
    "architectures-failing": lambda: table(*page.failing(architectures())),
    "architectures-none": lambda: page.names(architectures(), "no table"),
    "architectures-parts": lambda: page.names(architectures(), "part"),
    "sts-25": lambda: sts(25),
    "sts-103": lambda: sts(103),
    "lighttoken": lighttoken,
    "minilm-sts": lambda: grid("minilm", "sts", "stsb_dev"),
    "minilm-best": lambda: grid("minilm", "sts", "stsb_dev", only=BEST),
    "minilm-bound": lambda: over_bound("minilm"),
    "minilm-error": lambda: grid("minilm", "reconstruction", "relative_error", 3),
    "minilm-recover": lambda: recoveries("minilm"),
    "minilm-peers": lambda: peers("minilm"),
    "language-model": lambda: realtables.compared("smollm2", realtables.LANGUAGE),
    "language-model-best": lambda: realtables.compared("smollm2", realtables.LANGUAGE, realtables.BEST),
    "encoder-minilm": lambda: realtables.compared("encoder-minilm", realtables.ENCODERS),
    "encoder-e5": lambda: realtables.compared("encoder-e5", realtables.ENCODERS),
    "tied-heads": realtables.tied_heads,
    "tied-weights": realtables.tied_weights,
    "whole": realtables.whole,
    "whole-minilm": lambda: realtables.whole("minilm"),
    "finetune-rte": lambda: grid("finetune", "rte", "accuracy", 1),
    "finetune-mrpc": lambda: grid("finetune", "mrpc", "f1", 1),
    "finetune-cola": lambda: grid("finetune", "cola", "matthews", 1),
    "finetune-sst2": lambda: grid("finetune", "sst2", "accuracy", 1),
    "minilm-weighted": lambda: grid("minilm", "reconstruction", "weighted_relative_error", 3),
    "quantisers": lambda: beside_peers("quantisers"),
    "weights-error": lambda: grid("weights", "reconstruction", "relative_error", 3),
    "weights-weighted": lambda: grid("weights", "reconstruction", "weighted_relative_error", 3),
    "weights-sts": lambda: grid("weights", "sts", "stsb_dev"),
    **{f"tcq-{ratio}": lambda ratio=ratio: variants("tcq", ratio, TRELLIS) for ratio in (25, 50, 103, 206)},
    **{f"domains-{ratio}": lambda ratio=ratio: variants("domains", ratio, DOMAINS) for ratio in (50, 103)},
    "maps": lambda: variants("maps", 0, MAPS),
    "heads": timings.heads,
    "memory": timings.memory,
    "resident": timings.resident,
    "noise": noise,
    "scaling": timings.scaling,
    "trellis": timings.trellis,
    "words": timings.words,
    "runtimes": timings.runtimes,
    "reading": timings.reading,
    "start": timings.start,
    "combination": combination,
    "kronecker": kronecker,
    "recovery": recovery,
    "kroneckerbert-8x": lambda: kroneckerbert("kronecker-8x"),
    "kroneckerbert-8x-plain": lambda: kroneckerbert("kronecker-8x-kroneckerbert-kroneckerbert"),
    "kroneckerbert-20x": lambda: kroneckerbert("kronecker-20x"),
    "squad": lambda: grid("squad", "squad", "f1", 1),
}
