"""Ways of reading a table: each distinct row once, rows kept decoded, or the whole table.

What is kept is derived: no checkpoint and no copy holds it, and it is made anew when the table's numbers, dtype or
place change. Rows that are trained are read the plain way, and so are those of a graph that is compiled or exported.
"""

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import embedding, linear

from vocabpress.embeddings.base import CompressedEmbedding
from vocabpress.embeddings.kernels.watch import Watch
from vocabpress.embeddings.reading import in_graph, logits, lookup, trains

MANY = 64  # ids among which it pays to look for equal ones


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
        if in_graph(ids) or ids.numel() < MANY:
            return lookup(table, ids)
        distinct, place = ids.unique(return_inverse=True)
        return lookup(table, ids) if len(distinct) == ids.numel() else embedding(place, lookup(table, distinct))

    def logits(self, table: CompressedEmbedding, hidden: Tensor) -> Tensor:
        """As the table's own."""
        return logits(table, hidden)


class _Keeping(Distinct):
    """What keeps something that follows the table's numbers; copies go without it, in other processes, too."""

    _watch: Watch | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def _follow(self, table: CompressedEmbedding) -> None:
        """Keep what is of this table, as it is now."""
        if self._watch is None or not self._watch.holds(table):
            # Tensors of inference mode can't be written to outside of it, nor be used where gradients pass.
            with torch.inference_mode(False), torch.no_grad():
                self._keep(table)
            self._watch = Watch(table)

    def _keep(self, table: CompressedEmbedding) -> None:
        raise NotImplementedError


class HotRows(_Keeping):
    """Keeps rows decoded until a limit of bytes is full: those that are read first, as frequent tokens are.

    Args:
        limit: Bytes of the rows, and of the list of where they are, 4 bytes for each token of the vocabulary.
    """

    _slots: Tensor
    _rows: Tensor
    _used: int

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def lookup(self, table: CompressedEmbedding, ids: Tensor) -> Tensor:
        """As the table's own."""
        if in_graph(ids) or trains(table):
            return super().lookup(table, ids)
        self._follow(table)
        slots = self._slots[ids]
        return embedding(slots, self._rows) if bool((slots >= 0).all()) else self._read_and_keep(table, ids)

    def _read_and_keep(self, table: CompressedEmbedding, ids: Tensor) -> Tensor:
        distinct, place = ids.unique(return_inverse=True)
        slots = self._slots[distinct]
        new = slots < 0
        decoded = lookup(table, distinct[new]).detach()
        kept = decoded[: len(self._rows) - self._used]
        rows = decoded.new_empty(len(distinct), table.embedding_dim)
        rows[new], rows[~new] = decoded, self._rows[slots[~new]]
        places = torch.arange(self._used, self._used + len(kept), dtype=torch.int32, device=ids.device)
        self._slots[distinct[new][: len(kept)]] = places
        self._rows[self._used : self._used + len(kept)] = kept
        self._used += len(kept)
        return embedding(place, rows)

    def _keep(self, table: CompressedEmbedding) -> None:
        dtype = table.lookup(torch.zeros(1, dtype=torch.int64, device=table.device)).dtype
        room = max(0, self.limit - 4 * table.num_embeddings) // (table.embedding_dim * dtype.itemsize)
        shape = min(room, table.num_embeddings), table.embedding_dim
        self._rows, self._used = torch.empty(shape, dtype=dtype, device=table.device), 0
        self._slots = torch.full((table.num_embeddings,), -1, dtype=torch.int32, device=table.device)


class Resident(_Keeping):
    """Keeps the whole table decoded: a small file, and the speed and memory of a dense table."""

    _dense: Tensor

    def lookup(self, table: CompressedEmbedding, ids: Tensor) -> Tensor:
        """As the table's own."""
        return super().lookup(table, ids) if trains(table) else embedding(ids, self._table(table))

    def logits(self, table: CompressedEmbedding, hidden: Tensor) -> Tensor:
        """As the table's own."""
        return table.logits(hidden) if trains(table) else linear(hidden, self._table(table).to(hidden.dtype))

    def _table(self, table: CompressedEmbedding) -> Tensor:
        if torch.compiler.is_compiling():  # a graph holds what was there when it was made
            return table.dense().detach() if self._watch is None else self._dense
        self._follow(table)
        return self._dense

    def _keep(self, table: CompressedEmbedding) -> None:
        self._dense = lookup(table, torch.arange(table.num_embeddings, device=table.device))
