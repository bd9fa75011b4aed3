"""Read uniform codes by onnxruntime's operator ``GatherBlockQuantized``, which gathers and decodes in one step.

The operator computes ``step * (code - 2**(bits - 1))``. The levels of :class:`Scalar` are symmetric around zero:
``step * (code - (2**bits - 1) / 2)`` with ``step = 2 * scale / (2**bits - 1)``. The difference is half a step, the same
for all entries of a block, and it is added afterwards. The result is exact except for float32 rounding.

Only lookups use the operator. Heads and bases need all rows, and use standard operators: a runtime evaluates those once
when it loads the file, but this operator in every run.
"""

import torch
from torch import Tensor, nn

from vocabpress.embeddings import CompressedEmbedding, Scalar
from vocabpress.export.onnx import RUNTIME_DOMAIN
from vocabpress.hf.modules import CompressedLinear, TokenEmbedding
from vocabpress.packing import unpack

OPERATOR = f"{RUNTIME_DOMAIN}::GatherBlockQuantized"
GATHER_BITS = (4, 8)
SMALLEST_BLOCK = 16


def gather_uniform(model: nn.Module) -> None:
    """Make each table of uniform codes use the runtime's operator, in place, if the operator supports it."""
    gathered: dict[CompressedEmbedding, GatheredScalar] = {}

    def swapped(form: CompressedEmbedding) -> CompressedEmbedding:
        if type(form) is Scalar and _block_size(form) is not None and form not in gathered:
            gathered[form] = GatheredScalar(form)
        return gathered.get(form, form)

    for module in list(model.modules()):
        if isinstance(module, TokenEmbedding | CompressedLinear):  # may refer to a table of another module
            module.read(swapped(module.table))
        else:
            for name, child in list(module.named_children()):
                if isinstance(child, CompressedEmbedding):
                    setattr(module, name, swapped(child))


class GatheredScalar(Scalar):
    """A :class:`Scalar` whose rows an ONNX graph reads by one operator of the runtime.

    Args:
        form: A form of 4 or 8 bits, with one scale per row, or per group whose size is a power of two, at least 16.

    Raises:
        ValueError: If the operator does not support the form.
    """

    scales: nn.Parameter

    def __init__(self, form: Scalar) -> None:
        size = _block_size(form)
        if size is None or form.scales is None:
            raise ValueError(f"onnxruntime has no operator that gathers {form!r}")
        super().__init__(form.num_embeddings, form.embedding_dim, form.bits, form.scale_axis, form.group_size)
        self.codes, self.scales, self.block_size = form.codes, form.scales, size

    def lookup(self, ids: Tensor) -> Tensor:
        half = self.scales[ids] / (2**self.bits - 1)  # half a step, for each block
        if self.group_size is not None:
            half = half.repeat_interleave(self.group_size, dim=-1)[..., : self.embedding_dim]
        return self._gathered(ids, half) + half

    def _gathered(self, ids: Tensor, half: Tensor) -> Tensor:
        """The result of the operator; computed by torch outside an export."""
        if torch.onnx.is_in_onnx_export():
            return torch.onnx.ops.symbolic(
                OPERATOR,
                (self.codes, ids, self.scales * (2 / (2**self.bits - 1))),
                {"bits": self.bits, "block_size": self.block_size, "gather_axis": 0, "quantize_axis": 1},
                dtype=self.scales.dtype,
                shape=(*ids.shape, self.embedding_dim),
                version=1,
            )
        codes = unpack(self.codes[ids], self.bits, self.embedding_dim).to(self.scales.dtype)
        return (codes - 2 ** (self.bits - 1)) * (2 * half)

    def dense(self) -> Tensor:
        return super().lookup(torch.arange(self.num_embeddings, device=self.device))

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden @ self.dense().to(hidden.dtype).T


def _block_size(form: Scalar) -> int | None:
    """The operator's block size, the entries that share a scale; None if it does not support the form."""
    if form.bits not in GATHER_BITS or form.embedding_dim * form.bits % 8:
        return None
    if form.scale_axis == "row":  # one block that is at least as long as the row
        return max(SMALLEST_BLOCK, 1 << (form.embedding_dim - 1).bit_length())
    size = form.group_size or 0
    return size if size >= SMALLEST_BLOCK and size & (size - 1) == 0 else None
