"""Shorter ways to the same rows: the block of a few tokens, compiled loops."""

import pytest
import torch

from vocabpress.embeddings import Dense, Rows, Run, Trellis, kernels
from vocabpress.embeddings.trellis import all_words

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


def test_kept_words_do_not_depend_on_the_dtype_of_the_moment():
    torch.set_default_dtype(torch.bfloat16)
    try:
        kept = all_words(11, 3, torch.zeros(1, dtype=torch.float32))
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(kept, all_words(11, 3, torch.zeros(1)))
    assert kept.unique().numel() > 500
