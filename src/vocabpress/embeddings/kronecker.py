"""The Kronecker product of two small tables."""

from typing import ClassVar

from torch import Tensor

from vocabpress.embeddings.base import CompressedEmbedding
from vocabpress.embeddings.configured import Configured
from vocabpress.embeddings.fields import FORM, ROWS


class Kronecker(Configured):
    """The table ``left (x) right``: row ``i`` is ``left[i // m] (x) right[i % m]``, where ``right`` has m rows.

    With a right factor of one row, every row of the table is a row of ``left`` times one shared vector. This is the
    embedding of KroneckerBERT (Tahaei et al., NAACL 2022, section 3.2). Several terms are a `Sum` of these forms.
    `lookup` and `logits` never build the table. Both factors are tables in any form.

    Args:
        left: (m1, n1).
        right: (m2, n2).
        num_embeddings: Number of rows V, if it is less than m1 * m2; the last rows of the product are then unused.

    Raises:
        ValueError: If the factors have no rows or too few, or the left one has more than needed.
    """

    fields: ClassVar = {"left": FORM, "right": FORM, "num_embeddings": ROWS}

    def __init__(
        self, left: CompressedEmbedding, right: CompressedEmbedding, num_embeddings: int | None = None
    ) -> None:
        super().__init__()
        rows = left.num_embeddings * right.num_embeddings
        if not rows:
            raise ValueError(f"factors need rows, got {left.num_embeddings} and {right.num_embeddings}")
        self.num_embeddings = rows if num_embeddings is None else num_embeddings
        if not rows - right.num_embeddings < self.num_embeddings <= rows:
            raise ValueError(
                f"factors of {left.num_embeddings} and {right.num_embeddings} rows make a table of {rows}, not of "
                f"{self.num_embeddings}; the left one needs {-(-self.num_embeddings // right.num_embeddings)}"
            )
        self.embedding_dim = left.embedding_dim * right.embedding_dim
        self.left, self.right = left, right

    def lookup(self, ids: Tensor) -> Tensor:
        rows = self.right.num_embeddings
        left, right = self.left.lookup(ids // rows), self.right.lookup(ids % rows)
        return (left[..., :, None] * right[..., None, :]).flatten(-2)

    def logits(self, hidden: Tensor) -> Tensor:
        left, right = self.left, self.right
        square = hidden.unflatten(-1, (left.embedding_dim, right.embedding_dim))
        # Both orders give the same result, and the shapes decide which is cheaper (paper, equation 5).
        right_first = right.num_embeddings * left.embedding_dim * (right.embedding_dim + left.num_embeddings)
        left_first = left.num_embeddings * right.embedding_dim * (left.embedding_dim + right.num_embeddings)
        if right_first <= left_first:
            products = left.logits(right.logits(square).transpose(-1, -2)).transpose(-1, -2)
        else:
            products = right.logits(left.logits(square.transpose(-1, -2)).transpose(-1, -2))
        return products.flatten(-2)[..., : self.num_embeddings]
