"""Readings follow the numbers of a table, however those were written: past the counts that torch keeps of writes."""

import inspect
import itertools
import threading

import pytest
import torch
from torch import optim
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cases import FORMS, fill, near
from vocabpress.embeddings import Dense, Projected, Scalar
from vocabpress.embeddings.caching import HotRows, Reader, Resident
from vocabpress.embeddings.kernels import watch
from vocabpress.embeddings.kernels.watch import PIECE, Watch, bytes_of
from vocabpress.packing import pack, unpack

READERS = {"as stored": Reader, "hot rows": lambda: HotRows(10**6), "resident": Resident}


def check(reader, form, ids=None):
    """The reader gives what plain torch reads now, rows and logits."""
    ids = torch.arange(form.num_embeddings) if ids is None else ids
    with torch.no_grad():
        dtype = form.lookup(ids).dtype
        near(reader.lookup(form, ids), form.lookup(ids), dtype)
        hidden = form.lookup(ids[:3])
        near(reader.logits(form, hidden), hidden @ form.dense().T, dtype)


def write_unseen(tensor, way):
    """Other numbers of the same kind, in a way that torch does not count as a write."""
    before = tensor._version
    # Every pattern of codes is valid.
    changed = tensor.detach() * -1.5 + 0.25 if tensor.is_floating_point() else tensor.detach().flip(0)
    if way == "data":
        tensor.data.copy_(changed)
    elif way == "numpy":
        tensor.detach().view(torch.uint8).numpy()[...] = changed.view(torch.uint8).numpy()
    else:
        tensor.data = changed
    assert tensor._version == before


@pytest.mark.parametrize(
    ("dtype", "way"), [(torch.float32, "data"), (torch.bfloat16, "numpy"), (torch.float16, "other memory")]
)
@pytest.mark.parametrize("name", FORMS)
def test_writes_that_torch_does_not_count(name, dtype, way):
    form = FORMS[name]().to(dtype)
    readers = [make() for make in READERS.values()]
    for _, tensor in [*form.named_parameters(), *form.named_buffers()]:
        for reader in readers:
            check(reader, form)
        if tensor is getattr(form, "block_of", None):
            continue  # below
        write_unseen(tensor, way)
        for reader in readers:
            check(reader, form)


@pytest.mark.parametrize("reader", READERS)
def test_another_map_in_the_same_memory(reader):
    form, reads = FORMS["rows, mapped"](), READERS[reader]()
    check(reads, form)
    before, blocks = form.dense(), unpack(form.block_of, form.map_bits, form.num_embeddings)
    form.block_of.data.copy_(pack(blocks.roll(7), form.map_bits))  # as many tokens of each block
    assert not torch.equal(form.dense(), before)
    check(reads, form)


def steps_of():
    """Each optimiser of torch in each of its modes, but those for sparse gradients and for matrices alone."""
    for name in sorted(vars(optim)):
        cls = getattr(optim, name)
        if not isinstance(cls, type) or not issubclass(cls, optim.Optimizer) or cls is optim.Optimizer:
            continue
        modes = [mode for mode in ("foreach", "fused", "capturable") if mode in inspect.signature(cls).parameters]
        if name not in ("SparseAdam", "Muon"):
            yield from (pytest.param(cls, mode, id=f"{name} {mode}") for mode in ("plain", *modes))


@pytest.mark.parametrize("reader", ["as stored", "resident"])  # hot rows are kept as the resident table is
@pytest.mark.parametrize(("optimiser", "mode"), list(steps_of()))
def test_steps_of_every_optimiser(optimiser, mode, reader):
    form, reads = fill(Projected(Scalar(40, 6, 4, "column"), Scalar(6, 9, 8))), READERS[reader]()
    options = {} if mode == "plain" else {mode: True}
    parameters = [*form.parameters()]
    needed = {"lr": 0.1} if "lr" in inspect.signature(optimiser).parameters else {}
    try:
        steps = optimiser(parameters, **needed, **options)
    except RuntimeError as refused:
        pytest.skip(f"not on the processor: {refused}")
    ids = torch.tensor([1, 5, 5, 30])
    before = [parameter.detach().clone() for parameter in parameters]
    for _ in range(2):
        check(reads, form)

        def loss():
            steps.zero_grad()
            value = reads.lookup(form, ids).square().sum()
            value.backward()
            return value

        try:
            steps.step(loss)
        except (AssertionError, RuntimeError) as refused:
            if mode == "capturable":
                pytest.skip(f"not on the processor: {refused}")
            raise
        check(reads, form)
    assert not all(torch.equal(old, new) for old, new in zip(before, parameters, strict=True))


