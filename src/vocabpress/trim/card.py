"""The report of a trim, and the model card rendered from it."""

from dataclasses import dataclass
from pathlib import Path

from vocabpress.hf.page import Page, below, link, metadata, size_table, snippet


@dataclass(frozen=True)
class TrimReport:
    """The sizes before and after a trim. Sizes are bytes of tensors and files.

    Attributes:
        source_name: Name of the model.
        output: The output folder.
        tokens_before: Rows of the original's table.
        tokens_after: Rows of the trimmed table.
        tokens_used: Tokens selected by text or scripts; the tokenizer itself needs the rest of `tokens_after`.
        table_bytes_before: Bytes of the original's table.
        table_bytes_after: Bytes of the trimmed table, in the same dtype.
        model_bytes_before: Bytes of the original's weight files.
        model_bytes_after: Bytes of the trimmed model's weight files.
        same_lines: Fraction of the lines that both tokenizers split alike; None without text.
        kept_share: Fraction of the tokens in the text that still exist, counting repetitions; None without text.
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


def trim_card(report: TrimReport, folder: Path, architecture: str, original: Page, base_model: str | None) -> str:
    """README.md of a trimmed checkpoint.

    Args:
        report: The report of the trim.
        folder: Folder of the complete checkpoint.
        architecture: Class of the model.
        original: Page of the original.
        base_model: Id of the original on the hub, or None if unknown.
    """
    rows = [
        ("tokens", report.tokens_before, report.tokens_after),
        ("token table, bytes", report.table_bytes_before, report.table_bytes_after),
        ("whole model, bytes on disk", report.model_bytes_before, report.model_bytes_after),
    ]
    coverage = "" if report.kept_share is None else f"It covers {report.kept_share:.2%} of the tokens in its text. "
    return f"""{metadata(original, base_model, "finetune", ["vocabpress"])}
# {report.source_name}, trimmed

This is {link(base_model)} without the tokens that some languages do not need, trimmed by
[vocabpress](https://pypi.org/project/vocabpress/). {coverage}The rows of its tokens are those of the original;
`kept_ids.json` lists their ids there.

{size_table("", "original", rows)}

## Use

It is an ordinary checkpoint and does not need vocabpress.

```python
{snippet(folder, architecture, report.output)}
```
{below(original.text)}"""
