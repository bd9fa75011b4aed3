"""Ways of reading: the block of a few tokens, distinct rows, rows that are kept, all rows."""

import copy
import weakref

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM

import tiny
from cases import DTYPES, near
from vocabpress import SVD, TCQ, Budget, FastScan, Uniform, VocabpressConfig, read_with
from vocabpress.embeddings import Dense, Rows, inference
from vocabpress.embeddings.caching import HotRows, Reader, Resident
from vocabpress.embeddings.inference import lookup
from vocabpress.hf.compress import compress_model
from vocabpress.hf.modules import TiedHead
from vocabpress.hf.request import Request


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
    block, place = form._mapped_place_of(ids, form.block_of)
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


def fitted(method=None, rows=300):
    table = torch.randn(rows, 16, generator=torch.Generator().manual_seed(3))
    return (method or Uniform()).fit(table, budget=Budget.ratio(4))


READERS = {"distinct": Reader, "hot": lambda: HotRows(2000), "no room": lambda: HotRows(10), "resident": Resident}
IDS = torch.tensor([[3, 3, 7, 299], [0, 7, 7, 3]])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_gives_the_rows_and_logits_of_the_table(reader, dtype):
    table, reads = fitted().to(dtype), READERS[reader]()
    hidden = torch.randn(2, 16).to(dtype)
    for ids in (IDS, IDS + 0, IDS[:, :1], torch.arange(300), IDS[:0], torch.tensor(5)):
        with torch.no_grad():
            rows = reads.lookup(table, ids)
            assert torch.equal(rows, lookup(table, ids))
        near(rows, table.lookup(ids), dtype)
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


def test_what_is_decoded(monkeypatch):
    read = []
    monkeypatch.setattr(inference, "by_loops", lambda *given: None)
    monkeypatch.setattr(inference, "_without_loops", lambda table, ids: read.append(len(ids)) or table.lookup(ids))
    monkeypatch.setattr(inference, "MANY", 2)
    with torch.no_grad():
        for reader, expected in (("distinct", [4, 4, 1]), ("hot", [4, 0, 1]), ("no room", [4, 4, 1])):
            table, reads = fitted(), READERS[reader]()
            seen = []
            for ids in (IDS, IDS, torch.tensor([1, 3, 7] if reader == "hot" else [1])):
                read.clear()
                reads.lookup(table, ids)
                seen.append(sum(read))
            assert seen == expected, reader


def test_hot_rows_stay_inside_their_limit():
    table, reads = fitted(), HotRows(1500)
    with torch.no_grad():
        reads.lookup(table, torch.arange(300))
    hot = reads._cached[1]
    assert hot.used == len(hot.rows) == (1500 - 4 * 300) // (4 * 16)
    assert hot.rows.nbytes + hot.slots.nbytes <= 1500


@pytest.mark.parametrize("reader", ["hot", "resident"])
def test_what_is_kept_follows_the_table(reader):
    table, reads = fitted(), READERS[reader]()
    with torch.no_grad():
        before = reads.lookup(table, IDS)
        table.scales.mul_(2)
        assert torch.equal(reads.lookup(table, IDS), 2 * before)
        other = fitted(SVD(), rows=400)
        assert torch.equal(reads.lookup(other, IDS + 99), other.lookup(IDS + 99))


@torch.no_grad()
def test_heads_have_top_logits_too():
    table, bias = fitted(), torch.nn.Parameter(torch.randn(300))
    hidden = torch.randn(2, 3, 16)
    for head in (TiedHead(table), TiedHead(table, bias), TiedHead(table, additional_fc=torch.nn.Linear(16, 4))):
        best = head(hidden).topk(7)
        values, tokens = head.topk(hidden, 7)
        torch.testing.assert_close(values, best.values)
        assert torch.equal(tokens, best.indices)


