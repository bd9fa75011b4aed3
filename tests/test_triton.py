"""The kernels of a GPU, held to plain torch: in Triton's interpreter, or on a CUDA device where there is one."""

import copy
import gc
import os
import subprocess
import sys
import weakref

import pytest
import torch

from cases import FORMS, METHOD_CASES, fill, low_rank_table
from vocabpress import Budget
from vocabpress.embeddings import Codebooks, Columns, Dense, Projected, Rows, Run, Scalar, Sum, Trellis, inference
from vocabpress.embeddings.kernels import gpu
from vocabpress.embeddings.kernels.gpu import INTERPRETED, lookup, reader, serves

pytest.importorskip("triton", reason="triton, which comes with torch for CUDA, is not here")
pytestmark = [] if INTERPRETED else [pytest.mark.cuda]
DEVICE = "cpu" if INTERPRETED else "cuda"
FITTED = ["tcq", "fastscan", "groupreduce int8, nothing moved", "blockwise uniform", "svd+svd", "lighttoken"]


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch):
    if INTERPRETED:
        monkeypatch.setenv("TRITON_INTERPRET", "1")


def ids_of(form, count=1):
    """The first row, the last, one twice, and some."""
    last = form.num_embeddings - 1
    some = torch.randint(last + 1, (count,), generator=torch.Generator().manual_seed(count))
    return torch.cat([torch.tensor([0, last, last // 2, last // 2]), some]).to(DEVICE)


def check(form, ids):
    with torch.no_grad():
        rows, plain = lookup(form, ids), form.lookup(ids)
    assert rows.dtype == plain.dtype
    assert rows.shape == plain.shape
    # The interpreter cuts bits off where the device rounds to bfloat16.
    rounding = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}[rows.dtype]
    largest = float(plain.abs().max()) if len(plain) else 0.0
    torch.testing.assert_close(rows, plain, rtol=rounding, atol=rounding * largest)
    return rows, plain


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_read_as_by_torch(name):
    form = FORMS[name]().to(DEVICE)
    check(form, ids_of(form))


@pytest.mark.parametrize("name", FITTED)
def test_what_methods_store_is_read_as_by_torch(name):
    form = METHOD_CASES[name].method.fit(low_rank_table(), budget=Budget.ratio(4)).to(DEVICE)
    check(form, ids_of(form))
    assert reader(form) is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "name",
    [
        "scalar 5 bit, row",
        "scalar 1 bit, no scale",
        "low rank, 4 and 8 bit factors",
        "hash codes, decoded",
        "two-layer decoder",
        "sum",
        "codebooks, staged segments, shared",
        "trellis, rates of all kinds",
        "columns",
        "rows, contiguous",
        "rows, mapped",
    ],
)
def test_half_precision_is_rounded_as_by_torch(name, dtype):
    form = FORMS[name]().to(DEVICE, dtype)
    check(form, ids_of(form, 0))


@pytest.mark.parametrize("memory", [8, 11, 16])
@pytest.mark.parametrize(
    "runs",
    [
        [Run(4, 3), Run(4, 1), Run(2, 0), Run(4, 1, 2), Run(8, 1, 4)],
        [Run(8, 8), Run(16, 5), Run(64, 2), Run(64, 1), Run(8, 0)],
        [Run(3, 0), Run(40, 7)],
        [Run(16, 8, 16), Run(48, 4, 3)],
        [Run(1100, 1)],
    ],
)
def test_runs_of_all_shapes_are_read_to_the_bit(runs, memory):
    form = fill(Trellis(20, runs, memory), memory).to(DEVICE, torch.float16 if memory == 11 else torch.float32)
    rows, plain = check(form, ids_of(form, 0))
    assert torch.equal(rows, plain)


@pytest.mark.parametrize("axis", ["row", "column", "group"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_integers_are_read_to_the_bit(axis, dtype):
    for bits in range(1, 9):
        form = fill(Scalar(20, 21, bits, axis, 8 if axis == "group" else None), bits).to(DEVICE, dtype)
        rows, plain = check(form, ids_of(form, 0)[1:3])
        assert torch.equal(rows, plain)


@pytest.mark.parametrize("tokens", [1, 127, 128, 129, 1000])
@pytest.mark.parametrize("count", [2, 3, 9, 200])
def test_tokens_are_found_in_their_blocks(tokens, count):
    block_of = torch.randint(count, (tokens,), generator=torch.Generator().manual_seed(tokens))
    sizes = torch.bincount(block_of, minlength=count).tolist()
    for mapped in (block_of, block_of.sort().values):
        dense = Rows.of([Dense.of(torch.randn(size, 3)) for size in sizes], mapped).to(DEVICE)
        rows, plain = check(dense, ids_of(dense, 2))
        assert torch.equal(rows, plain)


@pytest.mark.parametrize("ids", [[], [7, 7, 7], [52, 0]])
def test_ids_of_all_kinds(ids):
    form = FORMS["trellis, one bit"]().to(DEVICE)
    for dtype in (torch.int64, torch.int32):
        check(form, torch.tensor(ids, dtype=dtype, device=DEVICE))
    apart = torch.tensor(ids, dtype=torch.int64, device=DEVICE).repeat_interleave(2)[::2]
    check(form, apart)


@pytest.mark.parametrize("name", ["scalar 3 bit, row", "rows, contiguous", "rows, mapped", "low rank", "columns"])
def test_nothing_is_read_beyond_the_table(name):
    form = FORMS[name]().to(DEVICE)
    ids = torch.tensor([3, -1, form.num_embeddings, 1 << 40, 5], device=DEVICE)
    with torch.no_grad():
        rows = lookup(form, ids)
    assert rows[1:4].isnan().all()
    torch.testing.assert_close(rows[[0, 4]], check(form, ids[[0, 4]])[1], rtol=1e-6, atol=1e-6)


def test_what_is_kept_follows_the_table():
    words = Scalar(2 * 8, 6, 8)
    form = fill(Projected(Rows([Codebooks(20, words, 3, 2), Dense(13, 12)]), Scalar(12, 5, 8))).to(DEVICE)
    ids = ids_of(form)
    seen = [check(form, ids)[0]]

    def changed():
        rows, _ = check(form, ids)
        assert not any(torch.equal(rows, before) for before in seen)
        seen.append(rows)

    with torch.no_grad():
        words.scales.mul_(2)
        changed()
        form.basis.scales.mul_(3)
        changed()
        form.inner.blocks[0].codes.random_(generator=torch.Generator(DEVICE).manual_seed(9))
        changed()
        form.inner.blocks[1] = Dense.of(torch.randn(13, 12)).to(DEVICE)
        changed()
        form.load_state_dict(copy.deepcopy(fill(form.cpu(), 5)).to(DEVICE).state_dict())
        form.to(DEVICE)
        changed()
    form.to(torch.float16)
    assert check(form, ids)[0].dtype == torch.float16


def test_places_follow_another_map():
    first = torch.randint(3, (300,), generator=torch.Generator().manual_seed(0))
    blocks = [Dense.of(torch.randn(int((first == index).sum()), 3)) for index in range(3)]
    form = Rows.of(blocks, first).to(DEVICE)
    ids = ids_of(form)
    before, _ = check(form, ids)
    form.load_state_dict(Rows.of(blocks, first.flip(0)).state_dict())
    assert not torch.equal(check(form, ids)[0], before)


class Counted:
    """A kernel that counts its launches."""

    def __init__(self, kernel):
        self.kernel, self.launches = kernel, 0

    def __getitem__(self, grid):
        self.launches += 1
        return self.kernel[grid]


@pytest.mark.parametrize(
    "make",
    [
        lambda: METHOD_CASES["tcq"].method.fit(low_rank_table(), budget=Budget.ratio(8)),
        lambda: METHOD_CASES["fastscan"].method.fit(low_rank_table(), budget=Budget.ratio(8)),
        lambda: fill(Columns([Trellis(9, [Run(8, 1), Run(8, 0), Run(4, 2)], 8), Scalar(9, 4, 3), Dense(9, 2)], 40)),
    ],
    ids=["tcq", "fastscan", "columns"],
)
def test_one_launch_finds_and_decodes_all_rows(make, monkeypatch):
    form = make().to(DEVICE)
    kernel = Counted(gpu.kernels.read_pieces)
    monkeypatch.setattr(gpu.kernels, "read_pieces", kernel)
    check(form, ids_of(form))
    assert kernel.launches == 1


def test_what_no_kernel_reads_reads_itself():
    double = FORMS["dense float32"]().double().to(DEVICE)
    mixed = Rows([FORMS["dense float32"](), FORMS["dense float32"]().half()]).to(DEVICE)
    for form in (double, mixed, FORMS["kronecker, left first"]().to(DEVICE)):
        ids = torch.tensor([0, 7], device=DEVICE)
        with torch.no_grad():
            assert torch.equal(lookup(form, ids), form.lookup(ids))


def test_a_table_that_is_gone_is_forgotten():
    for name in ("sum", "rows, mapped", "codebooks, rotated", "kronecker, left first"):
        form = FORMS[name]().to(DEVICE)
        check(form, ids_of(form, 0))
        gone = weakref.ref(form)
        del form
        gc.collect()
        assert gone() is None, name


def test_inference_mode_leaves_nothing_that_others_cannot_use():
    form = FORMS["low rank, 4 and 8 bit factors"]().to(DEVICE)
    ids = ids_of(form, 0)
    with torch.inference_mode():
        inside = lookup(form, ids)
    assert torch.equal(check(form, ids)[0], inside)


def test_the_kernels_are_for_a_gpu_without_gradients(monkeypatch):
    form = FORMS["scalar 3 bit, row"]().to(DEVICE)
    ids = torch.tensor([[0, 1]], device=DEVICE)
    assert serves(form, ids) == (DEVICE == "cuda")
    assert not serves(form, ids.cpu())
    calls = []
    monkeypatch.setattr(gpu, "serves", lambda *given: True)
    monkeypatch.setattr(gpu, "lookup", lambda table, given: calls.append(1) or lookup(table, given))
    monkeypatch.setattr(inference, "HAVE_NUMBA", False)
    expected = inference.lookup(form, ids)
    assert not calls  # may be trained
    with torch.no_grad():
        assert torch.equal(inference.lookup(form, ids), expected)
    assert len(calls) == 1
    assert torch.equal(inference.lookup(form.requires_grad_(False), ids), expected)
    assert len(calls) == 2


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_nothing_waits_for_the_device():
    form = Sum([FORMS["rows, mapped"](), FORMS["low rank"]()]).cuda()
    ids = ids_of(form)
    with torch.no_grad():
        expected = lookup(form, ids)
        torch.cuda.set_sync_debug_mode("error")
        try:
            rows = lookup(form, ids)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(rows, expected)


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from vocabpress.embeddings.kernels import triton as kernels

places = {"places": "*u8", "length": "i32", "counts": "*i32", "starts": "*i64", "blocks": "i32"}
constants = {"MAP_BITS": 3, "BLOCKS": 8}
for kernel, given, more in (
    (kernels.read_pieces, {"out": "*bf16", "rows": "i32", "width": "i32"}, {"TILE": 256}),
    (kernels.find_rows, {"of_block": "*i32", "of_row": "*i64", "rows": "i32"}, {}),
):
    last = {"bounds": "*i32", "records": "*i64"} if more else {}
    signature = {"ids": "*i64", **given, **places, **last, **dict.fromkeys((*constants, *more), "constexpr")}
    for bits in (0, 3) if more else (3,):
        source = ASTSource(kernel, signature, {**constants, **more, "MAP_BITS": bits})
        print(len(triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]))
"""


def test_the_kernels_compile_for_a_gpu(tmp_path):
    """The interpreter allows what the compiler does not; the compiler needs no device."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.split()) == 3
