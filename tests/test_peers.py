"""The peers of benchmarks/peers: what they give back, and that their bytes are those that must be stored."""

import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

import tiny
from vocabpress.evaluate import Measurement, Task
from vocabpress.results import read_results

PEERS = Path(__file__).resolve().parents[1] / "benchmarks" / "peers"
MODULES = ("coded", "rounding", "vectors", "variants", "run")
HEADER = 1000  # bytes of names and shapes that a serialised index holds besides its numbers

needs = {
    name: pytest.mark.skipif(find_spec(name) is None, reason=f"{name} of benchmarks/peers/requirements.txt is not here")
    for name in ("faiss", "hqq", "torchao", "sklearn")
}


@pytest.fixture(scope="module")
def peers():
    sys.path.insert(0, str(PEERS))
    try:
        yield SimpleNamespace(**{name: import_module(name) for name in MODULES})
    finally:
        sys.path.remove(str(PEERS))
        for name in MODULES:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def table():
    generator = torch.Generator().manual_seed(3)
    return torch.randn(300, 64, generator=generator) * torch.rand(64, generator=generator) + 0.1


def error(coded, table):
    assert coded.table.shape == table.shape
    assert coded.table.dtype == torch.float32
    return float((coded.table - table).square().sum() / (table - table.mean(0)).square().sum())


def test_round_to_nearest_by_hand(peers):
    row = torch.tensor([[0.0, 1.0, 2.1, 3.0, -4.0, 4.0, 8.0, 8.0]])
    coded = peers.rounding.RoundToNearest(2, group=4).code(row)
    assert coded.table.tolist() == [[0, 1, 2, 3, -4, 4, 8, 8]]
    assert coded.bytes == {"codes": 2, "scales": 4, "minima": 4}
    assert coded.parts["codes"].tolist() == [[0b11100100, 0b11111000]]
    row = torch.tensor([[0.0, 1.0, 2.1, 3.0, -5.0, 5.0, 8.0, -8.0]])
    symmetric = peers.rounding.RoundToNearest(2, group=8, symmetric=True).code(row)
    assert symmetric.table.tolist() == [[0, 0, 0, 0, -8, 8, 8, -8]]  # the levels are -8, 0 and 8
    assert symmetric.bytes == {"codes": 2, "scales": 2}


def test_a_group_of_equal_entries_stays(peers):
    flat = torch.full((2, 8), 0.25)
    for symmetric in (False, True):
        torch.testing.assert_close(
            peers.rounding.RoundToNearest(8, 8, symmetric).code(flat).table, flat, rtol=1e-3, atol=0
        )
    assert peers.rounding.RoundToNearest(4, 8).code(torch.zeros(2, 8)).table.tolist() == [[0.0] * 8] * 2


