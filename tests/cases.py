"""THE table: every storage form and every method, under all laws. One that is missing here fails a test."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vocabpress import (
    SVD,
    TCQ,
    Autoencoder,
    Binary,
    Blockwise,
    Budget,
    Compositional,
    CompressedEmbedding,
    DiscBlock,
    FastScan,
    GroupReduce,
    LightToken,
    Method,
    NearestKronecker,
    Product,
    Residual,
    Stacked,
    Uniform,
)
from vocabpress.embeddings import (
    Codebooks,
    Columns,
    Dense,
    Kronecker,
    Projected,
    Rotated,
    Rows,
    Scalar,
    Scaled,
    Sum,
    Tiles,
    Trellis,
)

V, D = 53, 12  # both odd on purpose where packing is concerned: 53 * 3 bits and 12 * 5 bits fill no whole byte


def fill(form: CompressedEmbedding, seed: int = 0) -> CompressedEmbedding:
    """Random numbers in every tensor; codes stay valid because every byte pattern is."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in form.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    for buffer in form.buffers():
        buffer.copy_(torch.randint(0, 256, buffer.shape, generator=generator, dtype=torch.uint8))
    return form.round_to_stored()


def mapped_rows() -> Rows:
    block_of = torch.arange(V) * 7 % 3
    sizes = torch.bincount(block_of).tolist()
    blocks = [Projected(Dense(size, rank), Dense(rank, D)) for size, rank in zip(sizes, (1, 3, 5), strict=True)]
    return Rows.of([fill(block, seed) for seed, block in enumerate(blocks)], block_of)


FORMS: dict[str, Callable[[], CompressedEmbedding]] = {
    "dense float16": lambda: fill(Dense(V, D)),
    "dense bfloat16": lambda: fill(Dense(V, D, torch.bfloat16)),
    "dense float32": lambda: fill(Dense(V, D, torch.float32)),
    **{f"scalar {bits} bit, row": lambda bits=bits: fill(Scalar(V, D, bits)) for bits in range(1, 9)},
    "scalar 3 bit, column": lambda: fill(Scalar(V, D, 3, "column")),
    "scalar 4 bit, groups of 5": lambda: fill(Scalar(V, D, 4, "group", 5)),
    "scalar 1 bit, no scale": lambda: fill(Scalar(V, D, 1, "none")),
    "low rank": lambda: fill(Projected(Dense(V, 3), Dense(3, D))),
    "low rank, no bias": lambda: fill(Projected(Dense(V, 3), Dense(3, D), bias=False)),
    "low rank, 4 and 8 bit factors": lambda: fill(Projected(Scalar(V, 5, 4, "column"), Scalar(5, D, 8, "row"))),
    "elu at the end": lambda: fill(Projected(Dense(V, 3), Dense(3, D), activation="elu")),
    "two-layer decoder": lambda: fill(Projected(Projected(Dense(V, 3), Dense(3, 7), activation="tanh"), Dense(7, D))),
    "hash codes, decoded": lambda: fill(Projected(Scalar(V, 19, 1, "none"), Scalar(19, D, 8, "row"), bias=False)),
    "sum": lambda: fill(
        Sum([Projected(Dense(V, 2), Dense(2, D)), Projected(Scalar(V, 16, 1, "none"), Dense(16, D), bias=False)])
    ),
    "codebooks, product": lambda: fill(Codebooks(V, Dense(4 * 8, 3), 3, segments=4)),
    "codebooks, additive, 8 bit words": lambda: fill(Codebooks(V, Scalar(5 * 16, D, 8), 4, stages=5)),
    "codebooks, staged segments, shared": lambda: fill(Codebooks(V, Dense(3 * 4, 4), 2, 3, stages=3, shared=True)),
    "codebooks, rotated": lambda: fill(Projected(Codebooks(V, Dense(2 * 32, 5), 5, 2), Scalar(10, D, 8))),
    "kronecker, one shared row": lambda: fill(Kronecker(Dense(V, 4), Dense(1, 3))),
    "kronecker, a row too many": lambda: fill(Kronecker(Dense(9, 2), Scalar(6, 6, 8), V)),
    "kronecker, left first": lambda: fill(Kronecker(Dense(2, 6), Dense(27, 2), V)),
    "trellis, one bit": lambda: fill(Trellis(V, [(12, 1, 1)], 8)),
    "trellis, rates of all kinds": lambda: fill(
        Trellis(V, [(2, 5, 1), (3, 2, 1), (4, 1, 2), (4, 1, 4), (3, 0, 1)], 11)
    ),
    "columns": lambda: fill(Columns([Codebooks(V, Dense(2 * 16, 4), 4, 2, 2, True), Dense(V, 3)], D)),
    "tiles of integers": lambda: fill(Tiles(Scalar(14 * 3, 20, 3, "column"), V, D, 4, 5)),
    "tiles of a trellis": lambda: fill(Tiles(Trellis(4, [(256, 2, 1)], 9), V, D)),
    "tiles of one column": lambda: fill(Tiles(Trellis(7, [(8, 2, 1)], 9), V, 1, 8, 1)),
    "rotated floats": lambda: fill(Rotated(Dense(V, D), 7)),
    "rotated tiles of a trellis": lambda: fill(Rotated(Tiles(Trellis(4, [(256, 2, 2)], 12), V, D), 2**31 - 1)),
    "scaled, columns alone": lambda: fill(Scaled(Scalar(V, D, 4), rows=False, dtype=torch.float32)),
    "scaled, rows alone": lambda: fill(Scaled(Scalar(V, D, 1, "none"), columns=False)),
    "scaled, rotated tiles of a trellis": lambda: fill(
        Scaled(Rotated(Tiles(Trellis(4, [(256, 2, 1)], 10), V, D), 3), dtype=torch.bfloat16)
    ),
    "rows, contiguous": lambda: Rows([fill(Dense(20, D)), fill(Scalar(V - 20, D, 2), 1)]),
    "rows, mapped": mapped_rows,
}


