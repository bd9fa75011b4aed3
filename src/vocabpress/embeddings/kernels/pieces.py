"""What one loop or kernel has to know of a table: the pieces that its rows are cut into, each coded in one way.

A leaf is a piece, a trellis one for each of its runs; `Columns` lays pieces side by side, `Rows` has a list of them for
each block. So any expression of these is one list of numbers, which a loop on the processor or a kernel on a GPU walks
through, and reading a row of it is one call, whatever methods stored.
"""

from collections.abc import Callable
from enum import IntEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vocabpress.embeddings import Codebooks, Columns, CompressedEmbedding, Dense, Rows, Scalar, Trellis
from vocabpress.embeddings.combine import forms


class Kind(IntEnum):
    """How a piece is coded."""

    ZERO = 0
    DENSE = 1
    SCALAR = 2
    CODEBOOKS = 3
    TRELLIS = 4


class Piece(NamedTuple):
    """Neighbouring columns of a block; addresses are those of a `Memory`, and what a kind has no use for is 0."""

    kind: Kind
    column: int  # the first, in the row of the table
    columns: int
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
    states: int = 0  # address of the words of all states, where they are not computed


class UncutError(Exception):
    """The form is none that is made of pieces, or its numbers do not lie as a reader wants them."""


class Memory:
    """Where the numbers of forms lie, for a reader that takes them as they are; it must live as long as its addresses.

    Numbers that do not lie as they are wanted raise `UncutError`.
    """

    def __init__(self) -> None:
        self.dtypes: set[torch.dtype] = set()
        self._kept: list[Any] = []
        self._words: list[tuple[CompressedEmbedding, Tensor]] = []

    def codes(self, codes: Tensor) -> int:
        """Address of packed codes."""
        if not codes.is_contiguous():
            raise UncutError
        self._kept.append(codes.detach())
        return codes.data_ptr()

    def numbers(self, tensor: Tensor) -> int:
        """Address of floats, which may be copied."""
        self.dtypes.add(tensor.dtype)
        return self.codes(tensor)

    def rows(self, form: Dense) -> int:
        """Address of the rows themselves."""
        return self.numbers(form.rows)

    def words(self, form: Codebooks) -> int:
        """Address of decoded words."""
        words = form.words.dense().contiguous()
        if not isinstance(form.words, Dense) or words is not form.words.rows:
            self._words.append((form.words, words))
        return self.numbers(words)

    def states(self, form: Trellis, width: int) -> int:
        """Address of what the states of a trellis stand for; 0 where that is computed."""
        return 0

    def refresh(self) -> None:
        """Decode words from the numbers that they are stored as now."""
        for form, decoded in self._words:
            decoded.copy_(form.dense())


def cut(form: CompressedEmbedding, memory: Memory) -> tuple[list[Piece], list[int]]:
    """The pieces of a form's blocks, block after block, and how many come before each block, and at the end.

    Raises:
        UncutError: If the form is not one of leaves, `Columns` and one `Rows` around them.
    """
    pieces, bounds = list[Piece](), [0]
    for block in forms(form.blocks) if type(form) is Rows else [form]:
        pieces += _side_by_side(block, 0, memory)
        bounds.append(len(pieces))
    return pieces, bounds


def _side_by_side(form: CompressedEmbedding, column: int, memory: Memory) -> list[Piece]:
    """The pieces of a row of a form that begins at a column."""
    if type(form) is not Columns:
        make = LEAVES.get(type(form))
        if make is None:
            raise UncutError
        return make(form, column, memory)
    pieces, end = list[Piece](), column + form.embedding_dim
    for part, width in zip(forms(form.parts), form.widths, strict=True):
        pieces += _side_by_side(part, column, memory)
        column += width
    return [*pieces, Piece(Kind.ZERO, column, end - column)] if column < end else pieces


def _dense(form: Dense, column: int, memory: Memory) -> list[Piece]:
    size = form.embedding_dim
    return [Piece(Kind.DENSE, column, size, stride=size, values=memory.rows(form))]


def _scalar(form: Scalar, column: int, memory: Memory) -> list[Piece]:
    scales = torch.ones(1, device=form.device) if form.scales is None else form.scales
    piece = Piece(
        Kind.SCALAR,
        column,
        form.embedding_dim,
        codes=memory.codes(form.codes),
        stride=form.codes.shape[1],
        values=memory.numbers(scales),
        bits=form.bits,
        width={"column": 1, "group": form.group_size or 1}.get(form.scale_axis, form.embedding_dim),
        groups=scales.shape[1] if form.scale_axis in ("row", "group") else 0,
    )
    return [piece]


def _codebooks(form: Codebooks, column: int, memory: Memory) -> list[Piece]:
    piece = Piece(
        Kind.CODEBOOKS,
        column,
        form.embedding_dim,
        codes=memory.codes(form.codes),
        stride=form.codes.shape[1],
        values=memory.words(form),
        bits=form.bits,
        width=form.words.embedding_dim,
        segments=form.segments,
        stages=form.stages,
        books=1 if form.shared else form.segments,
    )
    return [piece]


def _trellis(form: Trellis, column: int, memory: Memory) -> list[Piece]:
    pieces, start, codes = list[Piece](), 0, memory.codes(form.codes)
    for run, scale in zip(form.runs, form.scales.detach(), strict=True):
        piece = Piece(
            Kind.TRELLIS,
            column,
            run.columns,
            codes=codes,
            stride=form.codes.shape[1],
            values=memory.numbers(scale),
            bits=run.bits,
            width=run.width,
            start=start,
            row_bits=form.row_bits,
            memory=form.memory,
            states=memory.states(form, run.width),
        )
        pieces.append(piece if run.bits else Piece(Kind.ZERO, column, run.columns))
        start, column = start + run.columns // run.width * run.bits, column + run.columns
    return pieces


LEAVES: dict[type[CompressedEmbedding], Callable[[Any, int, Memory], list[Piece]]] = {
    Dense: _dense,
    Scalar: _scalar,
    Codebooks: _codebooks,
    Trellis: _trellis,
}
