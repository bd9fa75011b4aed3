"""The modules that stand in a model where an embedding, its tied head and linear maps stood."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vocabpress.embeddings import CompressedEmbedding
from vocabpress.embeddings.caching import Kept, Reader, must_decode, reader_for
from vocabpress.hf.states import ReadsTable

ADDITIONS = ("embed_norm", "additional_embedding", "eoi_embedding")
"""What embeddings of transformers have besides their weight: a norm of the rows (Inkling, Muse Spark), rows for more
tokens (Idefics), a row of its own for the end of an image (T5Gemma 2)."""


class TokenEmbedding(ReadsTable):
    """Stands for an `nn.Embedding`: reads rows from a compressed table.

    It keeps what the model around it relies on: `padding_idx`, `weight`, which rebuilds the dense table for the few
    models that look at it, and what some embeddings add to the lookup (see `ADDITIONS`), under the names that the
    checkpoint has for it. Not a subclass of `nn.Embedding`: transformers initialises, resizes and ties those by their
    `weight` parameter, which is not here. If this module is not its ``owner``, it only refers to the table's tensors.

    Raises:
        ValueError: If the original does more than look up, scale, norm, pad, and put other rows in.
    """

    sizes = ("num_embeddings", "embedding_dim")
    num_embeddings: int
    embedding_dim: int
    embed_norm: Callable[[Tensor], Tensor] | None
    additional_embedding: Callable[[Tensor], Tensor] | None
    eoi_embedding: Tensor | None

    def __init__(self, table: CompressedEmbedding, original: nn.Module, owner: bool = True) -> None:
        super().__init__()
        check_embedding(original)
        self.padding_idx: int | None = getattr(original, "padding_idx", None)
        scale: Any = getattr(original, "scalar_embed_scale", getattr(original, "embed_scale", None))
        self.scale = None if scale is None else float(scale)
        # Gemma and kin round the scale to the model's dtype before they multiply, BART and kin don't.
        self.rounds_scale = isinstance(getattr(original, "embed_scale", None), Tensor)
        self.eoi_token_index: int | None = getattr(original, "eoi_token_index", None)
        for name in ADDITIONS:
            setattr(self, name, getattr(original, name, None))
        self.read(table, owner)

    def forward(self, ids: Tensor) -> Tensor:
        """Rows, scaled and normed; shape (*ids.shape, embedding_dim)."""
        if self.additional_embedding is None:
            rows = self.reader.lookup(self.table, ids)
        else:
            more = ids >= self.num_embeddings
            rows = self.reader.lookup(self.table, ids.masked_fill(more, 0))
            added = self.additional_embedding((ids - self.num_embeddings).clamp(min=0))
            rows = torch.where(more[..., None], added, rows)
        if self.scale is not None and self.rounds_scale:
            rows = rows * torch.full((), self.scale, dtype=rows.dtype, device=rows.device)
        elif self.scale is not None:
            rows = rows * self.scale
        if self.eoi_embedding is not None:
            rows = torch.where((ids == self.eoi_token_index)[..., None], self.eoi_embedding.to(rows.dtype), rows)
        return rows if self.embed_norm is None else self.embed_norm(rows)

    @property
    def embed_scale(self) -> float | Tensor | None:
        """The factor of the rows, a tensor where it was one; a few models look at it."""
        return torch.full((), self.scale) if self.scale is not None and self.rounds_scale else self.scale

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, padding_idx={self.padding_idx}"


def check_embedding(original: nn.Module) -> None:
    """Raise a ValueError if an embedding does more than `TokenEmbedding` can."""
    tensors = (*original.named_parameters(recurse=False), *original.named_buffers(recurse=False))
    known = {name for name, _ in (*original.named_children(), *tensors)} <= {"weight", "embed_scale", *ADDITIONS}
    plain = type(original).forward is nn.Embedding.forward
    marks = ("embed_scale", "embed_norm", "num_additional_embeddings")
    understood = known and (plain or any(hasattr(original, mark) for mark in marks))
    if not understood or getattr(original, "max_norm", None) is not None:
        raise ValueError(
            f"the embedding class {type(original).__name__} does more than look up and scale rows, and its result "
            "would change; this model can't be compressed yet"
        )


class CompressedLinear(ReadsTable):
    """Stands for an `nn.Linear`: its weight is a compressed table, and ``table.logits`` is its forward pass.

    The table is (out_features, in_features), the bias (out_features). If this module is not its ``owner``, it only
    refers to the table's tensors.
    """

    sizes = ("out_features", "in_features")
    out_features: int
    in_features: int

    def __init__(self, table: CompressedEmbedding, bias: nn.Parameter | None = None, owner: bool = True) -> None:
        super().__init__()
        self.bias = bias  # which is the caller's to exchange with the table
        self.read(table, owner)

    def forward(self, hidden: Tensor) -> Tensor:
        """``hidden @ weight.T + bias``, shape (*hidden.shape[:-1], out_features)."""
        outputs = self.reader.logits(self.table, hidden)
        # Autocast may have lowered the dtype.
        return outputs if self.bias is None else outputs + self.bias.to(outputs.dtype)

    def topk(self, hidden: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The ``count`` largest outputs and their places, falling, both (*hidden.shape[:-1], count).

        As ``self(hidden).topk(count)``, but the outputs of many vectors are never there at once.
        """
        values, places = self.reader.top(self.table, hidden.to(self.table.device), count, self.bias)
        return values.to(hidden.device), places.to(hidden.device)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class TiedHead(CompressedLinear):
    """Stands for the `nn.Linear` of an output head tied to the input table. It has no tensor but its own bias.

    A map ``additional_fc`` gives the logits of tokens that the table does not have (Idefics).
    """

    def __init__(
        self,
        table: CompressedEmbedding,
        bias: nn.Parameter | None = None,
        additional_fc: nn.Module | None = None,
    ) -> None:
        super().__init__(table, bias, owner=False)
        self.additional_fc = additional_fc

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits of the table's tokens, and of the additional ones; shape (*hidden.shape[:-1], tokens)."""
        outputs = super().forward(hidden)
        return outputs if self.additional_fc is None else torch.cat((outputs, self.additional_fc(hidden)), dim=-1)

    def topk(self, hidden: Tensor, count: int) -> tuple[Tensor, Tensor]:
        if self.additional_fc is None:
            return super().topk(hidden, count)
        best = self(hidden).topk(count)
        return best.values, best.indices


