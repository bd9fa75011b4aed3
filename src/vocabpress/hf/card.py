"""The model card of a compressed checkpoint: the original's metadata, and the numbers."""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.utils import validate_repo_id

from vocabpress.hf.outcome import Report

KEPT = ("language", "license", "pipeline_tag", "datasets", "library_name")


def card(report: Report, source: Path, model: str) -> str:
    """README.md of the output folder.

    Args:
        report: What was done and what it cost.
        source: Folder of the original.
        model: What the user called it: a hub id or a folder.
    """
    metadata = _metadata(source / "README.md")
    data = ModelCardData(
        base_model=model if _is_hub_id(model) else None,
        base_model_relation="quantized" if _is_hub_id(model) else None,
        tags=sorted({*metadata.get("tags", []), "vocabpress"}),
        **{key: metadata[key] for key in KEPT if key in metadata},
    )
    load = (
        'from sentence_transformers import SentenceTransformer\nmodel = SentenceTransformer("THIS_FOLDER")'
        if (source / "modules.json").is_file()
        else f"from transformers import {report.architecture}\n"
        f'model = {report.architecture}.from_pretrained("THIS_FOLDER")'
    )
    return f"""---
{data.to_yaml()}
---

# {report.source_name}, its vocabulary table pressed {report.ratio_to_float32:.1f} times

The token table of {report.source_name} ({report.num_embeddings:,} x {report.embedding_dim}), stored by
vocabpress with the method `{report.method}`. {_linears(report)}{_rest(report)}

| | before | after |
|---|---|---|
| token table, bytes | {report.table_bytes_before:,} ({report.dtype}) | {report.table_bytes_after:,} |
{_linear_rows(report)}| whole model, bytes on disk | {report.model_bytes_before:,} | {report.model_bytes_after:,} |

| of the token table | |
|---|---|
| ratio to float32 | {report.ratio_to_float32:.2f} |
| ratio to the {report.dtype} that the original stores | {report.ratio_to_stored:.2f} |
| bits per weight, everything counted | {report.bits_per_weight:.4f} |
| relative error of the rows | {report.relative_error:.4f} |
| mean cosine of the rows | {report.mean_cosine:.4f} |

## Use

```python
import vocabpress  # registers the format with transformers
{load}
```

{_back(report)}Without the import, transformers refuses to load the checkpoint.
"""


def _linears(report: Report) -> str:
    """A sentence on the linear maps, if any were compressed."""
    if not report.linears:
        return ""
    told = ", ".join(f"{part.role} ({part.maps}, left factors {part.shape})" for part in report.linears)
    return f"Linear maps are stored as Kronecker products: {told}. "


def _rest(report: Report) -> str:
    """A sentence on all other weights."""
    return "All other weights are unchanged." if report.body is None else f"The body is quantised by {report.body}."


def _back(report: Report) -> str:
    """A sentence on the way back; not every library that quantises bodies has one."""
    return "`model.dequantize()` gives an ordinary model. " if report.body is None else ""


def _linear_rows(report: Report) -> str:
    return "".join(
        f"| linear maps of {part.role}, bytes | {part.bytes_before:,} | {part.bytes_after:,} |\n"
        for part in report.linears
    )


def _metadata(page: Path) -> dict[str, Any]:
    """The metadata of a model card; empty where there is none that can be read, which is no reason to fail."""
    try:
        return ModelCard.load(page, ignore_metadata_errors=True).data.to_dict() if page.is_file() else {}
    except ValueError:
        return {}


def _is_hub_id(model: str) -> bool:
    if Path(model).is_dir():
        return False
    validate_repo_id(model)
    return True