@pytest.mark.parametrize("choice", [{"hot_rows": "20kB"}, {"resident": "dense"}, {}])
def test_a_model_reads_as_it_is_told_and_saves_as_before(choice, tmp_path):
    model = tiny.make("gpt2")
    compress_model(model, Request(FastScan(), Budget.ratio(6)))
    model.save_pretrained(tmp_path / "a")
    expected = tiny.logits(model, tiny.batch())
    read_with(model, **choice)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert embedding.reader is head.reader
    assert type(embedding.reader) is {"hot_rows": HotRows, "resident": Resident}.get(next(iter(choice), ""), Reader)
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
    ("name", "method", "reader"),
    [
        ("llama", TCQ(memory=8), Resident),
        ("llama", FastScan(), Reader),
        ("llama", Uniform(), Reader),
        ("llama, untied", TCQ(memory=8), Reader),
    ],
)
def test_trellis_codes_are_decoded_once_where_a_head_is_tied(name, method, reader, tmp_path):
    model = tiny.make(name)
    compress_model(model, Request(method, Budget.ratio(6)))
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {type(each.get_input_embeddings().reader) for each in (model, loaded)} == {reader}
    assert type(AutoModel.from_pretrained(tmp_path).get_input_embeddings().reader) is Reader
    codes = VocabpressConfig(resident="codes")
    stored = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16, quantization_config=codes)
    assert type(stored.get_input_embeddings().reader) is Reader
    near(tiny.logits(loaded, tiny.batch()), tiny.logits(stored, tiny.batch()), torch.bfloat16)
    if reader is Resident:
        kept = loaded.get_output_embeddings().reader._cached[1]
        assert kept.rows.dtype == torch.bfloat16
        assert loaded.get_input_embeddings().reader is loaded.get_output_embeddings().reader
    read_with(loaded, resident="codes")
    assert type(loaded.get_input_embeddings().reader) is Reader
    read_with(loaded)
    assert type(loaded.get_input_embeddings().reader) is reader


def test_decoded_rows_are_given_back_before_they_are_made_anew(monkeypatch):
    table, reads = fitted(), Resident()
    with torch.no_grad():
        reads.lookup(table, IDS)
        kept, make = [weakref.ref(reads._cached[1])], reads._make
        monkeypatch.setattr(reads, "_make", lambda table: kept.append(kept[0]()) or make(table))
        table.scales.mul_(2)
        reads.lookup(table, IDS)
    assert kept[1] is None
    assert reads._cached is not None
    reads.lookup(table, IDS)  # the table may train
    assert reads._cached is None


@torch.no_grad()
@pytest.mark.parametrize("vectors", [1, 20])
def test_the_largest_logits_are_those_of_the_decoded_rows(vectors, monkeypatch):
    table = fitted(TCQ(memory=8))
    head, hidden = TiedHead(table), torch.randn(vectors, 16)
    expected = head.topk(hidden, 5)
    read_with(head)
    assert type(head.reader) is Resident
    head(hidden)
    monkeypatch.setattr(type(table), "lookup", None)  # nothing is decoded again
    for found, wanted in zip(head.topk(hidden, 5), expected, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"resident": "int8"}, "resident is 'dense', 'codes' or nothing, got 'int8'"),
        ({"hot_rows": "lots"}, "'lots' is not a size; write it like 800kB"),
        ({"hot_rows": "-1"}, "'-1' is not a size"),
        (
            {"hot_rows": "1MB", "resident": "dense"},
            "resident is for all rows, hot_rows keeps some decoded; give one of them",
        ),
    ],
)
def test_bad_choices_are_refused(choice, words):
    for use in (lambda: VocabpressConfig(**choice), lambda: read_with(tiny.make("gpt2"), **choice)):
        with pytest.raises(ValueError, match=words):
            use()


@pytest.mark.parametrize("reader", ["hot", "resident"])
def test_copies_go_without_what_is_kept(reader):
    table, reads = fitted(), READERS[reader]()
    with torch.no_grad():
        reads.lookup(table, IDS)
        # What processes hand to each other is made by the same `__getstate__`.
        for twin in (copy.copy(reads), copy.deepcopy(reads)):
            assert vars(twin) == {name: value for name, value in vars(reads).items() if name == "limit"}
            assert torch.equal(twin.lookup(table, IDS), reads.lookup(table, IDS))
