"""Compiled loops: rows and logits of every form and method, as plain torch has them."""

import copy
import gc
import os
import signal
import threading
import weakref

import pytest
import torch

from cases import BUDGETS, DTYPES, FORMS, METHOD_CASES, fill, low_rank_table, near
from vocabpress.embeddings import Codebooks, Dense, Projected, Run, Scalar, Trellis, inference
from vocabpress.embeddings.inference import TOP_WHOLE, by_loops, logits, lookup, top_logits
from vocabpress.embeddings.kernels import decoders, loops, threads
from vocabpress.embeddings.kernels.compiling import HAVE_NUMBA
from vocabpress.embeddings.kernels.scorers import MOST_BY_TABLES
from vocabpress.embeddings.kernels.threads import in_threads
from vocabpress.embeddings.trellis import all_words


def loops_for(form, ids):
    return by_loops(form, ids, "rows", inference._row_reader)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FORMS)
@torch.no_grad()
def test_loops_read_every_form_as_torch_does(name, dtype):
    pytest.importorskip("numba", reason="numba is in the `fast` extra")
    form = FORMS[name]().to(dtype)
    assert loops_for(form, torch.arange(3)) is not None
    every = torch.arange(form.num_embeddings)
    for ids in (every, every.flip(0).view(1, -1)[:, ::3], every[:0], torch.tensor(5), torch.tensor([[9, 9]]).int()):
        rows = lookup(form, ids)
        assert rows.shape == (*ids.shape, form.embedding_dim)
        assert rows.dtype == form.lookup(ids).dtype
        near(rows, form.lookup(ids), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FORMS)
@torch.no_grad()
def test_loops_give_the_logits_of_every_form_as_torch_does(name, dtype):
    pytest.importorskip("numba", reason="numba is in the `fast` extra")
    form, generator = FORMS[name]().to(dtype), torch.Generator().manual_seed(1)
    for shape in ((), (1,), (2, 5), (MOST_BY_TABLES + 1,), (0,)):
        hidden = torch.randn(*shape, form.embedding_dim, generator=generator).to(dtype)
        found = logits(form, hidden)
        assert found.shape == (*shape, form.num_embeddings)
        assert found.dtype == dtype
        near(found, hidden @ form.dense().to(dtype).T, dtype)


