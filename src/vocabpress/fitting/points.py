"""Pieces of a table's rows as points for codebooks."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vocabpress.fitting.shards import Combine, Value, added
from vocabpress.fitting.table import Table, draw

PointsPart = Callable[[slice, Tensor, Tensor], Value]
"""(places of the rows, their points (books, n, width), the weight of each point (n)) -> a value."""


@dataclass(frozen=True)
class Points:
    """Rows (V, segments * width) cut into segments, as points of one ``shared`` book, or of a book a segment."""

    table: Table
    segments: int
    shared: bool = False

    @classmethod
    def of(cls, points: "Points | Tensor") -> "Points":
        """Points from a tensor (books, n, width)."""
        if isinstance(points, Points):
            return points
        return cls(Table.of(points.transpose(0, 1).flatten(1)), len(points))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Books, points of each, and their width."""
        rows, width = self.table.shape
        pieces = self.segments if self.shared else 1
        return self.segments // pieces, rows * pieces, width // self.segments

    def fold(self, weights: Tensor, part: PointsPart, combine: Combine) -> Value:
        """As `Table.fold`, over points, with the weights of the rows, (V)."""
        return self.table.fold(lambda places, rows: part(places, *self.split(rows, weights[places])), combine)

    def sum(self, weights: Tensor, part: PointsPart) -> Value:
        """As `Table.sum`, over points, with the weights of the rows, (V)."""
        return self.fold(weights, part, added)

    def split(self, rows: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Points of rows, (books, n, width), and the weight of each, (n)."""
        return pieces_of(rows, self.segments, weights, self.shared)

    def joined(self, points: Tensor) -> Tensor:
        """The rows, (n, segments * width), that `split` cuts into these points."""
        pieces = points.reshape(self.segments, -1, points.shape[2])
        return pieces.transpose(0, 1).flatten(1)

    def sample(self, some: int, weights: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """At most ``some`` random points of each book, (books, n, width), and their weights, (n)."""
        drawn, rows = draw(self.shape[1], some, generator), len(self.table)
        found, shares = self.table.gather(drawn % rows), weights[drawn % rows]
        pieces = found.unflatten(1, (self.segments, -1))
        if not self.shared:
            return pieces.transpose(0, 1), shares
        return pieces[torch.arange(len(drawn), device=drawn.device), drawn // rows][None], shares

    def segment(self, number: int) -> "Points":
        """The points of one book alone."""
        if self.shared:
            return self
        width = self.shape[2]
        return Points(self.table.columns(slice(number * width, (number + 1) * width)), 1)


def pieces_of(rows: Tensor, segments: int, weights: Tensor, shared: bool) -> tuple[Tensor, Tensor]:
    """Rows (n, segments * width) as points (books, n, width), and their weights; a shared book has all pieces."""
    points = rows.unflatten(1, (segments, -1)).transpose(0, 1)
    return (points.flatten(0, 1)[None], weights.repeat(segments)) if shared else (points.contiguous(), weights)
