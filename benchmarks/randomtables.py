"""Tables as methods store them, of any size and with random numbers: times do not depend on the values of codes."""

import torch

from vocabpress import TCQ, Budget, FastScan
from vocabpress.embeddings import Codebooks, CompressedEmbedding, Dense, Projected, Rows, Scalar
from vocabpress.fitting.table import Table
from vocabpress.methods.transformed import TransformMethod
from vocabpress.packing import pack

SHAPES = ((151936, 896), (30522, 768))
"""Rows and columns of the tables of Qwen2.5-0.5B and BERT-base."""
RATIO = 25.0


def chosen(method: TransformMethod, rows: int, columns: int, generator: torch.Generator) -> CompressedEmbedding:
    """The form that a method chooses for a table whose axes' deviations fall as k**-0.35, by Zipf's law; not fitted."""
    table = Table.of(torch.randn(rows, columns, generator=generator) * torch.arange(1, columns + 1) ** -0.35)
    weights = 1 / torch.arange(1.0, rows + 1)
    plans = method.plans(rows, columns, Budget.ratio(RATIO), weights)
    plan = method.choose(table, plans, weights, generator, False)
    form = method.empty(rows, columns, plan)
    if isinstance(form, Projected) and isinstance(form.inner, Rows) and form.inner.block_of is not None:
        form.inner.block_of.copy_(pack(method.assign_blocks(table, weights, plan["cut"]), form.inner.map_bits))
    return form


def forms(rows: int, columns: int, generator: torch.Generator) -> dict[str, CompressedEmbedding]:
    """The tables to read, with random numbers."""
    found = {
        "tcq": chosen(TCQ(), rows, columns, generator),
        "fastscan": chosen(FastScan(), rows, columns, generator),
        "product, 16 words of 4": Codebooks(rows, Dense(columns // 4 * 16, 4), 4, columns // 4),
        "product, 16 words of 8": Codebooks(rows, Dense(columns // 8 * 16, 8), 4, columns // 8),
        "product, 256 words of 8": Codebooks(rows, Dense(columns // 8 * 256, 8), 8, columns // 8),
        "low rank, an eighth": Projected(Dense(rows, columns // 8), Dense(columns // 8, columns)),
        "hash codes": Projected(Scalar(rows, columns, 1, "none"), Scalar(columns, columns, 8)),
        "int8": Scalar(rows, columns, 8),
        "int4": Scalar(rows, columns, 4),
    }
    for form in found.values():
        for name, tensor in form.state_dict().items():
            if tensor.is_floating_point():
                tensor.normal_(generator=generator)
            elif not name.endswith("block_of"):  # the map determines the number of rows of a block
                tensor.random_(generator=generator)
    return found