@pytest.mark.parametrize("name", METHOD_CASES)
@torch.no_grad()
def test_loops_read_what_every_method_stores(name):
    pytest.importorskip("numba", reason="numba is in the `fast` extra")
    form = METHOD_CASES[name].method.fit(low_rank_table(), budget=BUDGETS[1])
    ids = torch.randint(400, (70,), generator=torch.Generator().manual_seed(2))
    assert loops_for(form, ids) is not None
    near(lookup(form, ids), form.lookup(ids), torch.float32)
    near(logits(form, form.dense()[:2]), form.logits(form.dense()[:2]), torch.float32)


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
def test_trellis_rows_are_equal_to_the_bit(runs, memory, dtype):
    pytest.importorskip("numba", reason="numba is in the `fast` extra")
    generator = torch.Generator().manual_seed(memory)
    length = sum(run.columns // run.width * run.bits for run in runs)
    streams = torch.randint(0, 2, (50, length), generator=generator, dtype=torch.uint8)
    form = Trellis.of(streams, torch.rand(len(runs), generator=generator), runs, memory).to(dtype)
    ids = torch.randint(50, (4, 30), generator=generator)
    with torch.no_grad():
        assert loops_for(form, ids) is not None
        assert torch.equal(lookup(form, ids), form.lookup(ids))


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("axis", ["row", "column", "group"])
@torch.no_grad()
def test_rows_of_integers_are_equal_to_the_bit(axis, bits):
    pytest.importorskip("numba", reason="numba is in the `fast` extra")
    generator = torch.Generator().manual_seed(bits)
    form = Scalar(40, 21, bits, axis, group_size=8 if axis == "group" else None)
    form.codes.random_(generator=generator)
    form.scales.normal_(generator=generator)
    ids = torch.randint(40, (3, 30), generator=generator)
    assert torch.equal(lookup(form, ids), form.lookup(ids))


def test_loops_leave_what_is_not_theirs_to_torch():
    form, ids = Scalar(40, 21, 4), torch.tensor([1, 2])
    assert loops_for(form, ids) is None  # may be trained
    with torch.no_grad():
        assert (loops_for(form, ids) is not None) == HAVE_NUMBA
        assert loops_for(form, ids.to("meta")) is None
        assert loops_for(form.double(), ids) is None
        assert loops_for(Projected(type("Own", (Dense,), {})(40, 3), Dense(3, 5)), ids) is None
    lookup(form, ids).sum().backward()
    assert form.scales.grad is not None


@pytest.mark.parametrize("form", ["trellis", "scalar"])
def test_the_loops_read_nothing_beyond_the_table(form):
    pytest.importorskip("numba", reason="numba is in the `fast` extra")
    table = Scalar(40, 21, 4) if form == "scalar" else Trellis(40, [Run(21, 1)], 9)
    for wrong in (40, -1, 1 << 40):
        with torch.no_grad(), pytest.raises(IndexError, match="ids lie in 0 … 39"):
            lookup(table, torch.tensor([3, wrong]))


@torch.no_grad()
def test_a_map_that_points_beyond_its_blocks_is_no_loops_business():
    form, ids = FORMS["rows, mapped"](), torch.tensor([0, 30])
    assert (loops_for(form, ids) is not None) == HAVE_NUMBA
    form.block_of.fill_(255)  # block 3 of 3
    assert loops_for(form, ids) is None
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        lookup(form, ids)


@pytest.mark.parametrize("rows", [203, 204, 9001])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@torch.no_grad()
def test_sums_of_many_codes(rows, bits):
    """More places and rows than the loop takes at once, and than one thread gets."""
    generator = torch.Generator().manual_seed(bits)
    codes = torch.randint(1 << bits, (rows, 2, 75), generator=generator)
    form = Codebooks.of(codes, Dense.of(torch.randn(150 << bits, 2, generator=generator)), bits)
    hidden = torch.randn(3, 150, generator=generator)
    near(logits(form, hidden), hidden @ form.dense().T, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FORMS)
@torch.no_grad()
def test_what_is_too_large_to_be_held_is_decoded_at_every_call(name, dtype, monkeypatch):
    pytest.importorskip("numba", reason="numba is in the `fast` extra")
    monkeypatch.setattr(decoders, "MOST_CACHED", 0)
    form, ids = FORMS[name]().to(dtype), torch.tensor([1, 5, 5])
    for _ in range(2):
        near(lookup(form, ids), form.lookup(ids), dtype)
        hidden = form.lookup(ids)
        near(logits(form, hidden), hidden @ form.dense().T, dtype)
        for parameter in form.parameters():
            parameter.data.mul_(-1.5)


@pytest.mark.parametrize("name", ["scalar 5 bit, row", "codebooks, staged segments, shared", "trellis, one bit"])
@torch.no_grad()
def test_codes_that_do_not_lie_side_by_side(name):
    form, ids = FORMS[name](), torch.arange(7)
    form.codes = form.codes.T.contiguous().T
    for _ in range(2):
        near(lookup(form, ids), form.lookup(ids), torch.float32)
        near(logits(form, form.lookup(ids)), form.lookup(ids) @ form.dense().T, torch.float32)
        form.codes.data.copy_(form.codes.flip(0))


def test_what_loops_hold_follows_the_table():
    pytest.importorskip("numba", reason="numba is in the `fast` extra")
    form = Projected(Scalar(40, 5, 4), Scalar(5, 6, 8))
    ids = torch.arange(40)

    def check():
        assert loops_for(form, ids) is not None
        near(lookup(form, ids), form.lookup(ids), torch.float32)

    with torch.no_grad():
        for part in (form.inner, form.basis):
            part.codes.random_()
            part.scales.normal_()
        check()
        form.basis.scales.mul_(3)  # written to
        check()
        form.load_state_dict({name: tensor.flip(0) for name, tensor in form.state_dict().items()})
        check()
        form.basis = Dense.of(torch.randn(5, 6))  # exchanged
        check()
        form.inner.scales = torch.nn.Parameter(torch.randn(40, 1))
        check()
        form.bias.data = torch.randn(6)  # other memory
        check()
        twin = copy.deepcopy(form)
        twin.bias.add_(1)
        near(lookup(twin, ids), form.lookup(ids) + 1, torch.float32)
        check()


@torch.no_grad()
def test_a_table_without_a_head_has_no_scorer(monkeypatch):
    pytest.importorskip("numba", reason="numba is in the `fast` extra")
    form, made = fill(Projected(Scalar(40, 3, 8), Scalar(3, 5, 8))), []
    for name in ("scorer", "_row_reader"):
        make = getattr(inference, name)
        monkeypatch.setattr(inference, name, lambda table, name=name, make=make: made.append(name) or make(table))
    for _ in range(2):
        lookup(form, torch.tensor([1]))
    assert made == ["_row_reader"]
    for _ in range(2):
        logits(form, torch.zeros(1, 5))
    assert made == ["_row_reader", "scorer"]


@pytest.mark.parametrize("method", ["svd", "tcq", "fastscan"])
@torch.no_grad()
def test_one_loop_reads_all_rows_of_a_lookup(method, monkeypatch):
    pytest.importorskip("numba", reason="numba is in the `fast` extra")
    calls, read_rows = [], loops.read_rows
    monkeypatch.setattr(loops, "read_rows", lambda *given: calls.append(1) or read_rows(*given))
    form = METHOD_CASES[method].method.fit(low_rank_table(), budget=BUDGETS[1])
    calls.clear()  # those of the fit
    near(lookup(form, torch.arange(50)), form.lookup(torch.arange(50)), torch.float32)
    assert len(calls) == 1


@torch.no_grad()
def test_a_basis_is_held_once(monkeypatch):
    form, decoded = Projected(Dense(40, 3), Scalar(3, 5, 8)), []
    dense = form.basis.dense
    monkeypatch.setattr(form.basis, "dense", lambda: decoded.append(1) or dense())
    lookup(form, torch.tensor([1]))
    logits(form, torch.zeros(1, 5))
    logits(form, torch.zeros(MOST_BY_TABLES + 1, 5))
    # Plain torch, which is asked for the dtype of the rows once, decodes it, too.
    assert len(decoded) == (2 if HAVE_NUMBA else 3)


@pytest.mark.parametrize("name", FORMS)
@torch.no_grad()
def test_nothing_is_held_of_a_table_that_is_gone(name):
    form = FORMS[name]()
    lookup(form, torch.tensor([1]))
    logits(form, torch.zeros(1, form.embedding_dim))
    gone = [weakref.ref(tensor) for tensor in (*form.parameters(), *form.buffers())]
    del form
    gc.collect()
    assert not [tensor for tensor in gone if tensor() is not None]


def spans_of(rows=10):
    found = []
    in_threads(lambda first, last: found.append((first, last)), rows, least=1)
    return sorted(found)


@pytest.fixture(params=["torch's", "ours"])
def two_threads(request, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    if request.param == "ours":
        monkeypatch.setattr(threads, "_openmp", lambda: None)


@pytest.mark.usefixtures("two_threads")
def test_rows_are_shared_out_once():
    assert spans_of() == [(0, 5), (5, 10)]
    together = threading.Barrier(2, timeout=60)
    in_threads(lambda first, last: together.wait(), 10, least=1)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("where", [0, 5])
def test_an_error_in_any_thread_is_raised(where):
    def work(first, last):
        if first == where:
            raise KeyError(first)

    with pytest.raises(KeyError, match=str(where)):
        in_threads(work, 10, least=1)


@pytest.mark.skipif(threads._openmp() is None, reason="torch has other threads than GNU's here")
def test_threads_in_threads_leave_no_row_out(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    found = []
    in_threads(lambda first, last: found.extend(spans_of()), 10, least=1)
    assert sum(last - first for first, last in found) == 20


@pytest.mark.usefixtures("two_threads")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_threads_are_started_anew_in_a_child():
    assert spans_of() == [(0, 5), (5, 10)]
    child = os.fork()
    if child == 0:  # without threads of its own it would wait for ever
        signal.alarm(60)
        os._exit(0 if spans_of() == [(0, 5), (5, 10)] else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("vectors", [1, TOP_WHOLE + 3])
@pytest.mark.parametrize("name", ["tcq", "fastscan", "product", "svd+svd", "lighttoken"])
@torch.no_grad()
def test_the_top_logits_are_those_of_all(name, vectors, monkeypatch):
    monkeypatch.setattr(inference, "TOP_TILE", 64)  # of 400 rows
    form = METHOD_CASES[name].method.fit(low_rank_table(), budget=BUDGETS[1])
    hidden = torch.randn(vectors, 24, generator=torch.Generator().manual_seed(4))
    bias = torch.randn(400, generator=torch.Generator().manual_seed(5))
    for given in (None, bias):
        every = hidden @ form.dense().T + (0 if given is None else given)
        values, tokens = top_logits(form, hidden, 100, given)
        torch.testing.assert_close(values, every.topk(100).values, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(every.gather(-1, tokens), values, rtol=1e-4, atol=1e-5)
        assert all(len(row.unique()) == 100 for row in tokens)
    assert top_logits(form, hidden, 400)[1].shape == (vectors, 400)
    for wrong in (0, 401):
        with pytest.raises(ValueError, match=f"count is 1 to 400, the rows of the table; got {wrong}"):
            top_logits(form, hidden, wrong)


def test_kept_words_do_not_depend_on_the_dtype_of_the_moment():
    torch.set_default_dtype(torch.bfloat16)
    try:
        words = all_words(11, 3, torch.zeros(1, dtype=torch.float32))
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(words, all_words(11, 3, torch.zeros(1)))
    assert words.unique().numel() > 500
