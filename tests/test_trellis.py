"""Trellis codes: decoding by hand, the best path against all paths, distances to the bound."""

from itertools import product

import pytest
import torch

from cases import low_rank_table
from vocabpress import TCQ, Budget
from vocabpress.embeddings import Dense, Scalar
from vocabpress.embeddings.trellis import Run, Trellis, words
from vocabpress.fitting.rates import weight_classes
from vocabpress.fitting.table import Table
from vocabpress.fitting.trellis import encode
from vocabpress.fitting.viterbi import Steps, best_path, plain_path
from vocabpress.methods.tcq import WORDS
from vocabpress.packing import unpack
from vocabpress.progress import Bar


def decode(bits, runs, scales, memory):
    """One row, step by step, with lists: the ring of bits, a window that ends where the step ends."""
    row, position = [], 0
    for (columns, new, width), scale in zip(runs, scales, strict=True):
        for _ in range(columns // width if new else columns):
            if not new:
                row.append(0.0)
                continue
            position += new
            window = [bits[(position - memory + offset) % len(bits)] for offset in range(memory)]
            state = sum(bit << place for place, bit in enumerate(window))
            row += [scale * float(word) for word in words(torch.tensor(state), width)]
    return row


RUNS = [Run(2, 3), Run(3, 1), Run(2, 0), Run(4, 1, 2), Run(4, 1, 4)]


def test_lookup_reads_the_windows_of_the_ring():
    generator = torch.Generator().manual_seed(1)
    streams = torch.randint(0, 2, (7, 12), generator=generator, dtype=torch.uint8)
    scales = torch.tensor([1.0, 2.0, 1.0, 0.5, 3.0])
    form = Trellis.of(streams, scales, RUNS, 9)
    expected = [decode(stream, RUNS, scales.tolist(), 9) for stream in streams.tolist()]
    torch.testing.assert_close(form.dense(), torch.tensor(expected))


def test_a_word_by_hand():
    # (34038481 * 3 + 76625530) mod 2**32 = 178740973 = 0x0AA75EED: bytes 0x0A, 0xA7, 0x5E, 0xED
    assert (34038481 * 3 + 76625530) % 2**32 == 0x0AA75EED
    assert float(words(torch.tensor(3), 1)) == pytest.approx((0x0A + 0xA7 + 0x5E + 0xED - 510) / 147.8)
    many = words(torch.arange(2**16), 1)
    assert abs(float(many.mean())) < 0.01
    assert float(many.var()) == pytest.approx(1, abs=0.02)


def errors_of(streams, rows, runs, scales, importance, memory):
    found = Trellis.of(streams, scales, runs, memory).dense().detach()
    return ((rows - found) ** 2 * importance).sum(-1)


def encoded(rows, runs, scales, importance, memory):
    form = Trellis(len(rows), runs, memory)
    encode(Table.of(rows), form.codes, runs, scales, importance, memory)
    return unpack(form.codes, 1, form.row_bits)


BOTH = pytest.mark.parametrize("find_path", [best_path, plain_path], ids=["compiled", "torch"])


@BOTH
def test_with_the_seam_given_the_path_is_the_best_of_all_rings(find_path):
    memory, runs = 8, [Run(6, 1), Run(2, 2), Run(2, 1, 2)]
    scales, importance = torch.tensor([1.0, 1.0, 0.6]), torch.tensor([3.0] * 6 + [1.0] * 4)
    row = torch.randn(1, 10, generator=torch.Generator().manual_seed(2))
    every = torch.tensor(list(product((0, 1), repeat=11)), dtype=torch.uint8)
    errors = errors_of(every, row, runs, scales, importance, memory)
    # The last bits of the ring, the first of them the lowest.
    seams = (every[:, -memory:].long() << torch.arange(memory)).sum(1)
    ring = torch.arange(2**memory)
    streams, _ = find_path(row.expand(len(ring), -1), Steps.of(runs, scales, memory), importance, ring)
    found = errors_of(streams, row, runs, scales, importance, memory)
    for seam in ring.tolist():
        torch.testing.assert_close(found[seam], errors[seams == seam].min())


@pytest.mark.parametrize(
    ("memory", "runs"),
    [
        (8, [Run(5, 8), Run(3, 0), Run(6, 3), Run(9, 1)]),
        (9, [Run(4, 1, 4), Run(6, 2, 3), Run(8, 1), Run(16, 5, 16)]),
        (12, [Run(20, 1)]),
    ],
    ids=str,
)
@pytest.mark.parametrize("closed", [True, False])
def test_loops_and_torch_find_the_same_paths(memory, runs, closed):
    generator = torch.Generator().manual_seed(5)
    rows = torch.randn(12, sum(run.columns for run in runs), generator=generator)
    scales, importance = torch.rand(len(runs), generator=generator) + 0.5, torch.rand(len(rows[0]), generator=generator)
    seam = torch.randint(2**memory, (12,), generator=generator) if closed else None
    steps = Steps.of(runs, scales, memory)
    for at in range(len(steps.each) + 1):
        (mine, my_state), (plain, state) = (find(rows, steps, importance, seam, at) for find in (best_path, plain_path))
        # Paths that are equally good up to rounding are rare: none among these.
        assert torch.equal(mine, plain)
        assert torch.equal(my_state, state)


def test_where_there_are_no_loops_torch_finds_the_streams(monkeypatch):
    rows = torch.randn(9, 24, generator=torch.Generator().manual_seed(6))
    given = [Run(24, 1)], torch.ones(1), torch.ones(24), 8
    with_loops = encoded(rows, *given)
    monkeypatch.setattr("vocabpress.fitting.viterbi.HAVE_NUMBA", False)
    monkeypatch.setattr("vocabpress.fitting.viterbi.find_paths", None)
    assert torch.equal(encoded(rows, *given), with_loops)


def test_the_seam_that_is_found_costs_little():
    memory, runs = 8, [Run(24, 2), Run(40, 1), Run(40, 1, 2)]
    scales, importance = torch.tensor([1.0, 0.85, 0.7]), torch.ones(104)
    rows = torch.randn(8, 104, generator=torch.Generator().manual_seed(4))
    error = errors_of(encoded(rows, runs, scales, importance, memory), rows, runs, scales, importance, memory)
    steps, ring = Steps.of(runs, scales, memory), torch.arange(2**memory)
    for row, mine in zip(rows, error, strict=True):
        streams, _ = best_path(row.expand(len(ring), -1), steps, importance, ring)
        best = errors_of(streams, row, runs, scales, importance, memory).min()
        assert best * 0.9999 <= mine <= best * 1.05


def test_one_bit_comes_near_to_the_bound_and_memory_brings_it_nearer():
    rows = torch.randn(200, 128, generator=torch.Generator().manual_seed(3))
    runs, scale, importance = [Run(128, 1)], torch.tensor([3**0.5 / 2]), torch.ones(128)
    found = [
        float(errors_of(encoded(rows, runs, scale, importance, memory), rows, runs, scale, importance, memory).mean())
        for memory in (8, 10, 12)
    ]
    assert found == sorted(found, reverse=True)
    # The bound, and the best scalar code of one bit (Max, 1960).
    assert all(0.25 < error / 128 < 0.363 for error in found)
    assert found[1] / 128 < 0.30


def test_blocks_are_steps_of_the_logarithm_of_the_weights():
    weights = torch.tensor([1.0, 16.0, 2.0, 4.0, 1.0, 8.0])
    assert weight_classes(weights, 4).tolist() == [3, 0, 3, 2, 3, 1]
    assert weight_classes(torch.ones(5), 4).tolist() == [0] * 5
    assert weight_classes(torch.tensor([0.0, 1.0, 100.0]), 8).tolist() == [1, 1, 0]


def test_rare_rows_get_the_bits_that_they_must_have_at_least():
    table, weights = low_rank_table(3000, 64), 1 / torch.arange(1.0, 3001)
    lengths, lost = [], []
    for least in (0.0, 0.1, 0.75):
        fitted = TCQ(memory=8, min_bits=least).fit(table, budget=Budget.bytes(24000), token_weights=weights)
        assert fitted.total_bits() <= 8 * 24000
        runs = [block["runs"] for block in fitted.config()["inner"]["blocks"]]
        lengths.append([sum(columns // width * bits for columns, bits, width in row) for row in runs])
        lost.append(float((fitted.dense().detach() - table)[2000:].square().sum()))
    # 64 entries of 0.1 of a bit are less than the shortest row has anyway; 0.75 of a bit are 48 bits.
    assert lengths[0] == lengths[1]
    assert min(lengths[0]) < 48 <= min(lengths[2])
    assert lengths[2][0] < lengths[0][0]
    assert lost[2] < 0.9 * lost[0]
    with pytest.raises(ValueError, match=r"lower min_bits|the least that TCQ can store"):
        TCQ(memory=8, min_bits=4).fit(table, budget=Budget.bytes(24000), token_weights=weights)


@pytest.mark.parametrize(
    ("runs", "memory", "words_of_it"),
    [
        ([(5, 1, 2)], 8, "multiples of its width"),
        ([(5, 9, 1)], 8, "0 to 8 bits"),
        ([(20, 1, 1)], 7, "8 to 16"),
        ([(5, 1, 1)], 8, "at most the 5 of a row"),
    ],
)
def test_bad_forms_are_refused(runs, memory, words_of_it):
    with pytest.raises(ValueError, match=words_of_it):
        Trellis(3, runs, memory)


def test_few_long_rows_get_a_block_of_their_own():
    # One block promises slightly less error in all, but its words do not reach so far: error 0.4 of the long rows.
    table = torch.randn(8192, 64, generator=torch.Generator().manual_seed(0)) * torch.linspace(1, 0.1, 64)
    table /= table.norm(dim=1, keepdim=True)
    table[:2] *= 3
    fitted = TCQ(memory=8).fit(table, budget=Budget.ratio(25), generator=torch.Generator().manual_seed(0))
    error = (fitted.dense().detach() - table).square().sum(1) / table.square().sum(1)
    assert error[:2].max() < error.mean() / 2


def test_threads_change_no_bit_and_are_given_back():
    table = torch.randn(600, 32, generator=torch.Generator().manual_seed(0))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(TCQ().fit(table, budget=Budget.ratio(8), generator=torch.Generator().manual_seed(0)))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    one, three = ([module.codes for module in each.modules() if isinstance(module, Trellis)] for each in found)
    assert len(one) == len(three) > 0
    assert all(torch.equal(a, b) for a, b in zip(one, three, strict=True))


@pytest.mark.parametrize("bits", range(1, 9))
def test_normal_numbers_lose_what_the_table_of_words_promises(bits):
    rows = torch.randn(32, 128, generator=torch.Generator().manual_seed(bits))
    method, runs = TCQ(), [Run(128, bits)]
    form = method.code(Table.of(rows), runs, torch.ones(128), torch.Generator(), Bar(disable=True))
    lost = float((form.dense().detach() - rows).square().mean() / rows.square().mean())
    assert lost == pytest.approx(WORDS[bits, 1][1] * 4.0**-bits, rel=0.05)


def kept_length(**settings):
    """The product of a row with its decoded row over that with itself, of the mean row's distance."""
    table = torch.randn(2000, 64, generator=torch.Generator().manual_seed(0))
    fitted = TCQ(memory=8, blocks=1, **settings).fit(table, budget=Budget.bits_per_weight(1.2))
    own, seen = table - table.mean(0), fitted.dense().detach() - table.mean(0)
    return float(((own * seen).sum(1) / own.square().sum(1)).mean())


def test_unbiased_codes_keep_the_length_of_rows():
    assert kept_length() < 0.9
    assert kept_length(unbiased=True) == pytest.approx(1, abs=0.01)


def test_a_basis_stays_in_floats_where_a_metric_is_uneven():
    table, bases = low_rank_table(3000, 64), []
    for spread in (0.0, 2.0):
        metric = torch.diag(torch.logspace(spread, -spread, 64))
        bases.append(TCQ(memory=8).fit(table, budget=Budget.bytes(40000), metric=metric).basis)
    assert [type(basis) for basis in bases] == [Scalar, Dense]