def owned_tables(model: nn.Module) -> dict[str, CompressedEmbedding]:
    """Each compressed table in a model, of an embedding or a linear map, by the name of the module that owns it."""
    modules = model.named_modules()
    return {name: module.table for name, module in modules if isinstance(module, ReadsTable) and module.owns_table}


def check_readers(model: nn.Module) -> None:
    """Raise a ValueError if a head or an embedding reads a table that no module of the model owns.

    Such is the head of a model whose embedding alone was exchanged for a trained copy.
    """
    owned = {id(table) for table in owned_tables(model).values()}
    for name, module in model.named_modules():
        if isinstance(module, ReadsTable) and id(module.table) not in owned:
            raise ValueError(
                f"{name} is tied to a table that is no longer in the model, so no checkpoint can hold both; exchange "
                "embeddings (set_input_embeddings, or a merged adapter that trained it) after model.dequantize()"
            )


def read_with(model: nn.Module, *, hot_rows: str | int | None = None, resident: Kept | None = None) -> None:
    """Choose how a model reads its compressed tables from now on; nothing that is saved changes.

    Without either, rows are decoded as they are read, but trellis codes that an output head is tied to (`tcq`), and
    those of linear maps, are decoded once, at the first reading: their logits would take all rows for every token.
    Tables that are being trained are read as codes in any case, but for those of which only the scales are trained.

    Args:
        model: One with compressed tables, on any device.
        hot_rows: Keep rows decoded up to so many bytes a table, such as ``"1MB"``: those that are read first, as
            frequent tokens are. 4 bytes for each token of the vocabulary count, too.
        resident: ``"dense"`` keeps tables decoded, in the dtype of the model: the download is small, memory and speed
            are those of a dense model. ``"codes"`` keeps none decoded, which takes the least memory.

    Raises:
        ValueError: If both are given, or one can't be.

    Example:
        >>> model = AutoModel.from_pretrained("small")
        >>> vocabpress.read_with(model, hot_rows="1MB")
    """
    reader_for(hot_rows, resident)
    reading = [module for module in model.modules() if isinstance(module, ReadsTable)]
    heads = {module.table for module in reading if isinstance(module, CompressedLinear)}
    readers: dict[CompressedEmbedding, Reader] = {}
    for module in reading:
        table = module.table
        if table not in readers:
            readers[table] = reader_for(hot_rows, resident, decoded=table in heads and must_decode(table))
        module.reader = readers[table]


def keep_in_memory(table: CompressedEmbedding) -> None:
    """Bring the tensors of a table that accelerate put off, to the CPU's memory or to disk, to where they are read.

    Accelerate brings a module's tensors when its `forward` is called, and forms are read by `lookup` and `logits`. A
    compressed table is small, so it stays.
    """
    for form in table.modules():
        hook: Any = getattr(form, "_hf_hook", None)
        for part in getattr(hook, "hooks", [hook]):
            if getattr(part, "offload", False):
                part.pre_forward(form)
                part.offload = False
