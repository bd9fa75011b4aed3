"""The model card of a compressed checkpoint, rendered from its report, with the original's card below."""

from pathlib import Path

from vocabpress.hf.page import Page, below, link, metadata, size_table, snippet, write_page
from vocabpress.hf.report import Recovered, Report, save_report


def write_card(report: Report, folder: Path, original: Page, text: str) -> None:
    """Write a report and its card, which ends with the ``text`` of the original's, into the folder of a checkpoint.

    Errors become warnings, because the checkpoint is complete by then.
    """

    def render() -> str:
        save_report(report, folder)
        return card(report, folder, original, text)

    write_page(folder, render)


def card(report: Report, folder: Path, original: Page, text: str) -> str:
    """README.md of a compressed checkpoint; see `write_card`."""
    head = metadata(original, report.base_model, "quantized", ["vocabpress"])
    code = snippet(folder, report.architecture, report.output, "import vocabpress  # registers the format\n")
    sections = "".join(map(_recovered, report.recovered))
    return f"{head}\n{_overview(report)}\n{_usage(code)}\n{_details(report)}{sections}{below(text)}"


def _overview(report: Report) -> str:
    whole = report.model_bytes_before / report.model_bytes_after
    rows = report.sizes()
    if report.folder is not None:
        rows += [("all files, without card and report", report.folder.bytes_before, report.folder.bytes_after)]
    return f"""# {report.source_name}, compressed

This is {link(report.base_model)} in {whole:.2f} times fewer bytes. Its token table
({report.num_embeddings:,} x {report.embedding_dim}) is compressed by [vocabpress](https://pypi.org/project/vocabpress/),
method `{report.method}`.
{_linear_maps(report)}{_other_weights(report)}

{size_table("bytes", f"original ({report.dtype})", rows)}
"""


def _linear_maps(report: Report) -> str:
    if not report.linears:
        return ""
    if report.linears[0].coded:
        return f"Its linear maps are stored as trellis codes, {report.linears[0].shape} a weight. "
    maps = ", ".join(f"{part.role} ({part.maps}, left factors {part.shape})" for part in report.linears)
    return f"Linear maps are stored as Kronecker products: {maps}. "


def _other_weights(report: Report) -> str:
    if report.body is not None:
        return f"The body is quantised by {report.body}."
    if any(done.mode == "model" for done in report.recovered):
        return "The other weights were trained afterwards, see below."
    coded = any(part.coded for part in report.linears)
    return "All other weights are stored in 16 bits." if coded else "All other weights are unchanged."


def _usage(code: str) -> str:
    packages = "vocabpress sentence-transformers" if "SentenceTransformer" in code else "vocabpress"
    return f"""## Use

```sh
pip install {packages} numba  # numba is optional, and reads faster
```

```python
{code}
```

`model.dequantize()` returns an ordinary model of transformers. Without `import vocabpress`, transformers does not know
the format and refuses to load it.
"""


def _details(report: Report) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in report.settings.items())
    rows = [
        ("method", f"{report.method}{f' ({settings})' if settings else ''}"),
        ("budget of the table", report.sized()),
        *report.measured(),
        ("times smaller than in float32", f"{report.ratio_to_float32:.2f}"),
        ("bits per weight, everything counted", f"{report.bits_per_weight:.4f}"),
        ("tokens weighted by", report.weighted_by),
        ("relative error of the rows", f"{report.relative_error:.4f}"),
        ("mean cosine of the rows", f"{report.mean_cosine:.4f}"),
    ]
    if report.weighted_relative_error is not None:
        rows += [
            ("relative error, by token frequency", f"{report.weighted_relative_error:.4f}"),
            ("mean cosine, by token frequency", f"{report.weighted_mean_cosine:.4f}"),
        ]
    if report.folder is not None:
        rows += [("files, in bytes", ", ".join(f"{name} {count:,}" for name, count in report.folder.largest(4)))]
    rows += [("seed", str(report.seed)), ("vocabpress", report.version)]
    command = f"\n```sh\n{report.command}\n```\n" if report.command else ""
    lines = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return f"## How it was made\n{command}\n| | |\n| --- | --- |\n{lines}\n"


def add_recovered(folder: Path, done: Recovered) -> str:
    """The card of a folder without a report, as earlier versions wrote it, with a section on the training."""
    page = folder / "README.md"
    return (page.read_text(encoding="utf-8") if page.is_file() else "") + _recovered(done)


def _recovered(done: Recovered) -> str:
    trained = "the table alone" if done.mode == "table" else "the whole model"
    data = "unlabelled sequences" if done.task is None else f"rows of {done.task}"
    teacher = "the original" if done.task is None else f"the original, fine-tuned for {done.task},"
    lines = [f"| {name} | {before:.4g} | {after:.4g} |" for name, (before, after) in done.figures.items()]
    return f"""
## Recovered{"" if done.task is None else f" for {done.task}"}

Trained {trained} against {teacher} on {done.training_sequences:,} {data} for {done.steps:,} steps. The size and the
codes are unchanged. The errors above are those after the training.

| loss on {done.held_out_sequences:,} held-out sequences | before | after |
| --- | ---: | ---: |
{chr(10).join(lines)}
"""
