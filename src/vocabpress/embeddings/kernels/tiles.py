"""Inner products of many vectors with all rows: rows decoded tile by tile, and a tile multiplied before the next."""

from typing import Any

import numpy
import torch

from vocabpress.embeddings import CompressedEmbedding
from vocabpress.embeddings.kernels.decoders import decoder
from vocabpress.embeddings.kernels.maps import Score, has_products, read_whole
from vocabpress.embeddings.kernels.threads import in_threads

TILE = 8192  # rows that are decoded at a time
SHARE = 512  # rows of a tile that are worth a thread


def tiles(form: CompressedEmbedding) -> Score:
    """Rows decoded by tiles, for any form and any number of vectors."""
    decode, rows, columns = decoder(form), form.num_embeddings, form.embedding_dim
    # Products have threads of their own; those of small tiles are no matter.
    least = rows if has_products(form) else SHARE
    at_once = rows if read_whole(form) else min(rows, TILE)

    def score(hidden: Any) -> Any:
        vectors, out = torch.from_numpy(hidden), torch.empty(len(hidden), rows)
        tile = numpy.empty((at_once, columns), numpy.float32)
        for start in range(0, rows, at_once):
            ids = numpy.arange(start, min(start + at_once, rows))

            def part(first: int, last: int, ids: Any = ids) -> None:
                decode(ids[first:last], tile[first:last])

            in_threads(part, len(ids), least)
            out[:, ids[0] : ids[-1] + 1] = vectors @ torch.from_numpy(tile[: len(ids)]).T
        return out.numpy()

    return score
