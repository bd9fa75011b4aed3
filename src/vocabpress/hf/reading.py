"""How a loaded model reads its tables: as they are stored, with rows kept decoded, or all of them decoded."""

from typing import Literal

from torch import nn

from vocabpress.budget import Budget
from vocabpress.embeddings import CompressedEmbedding
from vocabpress.embeddings.readers import Distinct, HotRows, Reader, Resident
from vocabpress.hf.modules import CompressedLinear, TokenEmbedding


def read_with(model: nn.Module, *, hot_rows: str | int | None = None, resident: Literal["dense"] | None = None) -> None:
    """Choose how a model reads its compressed tables from now on; nothing that is saved changes.

    Without either, rows are decoded as they are read. Tables that are being trained are read so in any case.

    Args:
        model: One with compressed tables, on any device.
        hot_rows: Keep rows decoded up to so many bytes a table, such as ``"1MB"``: those that are read first, as
            frequent tokens are. 4 bytes for each token of the vocabulary count, too.
        resident: ``"dense"`` keeps tables decoded: the download is small, memory and speed are those of a dense model.

    Raises:
        ValueError: If both are given, or one can't be.

    Example:
        >>> model = AutoModel.from_pretrained("small")
        >>> vocabpress.read_with(model, hot_rows="1MB")
    """
    check_reading(hot_rows, resident)
    readers: dict[CompressedEmbedding, Reader] = {}
    for module in model.modules():
        if isinstance(module, TokenEmbedding | CompressedLinear):
            if module.table not in readers:
                readers[module.table] = _reader(hot_rows, resident)
            module.reader = readers[module.table]


def check_reading(hot_rows: str | int | None, resident: str | None) -> None:
    """Refuse what `read_with` can't do.

    Raises:
        ValueError: If both are given, or one can't be.
    """
    if resident not in (None, "dense"):
        raise ValueError(f"resident is 'dense' or nothing, got {resident!r}")
    if hot_rows is not None and resident is not None:
        raise ValueError("resident keeps all rows decoded, hot_rows some; give one of them")
    if hot_rows is not None:
        Budget.bytes(hot_rows)


def _reader(hot_rows: str | int | None, resident: str | None) -> Reader:
    if resident is not None:
        return Resident()
    return Distinct() if hot_rows is None else HotRows(int(Budget.bytes(hot_rows).amount))