def test_bytes_and_storage_are_those_of_the_parts(peers, table):
    coded = peers.rounding.RoundToNearest(3, 32).code(table)
    assert coded.total == 300 * (64 * 3 // 8) + 2 * 300 * 2 * 2 == sum(item.bits for item in coded.storage) // 8
    assert {item.name: item.dtype for item in coded.storage} == {
        "codes": "uint8",
        "scales": "float16",
        "minima": "float16",
    }


@pytest.mark.parametrize(
    "kind",
    ["RoundToNearest", pytest.param("HQQ", marks=needs["hqq"]), pytest.param("TorchAO", marks=needs["torchao"])],
)
def test_more_bits_lose_less(peers, table, kind):
    make = {"TorchAO": lambda bits: peers.rounding.TorchAO("Intx", bits, 32)}.get(
        kind, lambda bits: getattr(peers.rounding, kind)(bits, 32)
    )
    errors = [error(make(bits).code(table), table) for bits in (8, 4, 2)]
    assert 0 < errors[0] < 1e-3 < errors[1] < 0.05 < errors[2] < 0.6


@needs["torchao"]
def test_torchao_rounds_as_round_to_nearest_does_and_stores_bytes(peers, table):
    theirs = peers.rounding.TorchAO("Intx", 4, 32, symmetric=False).code(table)
    ours = peers.rounding.RoundToNearest(4, 32).code(table)
    # They make zero a level, we keep the minimum: the errors agree within the grid's shift.
    assert error(theirs, table) == pytest.approx(error(ours, table), rel=0.15)
    assert theirs.bytes == {"qdata": 300 * 64, "scale": 300 * 2 * 4, "zero_point": 300 * 2}
    per_row = peers.rounding.TorchAO("Int8").code(table)
    assert per_row.bytes["qdata"] + per_row.bytes["scale"] == 300 * 64 + 300 * 4
    with pytest.raises(ValueError, match="no embedding for 'Int4'"):
        peers.rounding.TorchAO("Int4").code(table)


@needs["hqq"]
@pytest.mark.parametrize(("bits", "code_bytes"), [(8, 64), (4, 32), (2, 16), (1, 8)])
def test_hqq_takes_any_number_of_rows(peers, table, bits, code_bytes):
    odd = table[:211]  # 422 groups do not divide by 4 or 8; hqq would fail or drop some
    coded = peers.rounding.HQQ(bits, 32).code(odd)
    assert coded.bytes == {"codes": 216 * code_bytes, "scales": 216 * 2 * 2, "zeros": 216 * 2 * 2}
    if bits > 1:
        assert error(coded, odd) < 0.6


@needs["sklearn"]
def test_pca_int8_is_the_best_rank_but_for_the_rounding(peers, table):
    coded = peers.rounding.PCAInt8(20).code(table)
    squares = torch.linalg.svdvals(table - table.mean(0)).square()
    assert error(coded, table) == pytest.approx(float(squares[20:].sum() / squares.sum()), rel=1e-2)
    assert coded.bytes == {"codes": 300 * 20, "scale": 4, "components": 20 * 64 * 2, "mean": 64 * 2}


@needs["faiss"]
def test_faiss_pq_takes_the_nearest_codeword(peers, table):
    coded = peers.vectors.FaissIndex("PQ16x4np", "float32").code(table)
    books = coded.parts["codebooks"].view(16, 16, 4)
    pieces = table.view(300, 16, 4).transpose(0, 1)
    nearest = torch.cdist(pieces, books).argmin(-1)  # (16, 300)
    read = torch.stack([book[choice] for book, choice in zip(books, nearest, strict=True)], 1).flatten(1)
    torch.testing.assert_close(coded.table, read)
    packed = coded.parts["codes"]
    assert torch.equal(packed & 15, nearest.T[:, 0::2].to(torch.uint8))
    assert torch.equal(packed >> 4, nearest.T[:, 1::2].to(torch.uint8))


@needs["faiss"]
@pytest.mark.parametrize(
    ("factory", "not_needed"),
    # FAISS also keeps the mean, all eigenvalues and all axes of a PCA of which it reads 16.
    [("PQ16x4np", 0), ("OPQ8_32,PQ8x8np", 0), ("RQ6x4", 0), ("PCAR16,PQ8x4np", (64 + 64 + 64 * 64) * 4)],
)
def test_faiss_parts_are_what_it_serialises(peers, table, factory, not_needed):
    faiss = import_module("faiss")
    whole = peers.vectors.FaissIndex(factory, "float32")
    index = faiss.index_factory(64, factory)
    whole._train(faiss, index, table.numpy())
    index.add(table.numpy())
    coded = whole.code(table)
    assert 0 < len(faiss.serialize_index(index)) - coded.total - not_needed < HEADER
    torch.testing.assert_close(coded.table, torch.from_numpy(index.reconstruct_n(0, 300)))
    half = peers.vectors.FaissIndex(factory).code(table)
    floats = coded.total - coded.bytes["codes"]
    assert half.total == coded.bytes["codes"] + floats // 2
    assert error(half, table) == pytest.approx(error(coded, table), rel=1e-2)
    assert error(half, table) < 0.6


@needs["faiss"]
def test_faiss_refuses_in_a_line(peers, table):
    for factory, words in (("PQ7x4", "can't train"), ("IVF4,Flat", "not known"), ("PQ16x12np", "can't train")):
        with pytest.raises(ValueError, match=words) as caught:
            peers.vectors.FaissIndex(factory).code(table)
        assert "\n" not in str(caught.value)


def test_what_is_wrong_is_said(peers, table):
    with pytest.raises(ValueError, match="groups of 7 do not divide rows of 64"):
        peers.rounding.RoundToNearest(4, 7).code(table)
    with pytest.raises(ValueError, match="2 to 8 bits, got 1"):
        peers.rounding.RoundToNearest(1, 8, symmetric=True).code(table)


def test_a_peer_that_is_not_installed_says_how_to_get_it(peers, table, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ValueError, match=r"faiss needs faiss-cpu .*requirements"):
        peers.vectors.FaissIndex().code(table)


def test_settings_come_near_the_sizes_that_they_aim_at(peers):
    known = peers.variants.variants(30522, 384)
    assert len({variant.folder for variant in known}) == len(known)
    pca = [variant.peer.components for variant in known if variant.method == "pca-int8"]
    for ratio, kept in zip(peers.variants.RATIOS, pca, strict=True):
        stored = 30522 * kept + (kept + 1) * 384 * 2 + 4
        assert ratio / 1.005 <= 30522 * 384 * 4 / stored < ratio * 1.08
    methods = {variant.method for variant in known}
    assert methods == {"rtn", "hqq", "torchao", "pca-int8", "faiss-pq", "faiss-opq", "faiss-rq"}


def test_a_stand_in_changes_the_table_and_what_is_tied(peers, tmp_path):
    source = tiny.save("bert", tmp_path / "source")
    table = torch.arange(tiny.VOCAB * 32.0).view(tiny.VOCAB, 32)
    peers.run.write_stand_in(source, table, tmp_path / "out")
    before, after = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "out"))
    key = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(after.pop(key), table)
    before.pop(key)
    assert before.keys() == after.keys()  # the head is still tied: no key of its own
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert (tmp_path / "out" / "tokenizer.json").exists()
    with pytest.raises(ValueError, match="is \\(211, 32\\), the stand-in \\(3, 32\\)"):
        peers.run.write_stand_in(source, table[:3], tmp_path / "wrong")


