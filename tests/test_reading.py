"""Shorter ways to the same rows: the block of a few tokens, compiled loops, distinct rows, rows that are kept."""

import copy

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

import tiny
from vocabpress import SVD, Budget, FastScan, Uniform, VocabpressConfig, read_with
from vocabpress.embeddings import Codebooks, Dense, Rows, Run, Scalar, Trellis, kernels
from vocabpress.embeddings.reading import Distinct, HotRows, Resident
from vocabpress.embeddings.trellis import all_words
from vocabpress.hf.fit import compress_input_table
from vocabpress.hf.quantizer import attach

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def blocks_of(block_of, count):
    sizes = torch.bincount(block_of, minlength=count).tolist()
    return Rows.of([Dense.of(torch.randn(size, 3)) for size in sizes], block_of)


@pytest.mark.parametrize("tokens", [1, 127, 128, 129, 1000, 4000])
@pytest.mark.parametrize("count", [1, 2, 3, 8, 9, 200])
def test_the_place_of_a_few_tokens_is_that_of_all(tokens, count):
    generator = torch.Generator().manual_seed(tokens)
    form = blocks_of(torch.randint(count, (tokens,), generator=generator), count)
    if form.block_of is None:
        assert count == 1 or tokens == 1
        return
    ids = torch.randint(tokens, (30,), generator=generator)
    block, place = form._few_mapped_places(ids, form.block_of)
    for found, everywhere in zip((block, place), form._mapped_place(form.block_of), strict=True):
        assert torch.equal(found, everywhere[ids])
    assert torch.equal(torch.stack([form.lookup(i) for i in ids]), form.dense()[ids])


