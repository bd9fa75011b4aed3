"""Rows of a table by the chunk, so that what is computed of them takes the same memory however long the table is.

The result of each chunk goes into a tensor that was made before the first: small tensors that stay, between large
ones that go, keep the allocator from giving memory back, and it grows by gigabytes.
"""

from collections.abc import Iterator

CHUNK_BYTES = 2**23  # of a chunk's rows in the type that is computed in


def chunks(rows: int, width: int, itemsize: int = 8) -> Iterator[slice]:
    """The rows of a table in order; sliced so, a table that is mapped from a file is never in memory whole.

    Args:
        rows: Rows of the table.
        width: Columns of a row.
        itemsize: Bytes of an entry, as it is computed with; 8 for float64.
    """
    step = max(1, CHUNK_BYTES // (itemsize * width))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
