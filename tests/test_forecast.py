"""Forecasts: bytes and seconds against fits."""

import json
import time

import pytest
import torch

import tiny
from cases import low_rank_table
from command import run
from vocabpress import SVD, TCQ, Blockwise, Budget, Compositional, FastScan, GroupReduce, Stacked, Uniform
from vocabpress.forecast import forecast
from vocabpress.methods import method_name


@pytest.mark.parametrize(
    "method", [SVD(), SVD("int8"), Uniform(bits=2, scales="row"), TCQ(memory=8), GroupReduce(rounds=2),
               Stacked(SVD(), Uniform(bits=2, scales="row"), share=0.2), Stacked(SVD(), TCQ(memory=8), share=0.2),
               Blockwise(SVD(), 3)], ids=str
)  # fmt: skip
def test_bytes_are_those_of_a_fit_or_a_bound(method):
    table = low_rank_table(3000, 24)
    found = forecast(method, table.bfloat16(), Budget.ratio(8))
    weights = torch.rand(3000, generator=torch.Generator().manual_seed(1)) ** 4 + 1e-3
    stored = method.fit(table, budget=Budget.ratio(8), token_weights=weights).total_bits() // 8
    assert stored <= found.stored_bytes <= table.numel() * 4 // 8
    # On a table of low rank svd leaves nothing for the codes of the second method.
    assert 0.9 * found.stored_bytes <= stored or "tcq" in method_name(method).split("+")[1:]
    assert stored == found.stored_bytes or type(method) not in (SVD, Uniform)
    assert (found.rows, found.columns, found.table_bytes) == (3000, 24, 2 * table.numel())
    assert (found.seconds is None) == (type(method) is not TCQ)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", [TCQ(), FastScan(), Compositional(epochs=4)], ids=lambda method: type(method).__name__
)
def test_seconds_are_those_of_a_fit_within_a_factor(method):
    table = torch.randn(40_000, 64, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 65) ** -0.35
    method.fit(table[:512], budget=Budget.ratio(8))  # loops are compiled at their first use
    seconds = forecast(method, table, Budget.ratio(25)).seconds
    start = time.perf_counter()
    method.fit(table, budget=Budget.ratio(25))
    assert 1 / 3 < seconds / (time.perf_counter() - start) < 3


def test_what_a_dry_run_prints(capsys, tmp_path):
    source = tiny.save("bert", tmp_path / "bert")
    for method, seconds in (("svd", None), ("tcq", 0)):
        code, out, err = run(capsys, "compress", source, "--dry-run", "--method", method, "--ratio", "4", "--json")
        assert code == 0, err
        assert f"{tiny.VOCAB} x 32 in float32 by {method}, ratio 4 to float32" in err
        assert ("svd can't predict it" in err) == (method == "svd")
        found = json.loads(out)
        assert (found["rows"], found["table_bytes"]) == (tiny.VOCAB, tiny.VOCAB * 32 * 4)
        assert found["stored_bytes"] <= tiny.VOCAB * 32
        assert (found["seconds"] is None) == (seconds is None)
    code, _, err = run(capsys, "compress", source, "--dry-run", "--method", "tcq", "--ratio", "100000")
    assert code == 2
    assert "the least that TCQ can store" in err
