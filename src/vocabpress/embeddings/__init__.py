"""What is stored, and how it is read back. Needs torch alone; numba, where it is there, reads faster."""

from typing import Any

from vocabpress.embeddings.base import CompressedEmbedding, StorageItem
from vocabpress.embeddings.codebooks import Codebooks
from vocabpress.embeddings.combine import Columns, Sum
from vocabpress.embeddings.dense import Dense
from vocabpress.embeddings.kronecker import Kronecker
from vocabpress.embeddings.projected import Projected
from vocabpress.embeddings.rows import Rows
from vocabpress.embeddings.scalar import Scalar
from vocabpress.embeddings.trellis import Run, Trellis

EMBEDDINGS: dict[str, type[CompressedEmbedding]] = {
    "dense": Dense,
    "scalar": Scalar,
    "codebooks": Codebooks,
    "kronecker": Kronecker,
    "trellis": Trellis,
    "projected": Projected,
    "sum": Sum,
    "columns": Columns,
    "rows": Rows,
}


def build(config: dict[str, Any]) -> CompressedEmbedding:
    """The empty form that a config describes, on the current device (``torch.device("meta")`` takes no memory).

    Raises:
        ValueError: If the config names a form that this version does not know.
    """
    form = config.get("form")
    if form not in EMBEDDINGS:
        raise ValueError(f"unknown form {form!r}; this version reads {list(EMBEDDINGS)}; try a newer vocabpress")
    return EMBEDDINGS[form].from_config(config, build)


__all__ = [
    "EMBEDDINGS",
    "Codebooks",
    "Columns",
    "CompressedEmbedding",
    "Dense",
    "Kronecker",
    "Projected",
    "Rows",
    "Run",
    "Scalar",
    "StorageItem",
    "Sum",
    "Trellis",
    "build",
]
