"""Forecasts: bytes against fits, memory against what a fit took, traffic and time by hand."""

import json

import pytest
import torch

import tiny
from cases import low_rank_table
from command import run
from fitmemory import peak_of
from vocabpress import SVD, TCQ, Budget, GroupReduce, Stacked, Uniform
from vocabpress.fitting import shards
from vocabpress.forecast import _Line
from vocabpress.forecast import forecast as foretell

SMALL = (300, 600)


@pytest.mark.parametrize(
    "method", [SVD(), SVD("int8"), Uniform(bits=2, scales="row"), TCQ(memory=8), GroupReduce(rounds=2),
               Stacked(SVD(), Uniform(bits=2, scales="row"), share=0.2)], ids=str
)  # fmt: skip
def test_bytes_are_those_of_a_fit_or_a_bound(method):
    table = low_rank_table(3000, 24)
    found = foretell(method, 3000, 24, Budget.ratio(8), small=SMALL)
    stored = method.fit(table, budget=Budget.ratio(8)).total_bits() // 8
    assert 0.9 * found.stored_bytes <= stored <= found.stored_bytes
    assert stored == found.stored_bytes or not found.exact
    assert found.exact == (type(method) in (SVD, Uniform))
    assert found.table_bytes == 4 * table.numel()
    assert found.received_bytes == 0
    assert list(found.measured) == list(SMALL)


def test_memory_is_not_exceeded():
    table = torch.randn(60_000, 64, generator=torch.Generator().manual_seed(0))
    for method in (SVD(), Uniform(bits=2, scales="row")):
        found = foretell(method, len(table), 64, Budget.ratio(8), small=SMALL)
        taken = peak_of(lambda method=method: method.fit(table, budget=Budget.ratio(8)))
        assert taken + table.numel() * 4 <= found.memory_bytes
    half = foretell(SVD(), 60_000, 64, Budget.ratio(8), machines=2, dtype=torch.bfloat16, small=SMALL)
    whole = foretell(SVD(), 60_000, 64, Budget.ratio(8), dtype=torch.bfloat16, small=SMALL)
    assert whole.memory_bytes - half.memory_bytes == table.numel() * 2 // 2


def test_traffic_by_hand(monkeypatch):
    # 3,000 rows in 12 chunks of 256, six for each of two processes, summed in groups of eight: the first one sends six
    # sums, the second one those of its two chunks of the same group, and the last group's four as one. Half of these
    # nine, and half of the rows of codes, are the other's.
    monkeypatch.setattr(shards, "ENTRIES_PER_CHUNK", 256 * 24)
    found = foretell(SVD(), 3000, 24, Budget.ratio(8), machines=2, small=SMALL)
    # Sums: the mean; products of the rows, and their eigenvectors; normal equations for the rank, and their solution.
    rank = SVD().plans(3000, 24, Budget.ratio(8))[0]["rank"]
    sums = 8 * 24 + 8 * 24 * 24 + 8 * 24 * (1 + 24) + 8 * rank * (rank + 24) + 8 * rank * 24
    assert found.received_bytes == sums * 9 // 2 + 4 * 3000 * rank // 2


def test_a_line_through_two_points():
    line = _Line((10, 30), (5.0, 9.0))
    assert (line.slope, line.start) == (0.2, 3.0)
    falling = _Line((10, 30), (5.0, 4.0))
    assert (falling.slope, falling.start) == (0.0, 4.0)


def test_the_command_plans_shapes_and_models(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("vocabpress.forecast.forecast", lambda *of, **options: foretell(*of, **options, small=SMALL))
    code, out, err = run(capsys, "plan", "1000000x48", "--method", "svd", "--ratio", "8", "--machines", "4", "--json")
    assert code == 0
    assert "1,000,000 x 48 in float32 by svd" in err
    found = json.loads(out)
    assert (found["rows"], found["columns"], found["machines"]) == (1_000_000, 48, 4)
    assert found["stored_bytes"] <= 1_000_000 * 48 * 4 // 8
    assert found["seconds"] > 0
    code, out, _ = run(
        capsys, "plan", tiny.save("bert", tmp_path / "bert"), "--method", "svd", "--ratio", "4", "--json"
    )
    assert code == 0
    assert json.loads(out.splitlines()[-1])["rows"] == tiny.VOCAB


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("0x48",), "rows, columns and machines are at least 1, got 0, 48 and 1"),
        (("100x48", "--ratio", "100000"), "the least that TCQ can store"),
        (("100x48", "--method", "blockwise:svd"), "ask for the method that it puts in them"),
        (("100x48", "--dtype", "int3"), "unknown dtype 'int3'"),
        (("100x48", "--ratio", "5", "--size", "1MB"), "give one"),
    ],
)
def test_bad_plans_are_refused(capsys, arguments, words):
    code, _, err = run(capsys, "plan", *arguments)
    assert code == 2
    assert words in err
