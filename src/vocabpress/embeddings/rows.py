"""`Rows`: a table divided into blocks of tokens, each with a form of its own."""

from collections.abc import Callable, Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from vocabpress.embeddings.base import ROWS_PER_CHUNK, CompressedEmbedding
from vocabpress.embeddings.combine import forms
from vocabpress.embeddings.configured import Configured
from vocabpress.embeddings.fields import BOOLEAN, FORMS
from vocabpress.packing import pack, packed_bytes, unpack

CHUNK = 128  # tokens of a map that are read to find one token; a multiple of 8, so that chunks begin with a byte


class Rows(Configured):
    """Blocks of tokens, each stored in a form of its own.

    A token's row in its block is its rank among the block's tokens by id. So only a map from token to block is stored,
    ``ceil(log2(blocks))`` bits per token, and no map if the blocks follow one another in the order of ids.

    Args:
        blocks: At least one form; all have the same width.
        mapped: Whether a map from token to block is stored. Without it block 0 has the first ids, and so on.

    Raises:
        ValueError: If there is no block, or the widths differ.
    """

    block_of: Tensor | None
    fields: ClassVar = {"blocks": FORMS, "mapped": BOOLEAN}

    def __init__(self, blocks: Sequence[CompressedEmbedding], mapped: bool = False) -> None:
        super().__init__()
        widths = {block.embedding_dim for block in blocks}
        if len(widths) != 1:
            raise ValueError(f"the blocks of a table must have one width, got {sorted(widths) or 'no block'}")
        (self.embedding_dim,) = widths
        self.num_embeddings = sum(block.num_embeddings for block in blocks)
        self.blocks = nn.ModuleList(blocks)
        # The whole map is packed as one row: a packed row per token would waste up to 7 bits each.
        self.map_bits = max(1, (len(blocks) - 1).bit_length())
        length = packed_bytes(self.num_embeddings, self.map_bits)
        self.register_buffer("block_of", torch.zeros(length, dtype=torch.uint8) if mapped else None)

    @classmethod
    def of(cls, blocks: Sequence[CompressedEmbedding], block_of: Tensor) -> Self:
        """The form in which token ``i`` is in block ``block_of[i]``, shape (num_embeddings).

        Raises:
            ValueError: If a block does not have as many rows as the map gives it tokens.
        """
        counts = torch.bincount(block_of, minlength=len(blocks)).tolist()
        if counts != [block.num_embeddings for block in blocks]:
            raise ValueError(
                f"the map gives the blocks {counts} tokens, they have {[b.num_embeddings for b in blocks]}"
            )
        mapped = bool((block_of.diff() < 0).any())
        form = cls(blocks, mapped).to(block_of.device)
        if form.block_of is not None:
            form.block_of.copy_(pack(block_of, form.map_bits))
        return form

    def check_own_numbers(self, name: str) -> None:
        if self.block_of is not None and not self.block_of.is_meta:
            self.check_map(self.block_of, f"{name}.block_of".lstrip("."))

    def check_map(self, block_of: Tensor, place: str) -> None:
        """Check that a map gives each block as many tokens as it has rows, so that all ranks are valid rows.

        Args:
            block_of: The packed map, as stored.
            place: Name of the tensor, for the message.

        Raises:
            ValueError: If it does not.
        """
        sizes = [block.num_embeddings for block in forms(self.blocks)]
        counts = torch.zeros(1 << self.map_bits, dtype=torch.int64, device=block_of.device)
        remaining = self.num_embeddings
        for piece in block_of.split(ROWS_PER_CHUNK * self.map_bits):  # no code crosses the end of a piece
            count = min(remaining, 8 * ROWS_PER_CHUNK)
            counts += torch.bincount(unpack(piece, self.map_bits, count), minlength=len(counts))
            remaining -= count
        if counts.tolist() != sizes + [0] * (len(counts) - len(sizes)):
            raise ValueError(f"{place} does not give the blocks their {sizes} tokens; the file is broken")

    def _starts(self) -> Tensor:
        """The first row of each block in the concatenation of all blocks; shape (blocks)."""
        sizes = torch.tensor([block.num_embeddings for block in forms(self.blocks)], device=self.device)
        return sizes.cumsum(0) - sizes

    def _mapped_place(self, block_of: Tensor) -> tuple[Tensor, Tensor]:
        """The block of every token, and its row in the concatenation of all blocks; both (num_embeddings)."""
        block = unpack(block_of, self.map_bits, self.num_embeddings).to(torch.int64)
        members = block == torch.arange(len(self.blocks), device=block.device)[:, None]
        counts = members.cumsum(1, dtype=torch.int32).gather(0, block[None])[0]
        return block, self._starts()[block] + counts - 1

    def counted(self, block_of: Tensor) -> Tensor:
        """The number of tokens of each block before every `CHUNK`-th token, (chunks, blocks)."""
        block = unpack(block_of, self.map_bits, self.num_embeddings)
        block = nn.functional.pad(block, (0, -len(block) % CHUNK), value=255).view(-1, CHUNK)
        counts = torch.stack([(block == index).sum(1, dtype=torch.int32) for index in range(len(self.blocks))], 1)
        return counts.cumsum(0, dtype=torch.int32) - counts

    def _mapped_place_of(self, ids: Tensor, block_of: Tensor) -> tuple[Tensor, Tensor]:
        """`_mapped_place` of these tokens, (n) and (n), reading one chunk of the map for each."""
        chunk, inside = ids // CHUNK, ids % CHUNK
        length = CHUNK * self.map_bits // 8
        places = chunk[:, None] * length + torch.arange(length, device=ids.device)
        window = unpack(block_of[places.clamp(max=len(block_of) - 1)], self.map_bits, CHUNK)
        block = window.gather(1, inside[:, None])
        earlier = (window == block) & (torch.arange(CHUNK, device=ids.device) < inside[:, None])
        block = block[:, 0].to(torch.int64)
        return block, self._starts()[block] + self.counted(block_of)[chunk, block] + earlier.sum(1)

    def _find(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The block of each token, and its row in the block; the shape of ``ids``."""
        starts = self._starts()
        if self.block_of is None:
            block, place = (ids[..., None] >= starts[1:]).sum(-1), ids
        elif torch.compiler.is_compiling() or ids.is_meta or ids.numel() * CHUNK > 4 * self.num_embeddings:
            block, place = (of_token[ids] for of_token in self._mapped_place(self.block_of))
        else:
            found = self._mapped_place_of(ids.flatten(), self.block_of)
            block, place = (of_id.view(ids.shape) for of_id in found)
        return block, place - starts[block]

    def lookup(self, ids: Tensor) -> Tensor:
        block, row = self._find(ids)
        if torch.compiler.is_compiling() or ids.is_meta:
            return picked([form.lookup for form in forms(self.blocks)], block, row)
        order = block.flatten().argsort(stable=True)
        counts = torch.bincount(block.flatten(), minlength=len(self.blocks)).tolist()
        rows = row.flatten()[order].split(counts)
        read = torch.cat([form.lookup(of_block) for form, of_block in zip(forms(self.blocks), rows, strict=True)])
        return read[order.argsort()].view(*ids.shape, self.embedding_dim)

    def logits(self, hidden: Tensor) -> Tensor:
        logits = torch.cat([block.logits(hidden) for block in forms(self.blocks)], dim=-1)
        return logits if self.block_of is None else logits[..., self._mapped_place(self.block_of)[1]]


def picked(lookups: Sequence[Callable[[Tensor], Tensor]], block: Tensor, row: Tensor) -> Tensor:
    """Rows by the lookups of blocks: each reads every id, and `where` selects.

    No shape depends on data, so this compiles and exports, and waits for no device. Blocks and rows in them have one
    shape, (*n).
    """
    first, *others = lookups
    result = first(torch.where(block == 0, row, 0))
    for index, lookup in enumerate(others, start=1):
        inside = block == index
        result = torch.where(inside[..., None], lookup(torch.where(inside, row, 0)), result)
    return result
