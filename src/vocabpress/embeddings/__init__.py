"""The forms in which tables are stored, and how they are read. They need only torch; numba makes reading faster."""

from typing import Any

from vocabpress.embeddings.base import CompressedEmbedding, StorageItem
from vocabpress.embeddings.codebooks import Codebooks
from vocabpress.embeddings.combine import Columns, Sum
from vocabpress.embeddings.dense import Dense
from vocabpress.embeddings.fields import ADVICE, MAX_COLUMNS, MAX_ROWS, check_config
from vocabpress.embeddings.kronecker import Kronecker
from vocabpress.embeddings.projected import Projected
from vocabpress.embeddings.rotated import Rotated
from vocabpress.embeddings.rows import Rows
from vocabpress.embeddings.scalar import Scalar
from vocabpress.embeddings.scaled import Scaled
from vocabpress.embeddings.tiles import Tiles
from vocabpress.embeddings.trellis import Run, Trellis

MAX_EXPANSION = 256  # of these from stored bytes to float32; a trellis at 1/4 bit expands 128 times
ALWAYS_READABLE = 2**26  # bytes in float32 that are never refused

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
    "tiles": Tiles,
    "rotated": Rotated,
    "scaled": Scaled,
}


def build(config: dict[str, Any]) -> CompressedEmbedding:
    """The empty form described by a config, on the current device (``torch.device("meta")`` takes no memory).

    Raises:
        ValueError: If a form is unknown to this version, a field is invalid, or the forms do not fit together.
    """
    check_config(config, {name: form.fields for name, form in EMBEDDINGS.items()})
    return _build(config)


def _build(config: dict[str, Any]) -> CompressedEmbedding:
    form = EMBEDDINGS[config["form"]].from_config(config, _build)
    if form.num_embeddings > MAX_ROWS or form.embedding_dim > MAX_COLUMNS:
        raise ValueError(
            f"a form has at most {MAX_ROWS:,} rows and {MAX_COLUMNS:,} columns, got {form.num_embeddings:,} and "
            f"{form.embedding_dim:,}; {ADVICE}"
        )
    for name in form.read_whole:
        _check_whole(getattr(form, name), "inner entries" if name == "inner" else name)
    return form


def _check_whole(part: CompressedEmbedding, name: str) -> None:
    """Refuse a form that is read whole and expands to far more than its stored bytes, as Kronecker products can."""
    size, stored = 4 * part.num_embeddings * part.embedding_dim, part.total_bits() // 8
    if size > max(ALWAYS_READABLE, MAX_EXPANSION * stored):
        raise ValueError(f"the {name} take {size:,} bytes to read and are stored in {stored:,}; {ADVICE}")


__all__ = [
    "EMBEDDINGS",
    "Codebooks",
    "Columns",
    "CompressedEmbedding",
    "Dense",
    "Kronecker",
    "Projected",
    "Rotated",
    "Rows",
    "Run",
    "Scalar",
    "Scaled",
    "StorageItem",
    "Sum",
    "Tiles",
    "Trellis",
    "build",
]
