"""Codes that select words from codebooks: product codes, additive codes, and combinations."""

from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from vocabpress.embeddings.base import ROWS_PER_CHUNK, CompressedEmbedding
from vocabpress.embeddings.configured import Configured
from vocabpress.embeddings.fields import BOOLEAN, FORM, MAX_COLUMNS, ROWS, integer
from vocabpress.packing import MAX_BITS, pack, packed_bytes, unpack


class Codebooks(Configured):
    """A row is ``segments`` pieces side by side, each the sum of ``stages`` words selected by its codes.

    Piece ``j`` of row ``i`` is ``sum_s book[s, j][codes[i, s, j]]``. One stage is a product code (Jegou et al., 2011);
    one segment is an additive or residual code (Chen et al., 2010; Babenko and Lempitsky, 2014). All books together,
    stage by stage, are one table of words in any form: float16 or 8 bits.

    Args:
        num_embeddings: Number of rows.
        words: (books * 2**bits, embedding_dim / segments); books is ``stages``, times ``segments`` if not shared.
        bits: Bits per code, 1 to 8.
        segments: Number of pieces of a row.
        stages: Number of words added up in each piece.
        shared: Whether all segments use the same book in a stage.

    Raises:
        ValueError: If ``words`` does not have as many words as the books need.
    """

    codes: Tensor
    read_whole = ("words",)
    fields: ClassVar = {
        "num_embeddings": ROWS,
        "words": FORM,
        "bits": integer(1, MAX_BITS),
        "segments": integer(1, MAX_COLUMNS),
        "stages": integer(1, MAX_COLUMNS),
        "shared": BOOLEAN,
    }

    def __init__(
        self,
        num_embeddings: int,
        words: CompressedEmbedding,
        bits: int,
        segments: int = 1,
        stages: int = 1,
        shared: bool = False,
    ) -> None:
        super().__init__()
        books = stages if shared else stages * segments
        if min(segments, stages) < 1 or words.num_embeddings != books << bits:
            raise ValueError(
                f"{stages} stages of {segments} {'shared ' if shared else ''}segments with {bits} bits need "
                f"{books << bits} words, got {words.num_embeddings}; make equal"
            )
        self.num_embeddings, self.embedding_dim = num_embeddings, segments * words.embedding_dim
        self.bits, self.segments, self.stages, self.shared = bits, segments, stages, shared
        self.words = words
        self.register_buffer("codes", torch.zeros(num_embeddings, packed_bytes(stages * segments, bits)).byte())

    @classmethod
    def of(cls, codes: Tensor, words: CompressedEmbedding, bits: int, shared: bool = False) -> Self:
        """The form with these codes, shape (num_embeddings, stages, segments)."""
        form = cls(codes.shape[0], words, bits, codes.shape[2], codes.shape[1], shared).to(codes.device)
        form.codes.copy_(pack(codes.flatten(1), bits))
        return form

    def lookup(self, ids: Tensor) -> Tensor:
        codes = unpack(self.codes[ids], self.bits, self.stages * self.segments)
        codes = codes.to(torch.int64).unflatten(-1, (self.stages, self.segments))
        books = torch.arange(self.words.num_embeddings >> self.bits, device=codes.device)
        pieces = nn.functional.embedding(codes + (books.view(self.stages, -1) << self.bits), self.words.dense())
        return pieces.sum(-3).flatten(-2)

    def logits(self, hidden: Tensor) -> Tensor:
        """Compute the inner products of a vector with all words once, and add up those that each row's codes select.

        This is "asymmetric distance computation" (Jegou et al., 2011, section 3.2). No row is decoded. If whole codes
        fill a byte, there is one table per byte instead of one per code.
        """
        dtype = torch.promote_types(hidden.dtype, torch.float32)  # sums of many rounded terms
        pieces = hidden.reshape(-1, self.segments, self.words.embedding_dim).to(dtype)
        books = self.words.dense().to(dtype).view(self.stages, -1, 1 << self.bits, self.words.embedding_dim)
        books = books.expand(-1, self.segments, -1, -1)
        tables = torch.einsum("sjkw,njw->sjkn", books, pieces).flatten(0, 1)
        per_byte = 8 // self.bits if 8 % self.bits == 0 else 1
        tables = byte_tables(tables, per_byte)
        sums = [
            _sums(packed if 8 % self.bits == 0 else unpack(packed, self.bits, self.stages * self.segments), tables)
            for packed in self.codes.split(ROWS_PER_CHUNK)
        ]
        return torch.cat(sums).T.to(hidden.dtype).reshape(*hidden.shape[:-1], self.num_embeddings)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, bits={self.bits}, segments={self.segments}, stages={self.stages}"


def _sums(codes: Tensor, tables: Tensor) -> Tensor:
    """Sum the entries of tables, (places, K, n), selected by codes, (V, places); shape (V, n)."""
    if not tables.shape[2]:  # torch's sum over an empty axis fails in float32
        return tables.new_zeros(len(codes), 0)
    starts = torch.arange(len(tables), device=tables.device) * tables.shape[1]
    return nn.functional.embedding_bag(codes + starts, tables.flatten(0, 1), mode="sum")


def byte_tables(tables: Tensor, count: int) -> Tensor:
    """Join the tables of ``count`` neighbouring codes into one, indexed by the codes read as one number.

    Args:
        tables: (codes, K, n).
        count: Number of neighbours; the first is the lowest digit. Missing codes at the end add zero.

    Returns:
        (ceil(codes / count), K**count, n).
    """
    missing = -len(tables) % count
    first, *others = nn.functional.pad(tables, (0, 0, 0, 0, 0, missing)).unflatten(0, (-1, count)).unbind(1)
    for other in others:
        first = (other[:, :, None] + first[:, None]).flatten(1, 2)
    return first
