"""What holds for any table, budget and seed: a clean refusal, or a form inside the budget that reads back as it is."""

import warnings

import pytest
import torch

from vocabpress import (
    SVD,
    TCQ,
    Autoencoder,
    Binary,
    Blockwise,
    Budget,
    Compositional,
    DiscBlock,
    FastScan,
    GroupReduce,
    LightToken,
    NearestKronecker,
    Product,
    Residual,
    Stacked,
    Uniform,
    build,
)
from vocabpress.methods import METHODS
from vocabpress.packing import pack, packed_bytes, unpack

hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is not installed (extra dev)")
given, settings, strategies = hypothesis.given, hypothesis.settings, hypothesis.strategies

FIT = {
    "svd": SVD("int8"),
    "autoencoder": Autoencoder(epochs=1),
    "lighttoken": LightToken(epochs=1, polish=1),
    "kronecker": NearestKronecker(),
    "groupreduce": GroupReduce(rounds=1),
    "discblock": DiscBlock(),
    "uniform": Uniform(),
    "product": Product(bits=4, rounds=1),
    "residual": Residual(bits=4, rounds=1, beam=1),
    "compositional": Compositional(epochs=1),
    "binary": Binary(epochs=1),
    "tcq": TCQ(memory=8),
    "fastscan": FastScan(rounds=1, beam=1),
    "blockwise": Blockwise(SVD()),
    "stacked": Stacked(SVD(), Uniform()),
}
KINDS = {
    "normal": lambda rows, draw: torch.randn(rows, generator=draw),
    "zero": lambda rows, draw: torch.zeros(rows),
    "one row again and again": lambda rows, draw: torch.randn(1, rows[1], generator=draw).expand(rows),
    "one column again and again": lambda rows, draw: torch.randn(rows[0], 1, generator=draw).expand(rows),
    "a lone entry": lambda rows, draw: torch.zeros(rows).index_fill(0, torch.tensor([0]), 1.0),
    "denormal": lambda rows, draw: torch.randn(rows, generator=draw) * 1e-41,
    "tiny": lambda rows, draw: torch.randn(rows, generator=draw) * 1e-20,
    "huge": lambda rows, draw: torch.randn(rows, generator=draw) * 1e30,
    "the largest": lambda rows, draw: torch.full(rows, 3.4e38),
    "of all sizes": lambda rows, draw: (
        torch.randn(rows, generator=draw) * 10.0 ** torch.arange(rows[0])[:, None].clamp(max=36)
    ),
}
SETTINGS = settings(max_examples=15, deadline=None, derandomize=True, database=None)
MANY = settings(max_examples=400, deadline=None, derandomize=True, database=None)
budgets = strategies.one_of(
    strategies.sampled_from([1.0, 1.5, 4.0, 25.0, 1000.0]).map(Budget.ratio),
    strategies.sampled_from([0.5, 8.0, 100.0, 1e4, 1e6]).map(Budget.bits_per_weight),
    strategies.integers(1, 2000).map(Budget.bytes),
)
sizes = strategies.tuples(
    strategies.sampled_from([1, 2, 3, 7, 8, 9, 31, 64, 65]), strategies.sampled_from([1, 2, 3, 4, 7, 8, 13, 16])
)
cases = {
    "shape": sizes,
    "kind": strategies.sampled_from(sorted(KINDS)),
    "dtype": strategies.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]),
    "budget": budgets,
    "seed": strategies.integers(0, 2**31),
    "weighted": strategies.booleans(),
}


def test_every_method_is_here():
    assert set(METHODS) <= set(FIT)


def holds(method, shape, kind, dtype, budget, seed, weighted):
    table = KINDS[kind](shape, torch.Generator().manual_seed(seed)).to(dtype)
    weights = torch.arange(shape[0]).float() if weighted and shape[0] > 1 else None

    def fit():
        draw = torch.Generator().manual_seed(seed)
        return method.fit(table, budget=budget, token_weights=weights, generator=draw)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            form = fit()
    except ValueError:
        return False
    form.check_numbers()
    assert form.dense().shape == shape
    assert form.total_bits() <= budget.max_bits(*shape)
    stored = form.stored_tensors()
    with torch.device("meta"):
        again = build(form.config())
    again.load_state_dict(
        {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in stored.items()}, assign=True
    )
    ids = torch.arange(shape[0]).flip(0)
    assert torch.equal(again.lookup(ids), form.lookup(ids))
    twin = fit().stored_tensors()
    assert all(torch.equal(twin[key], tensor) for key, tensor in stored.items())
    return True


def try_many(method, how_many):
    kept = []
    how_many(given(**cases)(lambda **case: kept.append(holds(method, **case))))()
    assert any(kept)  # most of the rest leave too few bytes


@pytest.mark.parametrize("name", FIT)
def test_any_table_is_refused_or_kept(name):
    try_many(FIT[name], SETTINGS)


@pytest.mark.slow
@pytest.mark.parametrize("name", FIT)
def test_any_table_is_refused_or_kept_many(name):
    try_many(FIT[name], MANY)


@SETTINGS
@given(
    rows=strategies.integers(0, 5),
    count=strategies.integers(1, 70),
    bits=strategies.integers(1, 8),
    seed=strategies.integers(0, 2**31),
)
def test_packing_goes_both_ways(rows, count, bits, seed):
    codes = torch.randint(0, 2**bits, (rows, count), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    packed = pack(codes, bits)
    assert packed.shape == (rows, packed_bytes(count, bits))
    assert torch.equal(unpack(packed, bits, count), codes)