def test_places_follow_another_map():
    first = torch.randint(3, (3000,), generator=torch.Generator().manual_seed(0))
    second = first[torch.randperm(3000, generator=torch.Generator().manual_seed(2))]  # as many of each
    form, other = blocks_of(first, 3), blocks_of(second, 3)
    ids = torch.tensor([5, 77, 2999])
    before = form.lookup(ids)
    form.load_state_dict(other.state_dict())
    assert torch.equal(form.lookup(ids), other.dense()[ids])
    assert not torch.equal(form.lookup(ids), before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("memory", [8, 9, 12, 16])
@pytest.mark.parametrize(
    "runs",
    [
        [Run(4, 3), Run(4, 1), Run(2, 0), Run(4, 1, 2), Run(8, 1, 4)],
        [Run(8, 8), Run(16, 5), Run(64, 2), Run(64, 1), Run(8, 0)],
        [Run(3, 0), Run(40, 7)],
    ],
)
def test_the_compiled_loop_reads_what_torch_reads(runs, memory, dtype, monkeypatch):
    pytest.importorskip("numba", reason="numba is in the `fast` extra")
    generator = torch.Generator().manual_seed(memory)
    length = sum(run.columns // run.width * run.bits for run in runs)
    streams = torch.randint(0, 2, (50, length), generator=generator, dtype=torch.uint8)
    form = Trellis.of(streams, torch.rand(len(runs), generator=generator), runs, memory).to(dtype)
    ids = torch.randint(50, (4, 30), generator=generator)
    calls = []
    read = kernels.read_trellis
    monkeypatch.setattr(kernels, "read_trellis", lambda *given: calls.append(1) or read(*given))
    with torch.no_grad():
        compiled = form.lookup(ids)
    assert len(calls) == 1
    plain = form.lookup(ids)  # asks for a gradient
    assert len(calls) == 1
    assert torch.equal(compiled, plain)
    assert compiled.dtype == plain.dtype


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("axis", ["row", "column", "group"])
def test_integers_are_read_by_the_compiled_loop_as_by_torch(axis, bits, monkeypatch):
    pytest.importorskip("numba", reason="numba is in the `fast` extra")
    generator = torch.Generator().manual_seed(bits)
    form = Scalar(40, 21, bits, axis, group_size=8 if axis == "group" else None)
    form.codes.random_(generator=generator)
    form.scales.data.normal_(generator=generator)
    calls, read = [], kernels.read_scalar
    monkeypatch.setattr(kernels, "read_scalar", lambda *given: calls.append(1) or read(*given))
    ids = torch.randint(40, (3, 30), generator=generator)
    with torch.no_grad():
        compiled = form.lookup(ids)
    plain = form.lookup(ids)  # asks for a gradient
    assert len(calls) == 1
    assert torch.equal(compiled, plain)
    with torch.no_grad():
        form.to(torch.bfloat16).lookup(ids)
    assert len(calls) == 1


@pytest.mark.parametrize("form", ["trellis", "scalar"])
def test_the_loops_read_nothing_beyond_the_table(form):
    pytest.importorskip("numba", reason="numba is in the `fast` extra")
    table = Scalar(40, 21, 4) if form == "scalar" else Trellis(40, [Run(21, 1)], 9)
    for wrong in (40, -1, 1 << 40):
        with torch.no_grad(), pytest.raises(IndexError, match="ids lie in 0 … 39"):
            table.lookup(torch.tensor([3, wrong]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vectors", [1, 3, 5])
@pytest.mark.parametrize("bits", [4, 8, 3])
@pytest.mark.parametrize("rows", [203, 204])
def test_logits_by_the_compiled_loop_are_those_of_torch(rows, bits, vectors, dtype, monkeypatch):
    pytest.importorskip("numba", reason="numba is in the `fast` extra")
    generator = torch.Generator().manual_seed(bits)
    codes = torch.randint(1 << bits, (rows, 2, 5), generator=generator)
    words = Dense.of(torch.randn(10 << bits, 3, generator=generator))
    form = Codebooks.of(codes, words, bits).to(dtype)
    hidden = torch.randn(vectors, 15, generator=generator).to(dtype)
    calls, read = [], kernels.sum_tables
    monkeypatch.setattr(kernels, "sum_tables", lambda *given: calls.append(1) or read(*given))
    with torch.no_grad():
        compiled = form.logits(hidden)
    assert len(calls) == (vectors <= 4)
    plain = form.logits(hidden)  # asks for a gradient
    assert len(calls) == (vectors <= 4)
    torch.testing.assert_close(compiled, plain, rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=1e-5)
    assert compiled.dtype == dtype


def test_kept_words_do_not_depend_on_the_dtype_of_the_moment():
    torch.set_default_dtype(torch.bfloat16)
    try:
        kept = all_words(11, 3, torch.zeros(1, dtype=torch.float32))
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(kept, all_words(11, 3, torch.zeros(1)))
    assert kept.unique().numel() > 500


class Counting(torch.nn.Module):
    """Counts the rows that a table decodes."""

    def __init__(self, table):
        super().__init__()
        self.rows, read = 0, table.lookup

        def lookup(ids):
            self.rows += ids.numel()
            return read(ids)

        table.lookup = lookup


def fitted(method=None, rows=300):
    table = torch.randn(rows, 16, generator=torch.Generator().manual_seed(3))
    return (method or Uniform()).fit(table, budget=Budget.ratio(4))


READERS = {"distinct": Distinct, "hot": lambda: HotRows(2000), "no room": lambda: HotRows(10), "resident": Resident}
IDS = torch.tensor([[3, 3, 7, 299], [0, 7, 7, 3]])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_gives_the_rows_and_logits_of_the_table(reader, dtype):
    table, reads = fitted().to(dtype), READERS[reader]()
    hidden = torch.randn(2, 16).to(dtype)
    for ids in (IDS, IDS + 0, IDS[:, :1], torch.arange(300), IDS[:0], torch.tensor(5)):
        with torch.no_grad():
            rows = reads.lookup(table, ids)
        assert torch.equal(rows, table.lookup(ids))
        assert rows.dtype == dtype
    torch.testing.assert_close(reads.logits(table, hidden), table.logits(hidden), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("reader", READERS)
def test_gradients_pass_through_every_reader(reader):
    table, reads = fitted(), READERS[reader]()
    with torch.no_grad():
        reads.lookup(table, IDS)
    reads.lookup(table, IDS).square().sum().backward()
    found = table.scales.grad.clone()
    table.zero_grad()
    table.lookup(IDS).square().sum().backward()
    torch.testing.assert_close(found, table.scales.grad)


@pytest.mark.parametrize("reader", READERS)
def test_what_was_kept_in_inference_mode_serves_outside_of_it(reader):
    table, reads = fitted(), READERS[reader]()
    with torch.inference_mode():
        reads.lookup(table, IDS)
        reads.logits(table, torch.randn(2, 16))
    with torch.no_grad():
        assert torch.equal(reads.lookup(table, IDS // 2), table.lookup(IDS // 2))
    hidden = torch.randn(2, 16, requires_grad=True)
    reads.logits(table.requires_grad_(False), hidden).sum().backward()
    torch.testing.assert_close(hidden.grad, table.dense().sum(0).expand(2, -1), rtol=1e-4, atol=1e-4)


def test_what_is_decoded():
    with torch.no_grad():
        for reader, expected in (("distinct", [4, 4, 1]), ("hot", [4, 0, 1]), ("no room", [4, 4, 1])):
            table, reads = fitted(), READERS[reader]()
            reads.lookup(table, IDS[:, :0])  # what it keeps is made at the first call
            counter = Counting(table)
            seen = []
            for ids in (IDS, IDS, torch.tensor([1, 3, 7] if reader == "hot" else [1])):
                counter.rows = 0
                reads.lookup(table, ids)
                seen.append(counter.rows)
            assert seen == expected, reader


def test_hot_rows_stay_inside_their_limit():
    table, reads = fitted(), HotRows(1500)
    with torch.no_grad():
        reads.lookup(table, torch.arange(300))
    assert reads._used == len(reads._rows) == (1500 - 4 * 300) // (4 * 16)
    assert sum(kept.numel() * kept.itemsize for kept in (reads._rows, reads._slots)) <= 1500


@pytest.mark.parametrize("reader", ["hot", "resident"])
def test_what_is_kept_follows_the_table(reader):
    table, reads = fitted(), READERS[reader]()
    with torch.no_grad():
        before = reads.lookup(table, IDS)
        table.scales.mul_(2)
        assert torch.equal(reads.lookup(table, IDS), 2 * before)
        other = fitted(SVD(), rows=400)
        assert torch.equal(reads.lookup(other, IDS + 99), other.lookup(IDS + 99))


@pytest.mark.parametrize("choice", [{"hot_rows": "20kB"}, {"resident": "dense"}, {}])
def test_a_model_reads_as_it_is_told_and_saves_as_before(choice, tmp_path):
    model, config = tiny.make("gpt2"), VocabpressConfig(FastScan(), Budget.ratio(6))
    compress_input_table(model, config)
    attach(model, config)
    model.save_pretrained(tmp_path / "a")
    expected = tiny.logits(model, tiny.batch())
    read_with(model, **choice)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert embedding.reader is head.reader
    assert type(embedding.reader) is {"hot_rows": HotRows, "resident": Resident}.get(next(iter(choice), ""), Distinct)
    for _ in range(2):
        torch.testing.assert_close(tiny.logits(model, tiny.batch()), expected)
    twin = copy.deepcopy(model)
    torch.testing.assert_close(tiny.logits(twin, tiny.batch()), expected)
    model.save_pretrained(tmp_path / "b")
    assert (tmp_path / "a" / "config.json").read_bytes() == (tmp_path / "b" / "config.json").read_bytes()
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    loaded = AutoModel.from_pretrained(tmp_path / "b", quantization_config=VocabpressConfig(**choice))
    assert type(loaded.get_input_embeddings().reader) is type(embedding.reader)


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"resident": "int8"}, "resident is 'dense' or nothing, got 'int8'"),
        ({"hot_rows": "lots"}, "'lots' is not a size; write it like 800kB"),
        ({"hot_rows": "-1"}, "'-1' is not a size"),
        ({"hot_rows": "1MB", "resident": "dense"}, "resident keeps all rows decoded, hot_rows some; give one of them"),
    ],
)
def test_bad_choices_are_refused(choice, words):
    for use in (lambda: VocabpressConfig(**choice), lambda: read_with(tiny.make("gpt2"), **choice)):
        with pytest.raises(ValueError, match=words):
            use()
