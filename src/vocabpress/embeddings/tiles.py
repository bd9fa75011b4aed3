"""A matrix cut into tiles, each of them a row of another form: codes that run over a piece of both sides."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import embedding

from vocabpress.embeddings.base import CompressedEmbedding
from vocabpress.embeddings.configured import Configured
from vocabpress.embeddings.fields import FORM, MAX_COLUMNS, MAX_ROWS, integer

MAX_SIDE = 256  # of a tile


class Tiles(Configured):
    """Entry (i, j) is an entry of the tile that it lies in; a tile is a row of ``inner``.

    Tiles follow one another from left to right, then from top to bottom, and so do the entries in a tile. The last
    tiles may stick out at the right and at the bottom. Codes that depend on those before them, as those of a
    ``Trellis`` do, then have rows of one length in a matrix of any shape, as in QTIP (Tseng et al., NeurIPS 2024).

    Args:
        inner: A row for each tile, (ceil(num_embeddings / rows) * ceil(embedding_dim / columns), rows * columns).
        num_embeddings: Rows of the matrix.
        embedding_dim: Columns of the matrix.
        rows: Rows of a tile.
        columns: Columns of a tile.

    Raises:
        ValueError: If a side is out of range, or ``inner`` has another shape.
    """

    read_whole = ("inner",)
    fields: ClassVar = {
        "inner": FORM,
        "num_embeddings": integer(1, MAX_ROWS),
        "embedding_dim": integer(1, MAX_COLUMNS),
        "rows": integer(1, MAX_SIDE),
        "columns": integer(1, MAX_SIDE),
    }

    def __init__(
        self, inner: CompressedEmbedding, num_embeddings: int, embedding_dim: int, rows: int = 16, columns: int = 16
    ) -> None:
        super().__init__()
        if min(num_embeddings, embedding_dim, rows, columns) < 1 or max(rows, columns) > MAX_SIDE:
            raise ValueError(
                f"a matrix has sides from 1, and its tiles from 1 to {MAX_SIDE}; got {num_embeddings} x "
                f"{embedding_dim} in tiles of {rows} x {columns}"
            )
        shape = tiles_of(num_embeddings, embedding_dim, rows, columns), rows * columns
        if (inner.num_embeddings, inner.embedding_dim) != shape:
            raise ValueError(
                f"a matrix of {num_embeddings} x {embedding_dim} in tiles of {rows} x {columns} needs a form of the "
                f"shape {shape}, got {(inner.num_embeddings, inner.embedding_dim)}"
            )
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.rows, self.columns, self.across = rows, columns, -(-embedding_dim // columns)
        self.inner = inner

    @property
    def dtype(self) -> torch.dtype:
        return self.inner.dtype

    def lookup(self, ids: Tensor) -> Tensor:
        if not torch.compiler.is_compiling() and ids.numel() * self.rows > self.num_embeddings:
            return embedding(ids, self.dense())
        first = ids[..., None] // self.rows * self.across
        tiles = self.inner.lookup(first + torch.arange(self.across, device=ids.device))
        tiles = tiles.unflatten(-1, (self.rows, self.columns))  # (*ids.shape, across, rows, columns)
        place = (ids % self.rows).long()[..., None, None, None].expand(*ids.shape, self.across, 1, self.columns)
        return tiles.gather(-2, place).flatten(-3)[..., : self.embedding_dim]

    def dense(self) -> Tensor:
        down = -(-self.num_embeddings // self.rows)
        grid = self.inner.dense().reshape(down, self.across, self.rows, self.columns).transpose(1, 2)
        return grid.reshape(down * self.rows, -1)[: self.num_embeddings, : self.embedding_dim]

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden @ self.dense().to(hidden.dtype).T

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, tiles of {self.rows} x {self.columns}"


def tiles_of(num_embeddings: int, embedding_dim: int, rows: int, columns: int) -> int:
    """How many tiles cover a matrix."""
    return -(-num_embeddings // rows) * -(-embedding_dim // columns)
