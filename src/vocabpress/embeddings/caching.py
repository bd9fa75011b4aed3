"""Ways of reading a table: as it is stored, with rows kept decoded, or with the whole table kept decoded.

What is kept is derived: no checkpoint and no copy holds it, and it is made anew when the table's numbers, dtype or
place change. Rows that are trained are read the plain way, and so are those of a graph that is compiled or exported: a
graph would hold what was there when it was made. Threads may share a reader.
"""

from threading import Lock
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear

from vocabpress.budget import Budget
from vocabpress.chunks import chunks
from vocabpress.embeddings.base import CompressedEmbedding
from vocabpress.embeddings.dense import Dense
from vocabpress.embeddings.inference import dense, in_graph, logits, lookup, top_logits, trains
from vocabpress.embeddings.kernels.decoders import copied
from vocabpress.embeddings.kernels.maps import read_whole
from vocabpress.embeddings.kernels.watch import Watch
from vocabpress.embeddings.trellis import Trellis

Kept = Literal["dense", "codes"]
"""What of a whole table stays in memory: its decoded rows, or only its codes."""


class Reader:
    """Reads a table as it is stored; it belongs to one table, which is given at every call."""

    def lookup(self, table: CompressedEmbedding, ids: Tensor) -> Tensor:
        """As the table's own."""
        return lookup(table, ids, repeated=True)

    def logits(self, table: CompressedEmbedding, hidden: Tensor) -> Tensor:
        """As the table's own."""
        return logits(table, hidden)

    def top(self, table: CompressedEmbedding, hidden: Tensor, count: int, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """The largest logits and their tokens, as `inference.top_logits` gives them."""
        return top_logits(table, hidden, count, bias)


class _Caching(Reader):
    """What keeps something that follows the table's numbers; copies go without it, in other processes, too."""

    _cached: tuple[Watch, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def _of(self, table: CompressedEmbedding) -> Any:
        """What is kept of this table, as it is now; threads that find nothing each make their own."""
        found = self._cached
        if found is None or not found[0].holds(table):
            self._cached = found = None  # gives the memory back before as much is taken
            # Tensors of inference mode can't be written to outside of it, nor be used where gradients pass.
            with torch.inference_mode(False), torch.no_grad():
                watch = Watch(table, [*copied(table), *table.parameters()], table.buffers())
                self._cached = found = watch, self._make(table)
        return found[1]

    def _make(self, table: CompressedEmbedding) -> Any:
        raise NotImplementedError


class _Hot:
    """Rows that are kept, and where: any number of threads read them, one at a time adds to them.

    Args:
        table: Whose rows they are.
        limit: Bytes of the rows and of the list of where they are.
    """

    def __init__(self, table: CompressedEmbedding, limit: int) -> None:
        dtype = table.dtype
        room = max(0, limit - 4 * table.num_embeddings) // (table.embedding_dim * dtype.itemsize)
        shape = min(room, table.num_embeddings), table.embedding_dim
        self.rows, self.used = torch.empty(shape, dtype=dtype, device=table.device), 0
        self.slots = torch.full((table.num_embeddings,), -1, dtype=torch.int32, device=table.device)
        self._adding = Lock()

    def add(self, tokens: Tensor, rows: Tensor) -> None:
        """Keep rows, (n, d), of distinct tokens, (n), as far as there is room."""
        with self._adding:
            new = self.slots[tokens] < 0  # another thread may have been here since
            tokens, rows = tokens[new], rows[new][: len(self.rows) - self.used]
            end = self.used + len(rows)
            self.rows[self.used : end] = rows
            # Last, so that who finds a slot finds the row.
            self.slots[tokens[: len(rows)]] = torch.arange(self.used, end, dtype=torch.int32, device=rows.device)
            self.used = end


class HotRows(_Caching):
    """Keeps rows decoded until a limit of bytes is full: those that are read first, as frequent tokens are.

    Args:
        limit: Bytes of the rows, and of the list of where they are, 4 bytes for each token of the vocabulary.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def lookup(self, table: CompressedEmbedding, ids: Tensor) -> Tensor:
        """As the table's own."""
        if in_graph(ids) or trains(table):
            return super().lookup(table, ids)
        hot: _Hot = self._of(table)
        given, ids = ids.device, ids.to(hot.slots.device)
        slots = hot.slots[ids]
        if bool((slots >= 0).all()):
            return embedding(slots, hot.rows).to(given)
        distinct, place = ids.unique(return_inverse=True)
        slots = hot.slots[distinct]
        new = slots < 0
        decoded = lookup(table, distinct[new]).detach()
        rows = decoded.new_empty(len(distinct), table.embedding_dim)
        rows[new], rows[~new] = decoded, hot.rows[slots[~new]]
        hot.add(distinct[new], decoded)
        return embedding(place, rows).to(given)

    def _make(self, table: CompressedEmbedding) -> _Hot:
        return _Hot(table, self.limit)


class Resident(_Caching):
    """Keeps the whole table decoded, in the dtype of the model: a small file, the speed and memory of a dense table."""

    def lookup(self, table: CompressedEmbedding, ids: Tensor) -> Tensor:
        """As the table's own."""
        if self._reads_codes(table, ids):
            return super().lookup(table, ids)
        rows: Tensor = self._of(table).rows
        return embedding(ids.to(rows.device), rows).to(ids.device)

    def logits(self, table: CompressedEmbedding, hidden: Tensor) -> Tensor:
        """As the table's own."""
        if self._reads_codes(table, hidden):
            return super().logits(table, hidden)
        rows: Tensor = self._of(table).rows
        return linear(hidden.to(rows.device), rows.to(hidden.dtype)).to(hidden.device)

    def top(self, table: CompressedEmbedding, hidden: Tensor, count: int, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """As the table's own."""
        return super().top(table if self._reads_codes(table, hidden) else self._of(table), hidden, count, bias)

    def _reads_codes(self, table: CompressedEmbedding, values: Tensor) -> bool:
        """Whether decoded rows can't be used; a table that trains would soon differ from them, so they are dropped."""
        training = trains(table)
        if training:
            self._cached = None
        return training or in_graph(values)

    def _make(self, table: CompressedEmbedding) -> Dense:
        with torch.device("meta"):
            form = Dense(table.num_embeddings, table.embedding_dim)
        form.rows = nn.Parameter(_decoded(table), requires_grad=False)
        return form


def _decoded(table: CompressedEmbedding) -> Tensor:
    """All rows, (V, d), by parts, because loops decode in float32; as a whole where a part would take as long."""
    if read_whole(table):
        return dense(table).contiguous()
    ids = torch.arange(table.num_embeddings, device=table.device)
    rows = torch.empty(len(ids), table.embedding_dim, dtype=table.dtype, device=table.device)
    for part in chunks(*rows.shape):
        rows[part] = lookup(table, ids[part])
    return rows


def must_decode(table: CompressedEmbedding) -> bool:
    """Whether logits decode all rows every time: the value of a trellis code depends on those before it."""
    return any(isinstance(part, Trellis) for part in table.modules())


def reader_for(hot_rows: str | int | None = None, resident: Kept | None = None, decoded: bool = False) -> Reader:
    """The way of reading that `read_with` describes; ``decoded`` says whether rows are kept decoded by default.

    Raises:
        ValueError: If both are given, or one can't be.
    """
    if resident not in (None, *get_args(Kept)):
        raise ValueError(f"resident is 'dense', 'codes' or nothing, got {resident!r}")
    if resident is not None and hot_rows is not None:
        raise ValueError("resident is for all rows, hot_rows keeps some decoded; give one of them")
    if hot_rows is not None:
        return HotRows(int(Budget.bytes(hot_rows).amount))
    return Resident() if resident == "dense" or (resident is None and decoded) else Reader()