@pytest.fixture
def runs(peers, monkeypatch):
    """A task that says how far the stand-in's table is from the original's, and counts its runs."""
    seen = []

    @dataclass(frozen=True)
    class Distance(Task):
        def measure(self, subject):
            seen.append(subject.model)
            key = "bert.embeddings.word_embeddings.weight"
            a, b = (load_file(folder / "model.safetensors")[key] for folder in (subject.model, subject.original("it")))
            return Measurement({"distance": float((a - b).abs().max())}, {"storage": "of the stand-in"})

    monkeypatch.setitem(peers.run.TASKS, "distance", Distance())
    return seen


def test_run_writes_results_under_the_peers_name_and_does_not_repeat_them(peers, runs, tmp_path, capsys):
    source = tiny.save("bert", tmp_path / "source")
    arguments = [
        "--model",
        str(source),
        "--out",
        str(tmp_path / "results"),
        "--task",
        "distance",
        "--only",
        "RTN 4 bit",
    ]
    assert peers.run.main(arguments) == 0
    (result,) = read_results(tmp_path / "results" / "rtn-4-bit" / "distance.json")
    table = load_file(source / "model.safetensors")["bert.embeddings.word_embeddings.weight"]
    coded = peers.rounding.RoundToNearest(4, 32).code(table)
    assert result.metrics["distance"] == pytest.approx(float((coded.table - table).abs().max()))
    assert (result.variant, result.settings["method"], result.settings["peer"]) == ("RTN", "rtn", True)
    assert result.settings["fields"] == {"bits": 4, "group": 32, "symmetric": False}
    assert result.settings["model"] == "source"
    size = (source / "model.safetensors").stat().st_size
    assert result.bytes == {
        "table": coded.total,
        "table_float32": table.numel() * 4,
        "model": size - table.numel() * 4 + coded.total,
        "model_before": size,
    }
    assert result.details["storage"] == [
        {"name": name, "dtype": dtype, "bytes": coded.bytes[name]}
        for name, dtype in (("codes", "uint8"), ("scales", "float16"), ("minima", "float16"))
    ]
    assert result.details["coding_seconds"] > 0
    assert peers.run.main(arguments) == 0
    assert len(runs) == 2  # "RTN 4 bit" and "RTN 4 bit symmetric", each once
    assert "already measured" in capsys.readouterr().out


def test_run_refuses_in_a_line(peers, runs, tmp_path, capsys):
    source = tiny.save("bert", tmp_path / "source")
    given = ["--model", str(source), "--out", str(tmp_path / "results"), "--task"]
    for more, words in (
        (["distance", "--only", "zip"], "no peer starts with 'zip'"),
        (["nothing"], "unknown task 'nothing'"),
        (["distance", "--set", "bits=4"], "--set takes TASK.field=value"),
    ):
        capsys.readouterr()
        assert peers.run.main([*given, *more]) == 2
        err = capsys.readouterr().err
        assert err.startswith("peers: error: ")
        assert words in err
    assert not (tmp_path / "results").exists()