@dataclass(frozen=True)
class MethodCase:
    """A method with hyper-parameters small enough for tests, and what the laws may ask of it.

    Attributes:
        method: Instance.
        everything: Relative error allowed when the budget is the whole float32 table.
        weighted: How much lower (as a factor) the error of the favoured tokens must be under token weights.
        exact: Whether a fit stores as many bits as its plan; if not, it may store fewer.
        bad: Bad settings: constructor arguments that must raise a ValueError.
    """

    method: Method
    everything: float
    weighted: float = 1.0
    exact: bool = True
    bad: tuple[dict, ...] = ()


METHOD_CASES: dict[str, MethodCase] = {
    "svd": MethodCase(SVD(), 1e-6, bad=({"factors": "int3"},)),
    "svd int8": MethodCase(SVD("int8"), 1e-3),
    "svd int4": MethodCase(SVD("int4"), 2.5e-2),
    "autoencoder": MethodCase(
        Autoencoder(epochs=4),
        1e-4,
        bad=({"factors": "x"}, {"epochs": 0}, {"batch_size": 0}, {"learning_rate": 0.0}),
    ),
    "autoencoder, non-linear": MethodCase(Autoencoder(nonlinear=True, epochs=4), 2e-2),
    "lighttoken": MethodCase(LightToken(), 1e-3),
    "tcq": MethodCase(
        TCQ(memory=8), 2e-2, exact=False, bad=({"memory": 7}, {"memory": 17}, {"blocks": 0}, {"min_bits": 9.0})
    ),
    "fastscan": MethodCase(FastScan(), 5e-2, exact=False, bad=({"beam": 0}, {"rounds": -1}, {"blocks": 0})),
    "blockwise svd": MethodCase(Blockwise(SVD("int8")), 1e-3, exact=False, bad=({"blocks": 0}, {"blocks": 257})),
    "blockwise uniform": MethodCase(Blockwise(Uniform(), blocks=4), 1e-4, weighted=0.5, exact=False),
    "svd+svd": MethodCase(Stacked(SVD(), SVD("int4")), 1e-3, bad=({"share": 0.0}, {"share": 1.0})),
    "groupreduce": MethodCase(
        GroupReduce(),
        1e-6,
        weighted=0.5,
        exact=False,
        bad=(
            {"factors": "int3"},
            {"blocks": 0},
            {"blocks": 257},
            {"moving_ratio": 0.0},
            {"moving_ratio": 1.5},
            {"rounds": -1},
            {"least_candidates": 0},
        ),
    ),
    "groupreduce int8, nothing moved": MethodCase(GroupReduce(factors="int8", rounds=0), 1e-3, weighted=0.5),
    "discblock": MethodCase(DiscBlock(), 1e-6, weighted=0.5, bad=({"alpha": -0.1}, {"alpha": 1.1}, {"blocks": 0})),
    "discblock int4, moved": MethodCase(DiscBlock(factors="int4", rounds=50), 2.5e-2, weighted=0.5, exact=False),
    "kronecker": MethodCase(
        NearestKronecker(),
        1e-6,
        bad=({"factors": "x"}, {"width": 0}, {"rows": 0}, {"terms": -1}),
    ),
    "kronecker, sums of blocks": MethodCase(NearestKronecker(rows=3, terms=0), 1e-6),
    "kronecker int8": MethodCase(NearestKronecker(factors="int8"), 1e-3),
    # A scale that is a row's own has nothing to do with other rows: weights move nothing.
    "uniform": MethodCase(
        Uniform(),
        1e-4,
        weighted=1 + 1e-6,
        bad=({"bits": 9}, {"bits": 0}, {"scales": "x"}, {"group_size": 0}, {"scales": "row", "group_size": 8}),
    ),
    "uniform, columns": MethodCase(Uniform(scales="column"), 1e-4),
    "uniform, full reach": MethodCase(Uniform(search=False), 1e-4, weighted=1 + 1e-6),
    "product": MethodCase(
        Product(rounds=4),
        1e-4,
        bad=(
            {"bits": 9},
            {"segments": 0},
            {"factors": "x"},
            {"rotation": "pca"},
            {"rounds": 0},
            {"turns": -1},
        ),
    ),
    "product, plain": MethodCase(Product(rotation="none", factors="float16", rounds=4), 1e-4),
    "product, shared": MethodCase(Product(rotation="none", shared=True, rounds=4), 1e-4),
    "product, rotated": MethodCase(Product(rotation="opq", turns=2, rounds=4), 1e-3),
    "residual": MethodCase(
        Residual(rounds=1, beam=2),
        1e-3,
        bad=({"stages": 0}, {"beam": 0}, {"stages": 64, "bits": 8}, {"rotation": "opq"}, {"bits": 0}),
    ),
    "residual, one segment": MethodCase(Residual(segments=1, rotation="none", rounds=1, beam=2), 1e-2),
    "compositional": MethodCase(
        Compositional(),
        1e-2,
        bad=({"bits": 9}, {"books": 0}, {"books": 513}, {"epochs": 0}, {"temperature": 0.0}, {"factors": "x"}),
    ),
    "binary": MethodCase(
        Binary(),
        0.2,
        bad=({"code_bits": 0}, {"regulariser": -1.0}, {"epochs": 0}, {"learning_rate": 0.0}),
    ),
}


def low_rank_table(num_embeddings: int = 400, embedding_dim: int = 24, seed: int = 3) -> Tensor:
    """A table like real ones: a falling spectrum, a mean away from zero, rows of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    spectrum = torch.arange(1, embedding_dim + 1) ** -0.7
    rows = torch.randn(num_embeddings, embedding_dim, generator=generator) * spectrum
    turn = torch.linalg.qr(torch.randn(embedding_dim, embedding_dim, generator=generator)).Q
    lengths = torch.rand(num_embeddings, 1, generator=generator) + 0.5
    return (rows * lengths) @ turn * 0.1 + torch.randn(embedding_dim, generator=generator) * 0.02


RATIOS = (4.0, 8.0, 12.0)
BUDGETS = tuple(Budget.ratio(ratio) for ratio in RATIOS)


DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def near(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """Loops compute in float32, and round once at the end."""
    tolerance = {torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 3e-3}[dtype]
    if not expected.numel():
        return
    torch.testing.assert_close(
        found, expected, rtol=tolerance, atol=tolerance * max(1, float(expected.detach().abs().max()))
    )
