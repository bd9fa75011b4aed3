"""Entries as n-bit integers with scales; with one bit, the hash codes of a binary autoencoder."""

from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from vocabpress.embeddings.configured import Configured
from vocabpress.embeddings.fields import COLUMNS, DTYPE, MAX_COLUMNS, NULL, ROWS, either, integer, one_of
from vocabpress.packing import MAX_BITS, pack, packed_bytes, unpack

ScaleAxis = Literal["none", "row", "column", "group"]


class Scalar(Configured):
    """Entry (i, j) is ``level(i, j) * scale``; a code ``c`` of n bits has the level ``2 c / (2**n - 1) - 1``.

    The 2**n levels are evenly spaced from -1 to +1, so a scale is the largest entry that can be represented, with any
    number of bits. With one bit the levels are -1 and +1: a hash code is this form with 1 bit and no scales.

    Args:
        num_embeddings: Number of rows.
        embedding_dim: Number of columns.
        bits: Bits per code, 1 to 8.
        scale_axis: ``"row"``: one scale per row; ``"column"``: one per column; ``"group"``: one per ``group_size``
            neighbours in a row; ``"none"``: all scales are 1.
        group_size: Size of a group for ``"group"``; the last group may be shorter.
        dtype: Dtype of the scales on disk.

    Raises:
        ValueError: If bits, axis or group size is invalid.
    """

    codes: Tensor
    scale_axis: ScaleAxis
    fields: ClassVar = {
        "num_embeddings": ROWS,
        "embedding_dim": COLUMNS,
        "bits": integer(1, MAX_BITS),
        "scale_axis": one_of("none", "row", "column", "group"),
        "group_size": either(integer(1, MAX_COLUMNS), NULL),
        "dtype": DTYPE,
    }

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        bits: int,
        scale_axis: ScaleAxis = "row",
        group_size: int | None = None,
        dtype: torch.dtype = torch.float16,
    ) -> None:
        super().__init__()
        if (scale_axis == "group") != (group_size is not None) or (group_size is not None and group_size < 1):
            raise ValueError(f"only scale_axis 'group' takes a group_size, at least 1; got {scale_axis}, {group_size}")
        self.num_embeddings, self.embedding_dim, self.stored_dtype = num_embeddings, embedding_dim, dtype
        self.bits, self.scale_axis, self.group_size = bits, scale_axis, group_size
        shapes = {
            "row": (num_embeddings, 1),
            "column": (1, embedding_dim),
            "group": (num_embeddings, -(-embedding_dim // (group_size or 1))),
            "none": None,
        }
        if scale_axis not in shapes:
            raise ValueError(f"unknown scale_axis {scale_axis!r}; choose from {list(shapes)}")
        shape = shapes[scale_axis]
        self.scales = None if shape is None else nn.Parameter(torch.zeros(shape))
        self.register_buffer("codes", torch.zeros(num_embeddings, packed_bytes(embedding_dim, bits), dtype=torch.uint8))

    @classmethod
    def of(cls, codes: Tensor, scales: Tensor | None, bits: int, scale_axis: ScaleAxis, **options: Any) -> Self:
        """The form with these codes, shape (num_embeddings, embedding_dim), and scales."""
        form = cls(codes.shape[0], codes.shape[1], bits, scale_axis, **options).to(codes.device)
        form.codes.copy_(pack(codes, bits))
        if form.scales is not None and scales is not None:
            form.scales.data.copy_(scales)
        return form

    def lookup(self, ids: Tensor) -> Tensor:
        codes = unpack(self.codes[ids], self.bits, self.embedding_dim)
        dtype = torch.get_default_dtype() if self.scales is None else self.scales.dtype
        levels = codes.to(dtype) * (2 / (2**self.bits - 1)) - 1
        if self.scales is None:
            return levels
        if self.scale_axis == "column":
            return levels * self.scales[0]
        scales = self.scales[ids]
        if self.group_size is not None:
            scales = scales.repeat_interleave(self.group_size, dim=-1)[..., : self.embedding_dim]
        return levels * scales

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, bits={self.bits}, scale_axis={self.scale_axis}"
