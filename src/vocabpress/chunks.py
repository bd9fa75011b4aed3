"""Chunks of a table's rows, so that computations need the same memory whatever the length of the table.

Write the result of each chunk into a tensor allocated before the first chunk. Small results allocated between large
temporary tensors fragment the heap, and memory then grows by gigabytes.
"""

from collections.abc import Iterator

CHUNK_BYTES = 2**23  # of a chunk's rows, in the dtype of the computation


def chunks(rows: int, width: int, itemsize: int = 8) -> Iterator[slice]:
    """Slices over the rows of a table, (rows, width), in order; ``itemsize`` is that of the computation's dtype.

    A table mapped from a file is then never in memory as a whole.
    """
    step = max(1, CHUNK_BYTES // (itemsize * width))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
