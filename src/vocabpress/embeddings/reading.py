"""Ways of reading a table faster than row by row: each distinct row once, rows kept decoded, or the whole table.

What is kept is derived: no checkpoint holds it, and it is made anew when the table's numbers, dtype or place change.
Rows that are trained are read the plain way, and so are those of a graph that is compiled or exported.
"""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import embedding, linear

from vocabpress.embeddings.base import CompressedEmbedding


class Reader(Protocol):
    """A way of reading; it belongs to one table, which is given at every call."""

    def lookup(self, table: CompressedEmbedding, ids: Tensor) -> Tensor:
        """As the table's own."""
        ...

    def logits(self, table: CompressedEmbedding, hidden: Tensor) -> Tensor:
        """As the table's own."""
        ...


class Distinct:
    """Text repeats itself: each distinct row is decoded once."""

    def lookup(self, table: CompressedEmbedding, ids: Tensor) -> Tensor:
        """As the table's own."""
        if _in_graph(ids) or ids.numel() < 2:
            return table.lookup(ids)
        distinct, place = ids.unique(return_inverse=True)
        return table.lookup(ids) if len(distinct) == ids.numel() else embedding(place, table.lookup(distinct))

    def logits(self, table: CompressedEmbedding, hidden: Tensor) -> Tensor:
        """As the table's own."""
        return table.logits(hidden)


class HotRows(Distinct):
    """Keeps rows decoded until a limit of bytes is full: those that are read first, as frequent tokens are.

    Args:
        limit: Bytes of the rows, and of the list of where they are, 4 bytes for each token of the vocabulary.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._made_of: object = None
        self._slots, self._rows, self._used = torch.empty(0, dtype=torch.int32), torch.empty(0), 0

    def lookup(self, table: CompressedEmbedding, ids: Tensor) -> Tensor:
        """As the table's own."""
        if _in_graph(ids) or _trains(table):
            return super().lookup(table, ids)
        self._follow(table)
        distinct, place = ids.unique(return_inverse=True)
        slots = self._slots[distinct]
        new = slots < 0
        if not bool(new.any()):
            return embedding(slots[place], self._rows)
        decoded = table.lookup(distinct[new]).detach()
        kept = decoded[: len(self._rows) - self._used]
        rows = decoded.new_empty(len(distinct), table.embedding_dim)
        rows[new], rows[~new] = decoded, self._rows[slots[~new]]
        places = torch.arange(self._used, self._used + len(kept), dtype=torch.int32, device=ids.device)
        self._slots[distinct[new][: len(kept)]] = places
        self._rows[self._used : self._used + len(kept)] = kept
        self._used += len(kept)
        return embedding(place, rows)

    def _follow(self, table: CompressedEmbedding) -> None:
        """Forget what was kept of other numbers."""
        state = _state(table)
        if state != self._made_of:
            dtype = table.lookup(torch.zeros(1, dtype=torch.int64, device=table.device)).dtype
            room = max(0, self.limit - 4 * table.num_embeddings) // (table.embedding_dim * dtype.itemsize)
            shape = min(room, table.num_embeddings), table.embedding_dim
            with torch.inference_mode(False):  # what is made in inference mode can't be written to outside of it
                self._rows = torch.empty(shape, dtype=dtype, device=table.device)
                self._slots = torch.full((table.num_embeddings,), -1, dtype=torch.int32, device=table.device)
            self._made_of, self._used = state, 0


class Resident(Distinct):
    """Keeps the whole table decoded: a small file, and the speed and memory of a dense table."""

    def __init__(self) -> None:
        self._made_of: object = None
        self._dense = torch.empty(0)

    def lookup(self, table: CompressedEmbedding, ids: Tensor) -> Tensor:
        """As the table's own."""
        return super().lookup(table, ids) if _trains(table) else embedding(ids, self._table(table))

    def logits(self, table: CompressedEmbedding, hidden: Tensor) -> Tensor:
        """As the table's own."""
        return table.logits(hidden) if _trains(table) else linear(hidden, self._table(table).to(hidden.dtype))

    def _table(self, table: CompressedEmbedding) -> Tensor:
        if torch.compiler.is_compiling():  # a graph holds what was there when it was made
            return self._dense if self._made_of is not None else table.dense().detach()
        state = _state(table)
        if state != self._made_of:
            with torch.inference_mode(False), torch.no_grad():  # nor be used where gradients pass
                self._dense, self._made_of = table.dense(), state
        return self._dense


def _in_graph(ids: Tensor) -> bool:
    """Whether shapes must not depend on data; tensors without numbers have types of their own."""
    return torch.compiler.is_compiling() or ids.is_meta or type(ids) is not Tensor


def _trains(table: CompressedEmbedding) -> bool:
    return torch.is_grad_enabled() and any(parameter.requires_grad for parameter in table.parameters())


def _state(table: CompressedEmbedding) -> object:
    """What changes with the numbers of a table, their dtype or place; writes through `.data` are not seen."""
    tensors = (*table.parameters(), *table.buffers())
    return [(tensor.data_ptr(), tensor.dtype, None if tensor.is_inference() else tensor._version) for tensor in tensors]
