"""What one kernel has to know of a table: the pieces that its rows are cut into, each coded in one way.

A leaf is a piece, a trellis one for each of its runs; `Columns` lays pieces side by side, `Rows` has a list of them for
each block. So any expression of these is one list of numbers, which a kernel walks through, and reading a row of it is
one launch, whatever methods stored.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from vocabpress.embeddings.base import CompressedEmbedding
from vocabpress.embeddings.codebooks import Codebooks
from vocabpress.embeddings.combine import Columns, forms
from vocabpress.embeddings.dense import Dense
from vocabpress.embeddings.rows import Rows
from vocabpress.embeddings.scalar import Scalar
from vocabpress.embeddings.trellis import Trellis


class Kind(IntEnum):
    """How a piece is coded."""

    ZERO = 0
    DENSE = 1
    SCALAR = 2
    CODEBOOKS = 3
    TRELLIS = 4


class Piece(NamedTuple):
    """Neighbouring columns of a block; addresses are those of the device, and what a kind has no use for is 0."""

    kind: Kind
    columns: int
    column: int = 0  # the first, in the row of the table
    codes: int = 0  # address of the packed codes
    stride: int = 0  # from one row to the next: bytes of codes, numbers of `DENSE`
    values: int = 0  # address of rows, scales, words, or the one scale of a run
    bits: int = 0  # of a code or a step
    width: int = 1  # columns that share a scale, a code or a step
    groups: int = 0  # SCALAR: scales from one row to the next
    segments: int = 0  # CODEBOOKS
    stages: int = 0
    books: int = 0  # of a stage: 1, or one for each segment
    start: int = 0  # TRELLIS: bits of the row before this run
    row_bits: int = 0
    memory: int = 0


class Cut(NamedTuple):
    """A table as its pieces.

    Attributes:
        records: A line for each piece, its fields in their order; int64, (pieces, fields).
        bounds: Pieces before each block, and all of them; int32, (blocks + 1).
        widest: Columns of the widest piece.
        dtype: Of the rows.
        ones: What the records hold addresses of and the table does not hold itself: scales of forms that have none.
        words: Those of codebooks, and where they are decoded to.
    """

    records: Tensor
    bounds: Tensor
    widest: int
    dtype: torch.dtype
    ones: list[Tensor]
    words: list[tuple[CompressedEmbedding, Tensor]]

    def refresh(self) -> None:
        """Decode the words anew, from the numbers that they are stored as now."""
        for form, decoded in self.words:
            decoded.copy_(form.dense())


class _Found(NamedTuple):
    """What comes up while a form is cut: see `Cut`, and the dtypes of rows."""

    ones: list[Tensor]
    words: list[tuple[CompressedEmbedding, Tensor]]
    dtypes: set[torch.dtype]


class UncutError(Exception):
    """The form is none that is made of pieces."""


def cut(form: CompressedEmbedding) -> Cut | None:
    """The pieces of a form, or None where it is not one of leaves, `Columns` and one `Rows` around them."""
    blocks = forms(form.blocks) if isinstance(form, Rows) else [form]
    found = _Found([], [], set())
    try:
        pieces = [_placed(_pieces(block, found)) for block in blocks]
    except UncutError:
        return None
    if len(found.dtypes) != 1:  # torch would promote
        return None
    (dtype,), counts = found.dtypes, torch.tensor([0, *map(len, pieces)])
    flat = [piece for of_block in pieces for piece in of_block]
    return Cut(
        torch.tensor(flat, dtype=torch.int64, device=form.device),
        counts.cumsum(0, dtype=torch.int32).to(form.device),
        max(piece.columns for piece in flat),
        dtype,
        found.ones,
        found.words,
    )


def _placed(pieces: Sequence[Piece]) -> list[Piece]:
    """The same, each with the column that it begins at."""
    placed, column = [], 0
    for piece in pieces:
        placed.append(piece._replace(column=column))
        column += piece.columns
    return placed


def _pieces(form: CompressedEmbedding, found: _Found) -> list[Piece]:
    """Side by side; adds to what is found.

    Raises:
        UncutError: If the form has no pieces.
    """
    if isinstance(form, Columns):
        parts = [piece for part in forms(form.parts) for piece in _pieces(part, found)]
        rest = form.embedding_dim - sum(form.widths)
        return [*parts, Piece(Kind.ZERO, rest)] if rest else parts
    if isinstance(form, Dense):
        found.dtypes.add(form.rows.dtype)
        return [Piece(Kind.DENSE, form.embedding_dim, stride=form.embedding_dim, values=_address(form.rows))]
    if isinstance(form, Scalar):
        scales = torch.ones(1, device=form.device) if form.scales is None else form.scales
        found.ones.append(scales)
        found.dtypes.add(scales.dtype)
        return [_scalar(form, scales)]
    if isinstance(form, Codebooks):
        words = form.words.dense().contiguous()
        if not isinstance(form.words, Dense) or words is not form.words.rows:
            found.words.append((form.words, words))
        found.dtypes.add(words.dtype)
        return [_codebooks(form, words)]
    if isinstance(form, Trellis):
        found.dtypes.add(form.scales.dtype)
        return _runs(form)
    raise UncutError


def _address(tensor: Tensor) -> int:
    """Of the first number.

    Raises:
        UncutError: If the numbers do not lie one after another.
    """
    if not tensor.is_contiguous():
        raise UncutError
    return tensor.data_ptr()


def _scalar(form: Scalar, scales: Tensor) -> Piece:
    return Piece(
        Kind.SCALAR,
        form.embedding_dim,
        codes=_address(form.codes),
        stride=form.codes.shape[1],
        values=_address(scales),
        bits=form.bits,
        width={"column": 1, "group": form.group_size or 1}.get(form.scale_axis, form.embedding_dim),
        groups=scales.shape[1] if form.scale_axis in ("row", "group") else 0,
    )


def _codebooks(form: Codebooks, words: Tensor) -> Piece:
    return Piece(
        Kind.CODEBOOKS,
        form.embedding_dim,
        codes=_address(form.codes),
        stride=form.codes.shape[1],
        values=words.data_ptr(),
        bits=form.bits,
        width=words.shape[1],
        segments=form.segments,
        stages=form.stages,
        books=1 if form.shared else form.segments,
    )


def _runs(form: Trellis) -> list[Piece]:
    pieces, start, scales = [], 0, _address(form.scales)
    for place, run in enumerate(form.runs):
        piece = Piece(
            Kind.TRELLIS,
            run.columns,
            codes=_address(form.codes),
            stride=form.codes.shape[1],
            values=scales + place * form.scales.itemsize,
            bits=run.bits,
            width=run.width,
            start=start,
            row_bits=form.row_bits,
            memory=form.memory,
        )
        pieces.append(piece if run.bits else Piece(Kind.ZERO, run.columns))
        start += run.columns // run.width * run.bits
    return pieces
