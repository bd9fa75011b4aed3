"""The modules that stand in a model where an embedding, its tied head and linear maps stood."""

from typing import Any

import torch
from torch import Tensor, nn

from vocabpress.embeddings import CompressedEmbedding


def _refer(module: nn.Module, table: CompressedEmbedding) -> None:
    """Let ``module.table`` be the table without registering it: no key in the state dict, no second copy on `.to()`."""
    object.__setattr__(module, "table", table)


def _exchange(module: "TokenEmbedding | CompressedLinear", table: CompressedEmbedding) -> None:
    """Another table for a module that owns its table or refers to one."""
    if "table" in dict(module.named_children()):
        module.table = table
    else:
        _refer(module, table)


class TokenEmbedding(nn.Module):
    """Stands for an `nn.Embedding`: reads rows from a compressed table.

    It keeps what the model around it relies on: `padding_idx`, the factor `embed_scale` of scaled embeddings, and
    `weight`, which rebuilds the dense table for the few models that look at it. Not a subclass of `nn.Embedding`:
    transformers initialises, resizes and ties those by their `weight` parameter, which is not here.

    Args:
        table: The compressed table.
        original: The embedding to stand for.
        owner: Whether the table's tensors belong to this module; if not, it only refers to them.

    Raises:
        ValueError: If the original does more than look up, scale and pad.
    """

    table: CompressedEmbedding

    def __init__(self, table: CompressedEmbedding, original: nn.Module, owner: bool = True) -> None:
        super().__init__()
        plain = type(original).forward is nn.Embedding.forward
        if (not plain and not hasattr(original, "embed_scale")) or getattr(original, "max_norm", None) is not None:
            raise ValueError(
                f"the embedding class {type(original).__name__} does more than look up and scale rows, and its result "
                "would change; this model can't be compressed yet"
            )
        self.num_embeddings, self.embedding_dim = table.num_embeddings, table.embedding_dim
        self.padding_idx: int | None = getattr(original, "padding_idx", None)
        scale: Any = getattr(original, "scalar_embed_scale", getattr(original, "embed_scale", None))
        self.embed_scale = None if scale is None else float(scale)
        # Gemma and kin round the scale to the model's dtype before they multiply, BART and kin don't.
        self.rounds_scale = isinstance(getattr(original, "embed_scale", None), Tensor)
        if owner:
            self.table = table
        else:
            _refer(self, table)

    def read(self, table: CompressedEmbedding) -> None:
        """Go on with another table of the same width."""
        _exchange(self, table)
        self.num_embeddings = table.num_embeddings

    def forward(self, ids: Tensor) -> Tensor:
        """Rows, scaled; shape (*ids.shape, embedding_dim)."""
        rows = self.table.lookup(ids)
        if self.embed_scale is None:
            return rows
        if self.rounds_scale:
            return rows * torch.full((), self.embed_scale, dtype=rows.dtype, device=rows.device)
        return rows * self.embed_scale

    @property
    def weight(self) -> Tensor:
        """The dense table, unscaled as in the original; rebuilt at every access."""
        return self.table.dense()

    def extra_repr(self) -> str:
        """Shape and what was kept."""
        return f"{self.num_embeddings}, {self.embedding_dim}, padding_idx={self.padding_idx}"


class CompressedLinear(nn.Module):
    """Stands for an `nn.Linear`: its weight is a compressed table, and ``table.logits`` is its forward pass.

    Args:
        table: Of shape (out_features, in_features).
        bias: Shape (out_features), or None.
        owner: Whether the table's tensors belong to this module; if not, it only refers to them.
    """

    table: CompressedEmbedding

    def __init__(self, table: CompressedEmbedding, bias: nn.Parameter | None = None, owner: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features = table.embedding_dim, table.num_embeddings
        self.bias = bias
        if owner:
            self.table = table
        else:
            _refer(self, table)

    def read(self, table: CompressedEmbedding) -> None:
        """Go on with another table of the same width; the bias is the caller's."""
        _exchange(self, table)
        self.out_features = table.num_embeddings

    def forward(self, hidden: Tensor) -> Tensor:
        """``hidden @ weight.T + bias``, shape (*hidden.shape[:-1], out_features); the weight is never built."""
        outputs = self.table.logits(hidden)
        return outputs if self.bias is None else outputs + self.bias

    @property
    def weight(self) -> Tensor:
        """The dense weight; rebuilt at every access."""
        return self.table.dense()

    def extra_repr(self) -> str:
        """Shape, as `nn.Linear` says it."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class TiedHead(CompressedLinear):
    """Stands for the `nn.Linear` of an output head tied to the input table. It has no tensor but its own bias.

    Args:
        table: The compressed table, which belongs to another module.
        bias: The head's own bias, shape (num_embeddings), or None.
    """

    def __init__(self, table: CompressedEmbedding, bias: nn.Parameter | None = None) -> None:
        super().__init__(table, bias, owner=False)


def owned_tables(model: nn.Module) -> dict[str, CompressedEmbedding]:
    """Each compressed table in a model, of an embedding or a linear map, by the name of the module that owns it."""
    readers = {
        name: module for name, module in model.named_modules() if isinstance(module, TokenEmbedding | CompressedLinear)
    }
    return {name: module.table for name, module in readers.items() if "table" in dict(module.named_children())}
