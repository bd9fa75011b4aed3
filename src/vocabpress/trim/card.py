"""What a trim left out: the figures, and the model card that is made of them."""

import warnings
from dataclasses import dataclass
from pathlib import Path

from vocabpress.hf.page import Page, below, metadata, snippet


@dataclass(frozen=True)
class TrimReport:
    """What was left out. Sizes are bytes of tensors and files.

    Attributes:
        source_name: Name of the model.
        output: The folder written.
        tokens_before: Rows of the table.
        tokens_after: Rows kept.
        tokens_used: Rows that text or scripts asked for; the tokenizer needs the others.
        table_bytes_before: Size of the table in the original's dtype.
        table_bytes_after: The same, trimmed.
        model_bytes_before: Size of the files of weights.
        model_bytes_after: The same, trimmed.
        same_lines: Share of the lines of text that the trimmed tokenizer cuts as the original does; None without text.
        kept_share: Share of the text's tokens that are kept, each as often as it occurs; None without text.
    """

    source_name: str
    output: str
    tokens_before: int
    tokens_after: int
    tokens_used: int
    table_bytes_before: int
    table_bytes_after: int
    model_bytes_before: int
    model_bytes_after: int
    same_lines: float | None
    kept_share: float | None


def write_trim_card(
    report: TrimReport, folder: Path, architecture: str, original: Page, base_model: str | None
) -> None:
    """Write the card of a trimmed checkpoint. The checkpoint is there by then: no card is worth an error.

    Args:
        report: What was left out.
        folder: Folder of the checkpoint, complete.
        architecture: Class of the model.
        original: Page of the original.
        base_model: Its id on the hub, where it is known.
    """
    try:
        text = _card(report, folder, architecture, original, base_model)
        (folder / "README.md").write_text(text, encoding="utf-8")
    except Exception as error:
        warnings.warn(f"the model card was not written: {error}", stacklevel=2)


def _card(report: TrimReport, folder: Path, architecture: str, original: Page, base_model: str | None) -> str:
    link = f"[{base_model}](https://huggingface.co/{base_model})" if base_model else "the original"
    rows = [
        ("tokens", report.tokens_before, report.tokens_after),
        ("token table, bytes", report.table_bytes_before, report.table_bytes_after),
        ("whole model, bytes on disk", report.model_bytes_before, report.model_bytes_after),
    ]
    lines = "\n".join(f"| {name} | {before:,} | {after:,} | {before / after:.2f} |" for name, before, after in rows)
    kept = "" if report.kept_share is None else f"It keeps {report.kept_share:.2%} of the tokens of its text. "
    return f"""{metadata(original, base_model, "finetune", ["vocabpress"])}
# {report.source_name}, trimmed

This is {link} without the tokens that some languages do not need, trimmed by
[vocabpress](https://pypi.org/project/vocabpress/). {kept}The rows of its tokens are those of the original;
`kept_ids.json` lists their old ids.

| | original | here | times smaller |
| --- | ---: | ---: | ---: |
{lines}

## Use

It is an ordinary checkpoint, and needs no vocabpress.

```python
{snippet(folder, architecture, report.output)}
```
{below(original.text)}"""