@pytest.mark.parametrize("reader", READERS)
def test_averages_swaps_and_loads(reader):
    form, reads = fill(Projected(Scalar(40, 6, 4, "column"), Scalar(6, 9, 8))), READERS[reader]()
    other = fill(Projected(Scalar(40, 6, 4, "column"), Scalar(6, 9, 8)), seed=5)
    average = AveragedModel(form, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    check(reads, form)
    state = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with torch.no_grad():
        torch._foreach_lerp_([*form.parameters()], [*other.parameters()], 0.5)
    check(reads, form)
    average.update_parameters(form)
    for mine, averaged in zip(form.parameters(), average.parameters(), strict=True):  # as for an evaluation
        mine.data, averaged.data = averaged.data, mine.data
    check(reads, form)
    form.load_state_dict(state, assign=True)
    check(reads, form)
    for parameter in form.parameters():  # memory that is freed is given out again
        parameter.data = parameter.data * 3
        check(reads, form)
    with torch.inference_mode():
        form.inner.codes.copy_(other.inner.codes.flip(0))
    check(reads, form)
    for mine, theirs in zip(form.parameters(), other.parameters(), strict=True):
        torch.utils.swap_tensors(mine, theirs)
    check(reads, form)


def test_large_codes_are_looked_at_in_turn():
    form, codes = Scalar(3 * PIECE + 5, 1, 8), torch.zeros(3 * PIECE + 5, 1, dtype=torch.uint8)
    form.codes = codes
    seen = Watch(form, codes=[codes])
    assert all(seen.holds(form) for _ in range(9))
    codes.data[-1] = 7  # in the last of four pieces
    assert [seen.holds(form) for _ in range(4)].count(False) == 1
    codes.data[-1] = 0
    assert all(seen.holds(form) for _ in range(4))
    codes.data.add_(1)
    assert not any(seen.holds(form) for _ in range(4))
    again = Watch(form, codes=[codes])
    codes.zero_()  # counted
    assert not again.holds(form)


@pytest.mark.parametrize("loops", [True, False])
def test_a_look_sees_any_byte(loops, monkeypatch):
    if loops:
        pytest.importorskip("numba", reason="numba is in the `fast` extra")
    monkeypatch.setattr(watch, "HAVE_NUMBA", loops)
    tensors = [torch.arange(77, dtype=torch.float32), torch.zeros(3, 7).T, torch.ones((), dtype=torch.bfloat16)]
    tensors.append(torch.randint(256, (1003,), dtype=torch.uint8))
    same = bytes_of(tensors)
    for tensor in tensors:
        for place in itertools.product(*map(range, tensor.shape)):
            old = tensor[place].clone()
            tensor.data[place] += 1
            assert not same()
            tensor.data[place] = old
    assert same()
    tensors[0].data[[3, 4]] = tensors[0].data[[4, 3]]  # the same numbers in another order
    assert not same()


@pytest.mark.parametrize("reader", [*READERS, "hot rows, no room", "hot rows, little room"])
def test_threads_share_a_reader(reader):
    limits = {"hot rows, no room": 10, "hot rows, little room": 4 * 2000 + 4 * 16 * 300}
    reads = HotRows(limits[reader]) if reader in limits else READERS[reader]()
    form = fill(Projected(Dense(2000, 5), Dense(5, 16)))
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randint(2000, (4, 32), generator=generator) for _ in range(120)]
    expected, wrong = [form.lookup(batch).detach() for batch in batches], []
    start = threading.Barrier(4, timeout=60)

    def work(first):
        try:
            start.wait()
            with torch.no_grad():
                for batch, rows in list(zip(batches, expected, strict=True))[first::4]:
                    if not torch.allclose(reads.lookup(form, batch), rows, atol=1e-4):
                        wrong.append(batch)
        except Exception as error:  # for the assertion below to show
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    for batch in batches:
        check(reads, form, batch.flatten())
