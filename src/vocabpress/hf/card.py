"""The model card of a compressed checkpoint: made of its report, its original's text kept below."""

import warnings
from pathlib import Path

from vocabpress.hf.page import Page, below, metadata, snippet
from vocabpress.hf.report import Recovered, Report, save_report

UNCHANGED = "All other weights are unchanged."
TRAINED = "The other weights were trained afterwards, see below."


def write_card(report: Report, folder: Path, original: Page, text: str) -> None:
    """Write a report and the card that is made of it. The checkpoint is there by then: no card is worth an error.

    Args:
        report: What was done and what it cost.
        folder: Of the checkpoint, complete.
        original: Page of the original, for its metadata.
        text: The original's text.
    """
    try:
        save_report(report, folder)
        (folder / "README.md").write_text(card(report, folder, original, text), encoding="utf-8")
    except Exception as error:
        warnings.warn(f"the model card was not written: {error}", stacklevel=2)


def card(report: Report, folder: Path, original: Page, text: str) -> str:
    """README.md of a compressed checkpoint; see `write_card`."""
    head = metadata(original, report.base_model, "quantized", ["vocabpress"])
    use = snippet(folder, report.architecture, report.output, "import vocabpress  # registers the format\n")
    sections = "".join(map(_recovered, report.recovered))
    return f"{head}\n{_summary(report)}\n{_use(use)}\n{_made(report)}{sections}{below(text)}"


def _summary(report: Report) -> str:
    whole = report.model_bytes_before / report.model_bytes_after
    link = f"[{report.base_model}](https://huggingface.co/{report.base_model})" if report.base_model else "the original"
    rows = [("token table", report.table_bytes_before, report.table_bytes_after)]
    rows += [(f"linear maps of {part.role}", part.bytes_before, part.bytes_after) for part in report.linears]
    rows += [("whole model, on disk", report.model_bytes_before, report.model_bytes_after)]
    lines = [f"| {name} | {before:,} | {after:,} | {before / after:.2f} |" for name, before, after in rows]
    return f"""# {report.source_name}, compressed

This is {link} in {whole:.2f} times fewer bytes. Its token table ({report.num_embeddings:,} x {report.embedding_dim})
is compressed by [vocabpress](https://pypi.org/project/vocabpress/), method `{report.method}`.
{_linears(report)}{_rest(report)}

| bytes | original ({report.dtype}) | here | times smaller |
| --- | ---: | ---: | ---: |
{chr(10).join(lines)}
"""


def _linears(report: Report) -> str:
    """A sentence on the linear maps, if any were compressed."""
    if not report.linears:
        return ""
    told = ", ".join(f"{part.role} ({part.maps}, left factors {part.shape})" for part in report.linears)
    return f"Linear maps are stored as Kronecker products: {told}. "


def _rest(report: Report) -> str:
    """A sentence on all other weights."""
    if report.body is not None:
        return f"The body is quantised by {report.body}."
    return TRAINED if any(done.mode == "model" for done in report.recovered) else UNCHANGED


def _use(code: str) -> str:
    packages = "vocabpress sentence-transformers" if "SentenceTransformer" in code else "vocabpress"
    return f"""## Use

```sh
pip install {packages} numba  # numba is optional, and reads faster
```

```python
{code}
```

`model.dequantize()` gives an ordinary model of transformers. Without `import vocabpress`, transformers does not know
the format and refuses to load it.
"""


def _made(report: Report) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in report.settings.items())
    rows = [
        ("method", f"{report.method}{f' ({settings})' if settings else ''}"),
        ("budget of the table", report.budget),
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
    rows += [("seed", str(report.seed)), ("vocabpress", report.version)]
    command = f"\n```sh\n{report.command}\n```\n" if report.command else ""
    lines = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return f"## How it was made\n{command}\n| | |\n| --- | --- |\n{lines}\n"


def add_recovered(folder: Path, done: Recovered) -> str:
    """The card of a folder without a report, as earlier versions wrote it, with what was trained added."""
    page = folder / "README.md"
    before = page.read_text(encoding="utf-8") if page.is_file() else ""
    return before.replace(UNCHANGED, TRAINED if done.mode == "model" else UNCHANGED) + _recovered(done)


def _recovered(done: Recovered) -> str:
    trained = "the table alone" if done.mode == "table" else "the whole model"
    lesson = "unlabelled sequences" if done.task is None else f"rows of {done.task}"
    teacher = "the original" if done.task is None else f"the original, fine-tuned for {done.task},"
    lines = [f"| {name} | {before:.4g} | {after:.4g} |" for name, (before, after) in done.figures.items()]
    return f"""
## Recovered{"" if done.task is None else f" for {done.task}"}

Trained against {teacher} on {done.training_sequences:,} {lesson}, {done.steps:,} steps, in as many bytes as before
({trained}; the codes as they were). The errors above are those after it.

| loss on {done.held_out_sequences:,} held-out sequences | before | after |
| --- | ---: | ---: |
{chr(10).join(lines)}
"""
