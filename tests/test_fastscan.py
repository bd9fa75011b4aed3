"""Codes of 16-word books: read through tables, as good as faiss', and with the bits where the energy is."""

from dataclasses import replace

import faiss
import pytest
import torch

from vocabpress import TCQ, Budget, FastScan
from vocabpress.embeddings import Codebooks, Columns, Dense, Run
from vocabpress.embeddings.codebooks import byte_tables
from vocabpress.fitting.rates import Ladder
from vocabpress.fitting.table import Table
from vocabpress.methods.fastscan import BITS, LOSSES, PIECE, STAGES
from vocabpress.progress import Bar


def test_one_table_for_two_codes_by_hand():
    # Three codes of one bit for one vector: their values at 0 and 1.
    tables = torch.tensor([[[1.0], [2.0]], [[10.0], [30.0]], [[100.0], [500.0]]])
    assert byte_tables(tables, 1) is not tables
    assert torch.equal(byte_tables(tables, 1), tables)
    # The first code is the lowest bit of 0 … 3; the third one's neighbour is lacking.
    assert byte_tables(tables, 2)[..., 0].tolist() == [[11.0, 12.0, 31.0, 32.0], [100.0, 500.0, 100.0, 500.0]]


@pytest.mark.parametrize("method", [TCQ(memory=8), FastScan()])
def test_the_smallest_size_that_is_planned_is_fitted(method):
    table, least = torch.randn(211, 64), 1
    with pytest.raises(ValueError, match="bytes"):
        method.plans(*table.shape, Budget.bytes(least))
    while least < 2000:
        try:
            method.plans(*table.shape, Budget.bytes(least))
        except ValueError:
            least += 1
        else:
            break
    assert method.fit(table, budget=Budget.bytes(least)).total_bits() == 8 * least


@pytest.mark.parametrize("bits", range(1, 9))
def test_logits_decode_no_row(bits, monkeypatch):
    form = Codebooks(50, Dense(3 << bits, 4), bits, segments=5, stages=3, shared=True)
    form.words.rows.data.normal_(generator=torch.Generator().manual_seed(0))
    form.codes.random_(generator=torch.Generator().manual_seed(1))
    hidden = torch.randn(2, 3, 20, generator=torch.Generator().manual_seed(2))
    wanted = hidden @ form.dense().T
    monkeypatch.setattr(Codebooks, "lookup", None)
    torch.testing.assert_close(form.logits(hidden), wanted, rtol=1e-5, atol=1e-4)
    assert form.logits(hidden.bfloat16()).dtype == torch.bfloat16


def test_columns_lie_side_by_side_and_end_in_zeros():
    left, right = Dense.of(torch.tensor([[1.0], [2.0]])), Dense.of(torch.tensor([[3.0, 4.0], [5.0, 6.0]]))
    form = Columns([left, right], 4)
    assert form.dense().tolist() == [[1, 3, 4, 0], [2, 5, 6, 0]]
    assert form.logits(torch.tensor([1.0, 10.0, 100.0, 1000.0])).tolist() == [431, 652]
    with pytest.raises(ValueError, match="the parts have 3 columns, more than embedding_dim 2"):
        Columns([left, right], 2)
    with pytest.raises(ValueError, match="must have equally many rows, got"):
        Columns([left, Dense(3, 1)])


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_pieces_are_coded_no_worse_than_by_faiss(stages):
    pieces = torch.randn(6000, PIECE, generator=torch.Generator().manual_seed(0))
    method, rows = FastScan(), pieces.view(-1, 2 * PIECE)
    runs = [Run(2 * PIECE, BITS * stages, PIECE)]
    coded = method.code(
        Table.of(rows), runs, torch.ones(2 * PIECE), torch.Generator().manual_seed(0), Bar(disable=True)
    )
    peer = faiss.ResidualQuantizer(PIECE, stages, BITS)
    peer.max_beam_size = method.beam
    peer.train(pieces.numpy())
    theirs = torch.from_numpy(peer.decode(peer.compute_codes(pieces.numpy())))
    mine = (coded.dense().detach() - rows).square().mean()
    assert mine <= 1.02 * (theirs - pieces).square().mean()
    # What the plan counts on, roughly; half a decibel is 12 %.
    assert float(mine) == pytest.approx(LOSSES[STAGES.index(stages)], rel=0.12)


@pytest.mark.parametrize("method", [TCQ(memory=8), FastScan()])
def test_rows_of_more_energy_get_more_bits_though_all_weigh_alike(method):
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(3000, 64, generator=generator)
    quiet = torch.arange(3000) % 3 == 0
    table[quiet] /= 8
    fitted = method.fit(table, budget=Budget.ratio(16))
    alike = replace(method, blocks=1).fit(table, budget=Budget.ratio(16))
    lost, lost_alike = ((of.dense().detach() - table).square().sum(1) for of in (fitted, alike))
    assert lost.sum() < 0.85 * lost_alike.sum()


def test_a_ladder_knows_its_rungs():
    ladder = Ladder(4, ((0, 1), (1, 4), (1, 1), (3, 1)), (1.0, 0.8, 0.3, 0.1))
    assert [ladder.least(bits) for bits in (0, 1, 2, 4, 5, 12)] == [0, 1, 2, 2, 3, 3]
