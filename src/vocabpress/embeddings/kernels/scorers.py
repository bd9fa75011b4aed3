"""Inner products with all rows of an expression by compiled loops: what each form's `logits` does, in a few calls.

A scorer is a function from vectors, float32 (n, d), to their inner products, float32 (n, V): for a few vectors by
adders (`adders.py`), for many, or where there is none, by rows decoded tile by tile (`tiles.py`).
"""

from typing import Any

import numpy

from vocabpress.embeddings.base import CompressedEmbedding
from vocabpress.embeddings.codebooks import Codebooks
from vocabpress.embeddings.combine import Columns, Sum, forms
from vocabpress.embeddings.kernels.adders import WORTH, Whole, adder
from vocabpress.embeddings.kernels.threads import in_threads
from vocabpress.embeddings.kernels.tiles import Score, many
from vocabpress.embeddings.projected import Projected
from vocabpress.embeddings.rows import Rows
from vocabpress.embeddings.scalar import Scalar

FEW, FEW_BYTES = 64, 8  # vectors up to which codes are read through tables, or rows as they lie (benchmarks/heads.py)


def scorer(form: CompressedEmbedding) -> Score:
    """How inner products with all rows of a form are computed.

    Raises:
        NoKernelError: If it holds a form that is none of `EMBEDDINGS`.
    """
    by_tables, by_tiles, most = few(form), many(form), limit(form)
    return lambda hidden: (by_tables if len(hidden) <= most else by_tiles)(hidden)


def limit(form: CompressedEmbedding) -> int:
    """Vectors that are a few for this form."""
    if isinstance(form, Projected):
        return limit(form.inner)
    if isinstance(form, Rows | Columns | Sum):
        return min(limit(part) for part in forms(form.blocks if isinstance(form, Rows) else form.parts))
    by_tables = isinstance(form, Codebooks) or (isinstance(form, Scalar) and form.bits < 4)
    return FEW if by_tables else FEW_BYTES


def few(form: CompressedEmbedding) -> Score:
    """For a few vectors: without a row decoded, where the form can do that."""
    prepare, rows = adder(form), form.num_embeddings

    def score(hidden: Any) -> Any:
        add = prepare(hidden)
        if isinstance(add, Whole):
            return add.scores
        out = numpy.zeros((len(hidden), rows), numpy.float32)
        in_threads(lambda first, last: add(first, last, out[:, first:last]), rows, WORTH)
        return out

    return score
