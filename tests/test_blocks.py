"""GroupReduce and DiscBlock: blocks and ranks by hand, SVDs and clusters by oracles, moves by brute force."""

import pytest
import torch
from scipy.cluster.vq import kmeans2

from cases import low_rank_table
from vocabpress import SVD, Budget, DiscBlock, GroupReduce
from vocabpress.embeddings import Dense, Projected
from vocabpress.fitting.blocks import ProportionalRanks, by_first_row, empty_block, store_blocks
from vocabpress.fitting.reassign import Storage, _Blocks, reassign
from vocabpress.methods.discblock import clusters
from vocabpress.reconstruction import reconstruction


def zipf(count=400, seed=1):
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return (count / torch.arange(1.0, count + 1))[order]


def options(rounds, moving_ratio, least_candidates):
    return {"rounds": rounds, "moving_ratio": moving_ratio, "least_candidates": least_candidates}


def free(count, limit=10**9):
    """Storage in which every row of every block takes a bit."""
    return Storage(sum, limit, [1.0] * count, [False] * count)


def test_ranks_by_hand():
    # Mean weights 6, 3, 2; the third block has two rows. k_min = 1 gives 3, 1.5, 1, k_min = 2 gives 6, 3, 2; between
    # them ranks fall due at k/6, k/3, k/2 = 2/6, 3/6, 4/6, 2/3, 5/6, 6/6, 3/3, 2/2.
    path = list(ProportionalRanks([6.0, 3.0, 2.0], [7, 4, 2]))
    assert path[:5] == [(1, 1, 1), (2, 1, 1), (3, 1, 1), (4, 1, 1), (4, 2, 1)]
    assert path[5:9] == [(5, 2, 1), (6, 2, 1), (6, 3, 1), (6, 3, 2)]
    assert path[9:] == [(7, 3, 2), (7, 4, 2)]
    assert list(ProportionalRanks([0.0, 1.0], [2, 2])) == [(1, 1), (1, 2), (2, 2)]  # what matters to no one comes last
    with pytest.raises(IndexError):
        ProportionalRanks([1.0], [3])[3]


@pytest.mark.parametrize("weights", [torch.ones(400), zipf()], ids=["plain", "weighted"])
@pytest.mark.parametrize("method", [GroupReduce, DiscBlock])
def test_one_block_is_torchs_weighted_svd(method, weights):
    table, rank = low_rank_table(), 5
    numbers = rank * sum(table.shape) + table.shape[1]
    fitted = method(blocks=1).fit(table, budget=Budget.bytes(2 * numbers), token_weights=weights)
    shares = (weights / weights.sum())[:, None]
    values = torch.linalg.svdvals(shares.sqrt() * (table - (shares * table).sum(0))).square()
    error = reconstruction(table, fitted, weights).relative_error
    assert error == pytest.approx(float(values[rank:].sum() / values.sum()), rel=1e-3)
    assert fitted.config()["blocks"][0]["inner"]["embedding_dim"] == rank
    same = SVD().fit(table, budget=Budget.bytes(2 * numbers), token_weights=weights)
    assert torch.equal(fitted.dense(), same.dense())


def test_groupreduce_by_hand():
    # Six heavy tokens that span a plane about their mean, six light ones on a line. k_min = 1: ranks 2 and 1. The
    # heavy block is 6 x 2 + 2 x 8 + 8 = 36 numbers, the light one 6 + 8 + 8 = 22.
    heavy, light = torch.zeros(6, 8), torch.zeros(6, 8)
    heavy[:, :2] = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0], [3.0, 3.0], [-3.0, -3.0]])
    light[:, 7] = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 7.0])
    table = torch.stack([heavy, light], 1).flatten(0, 1)  # in turn: a map is needed, one bit a token
    weights, method = torch.tensor([2.0, 1.0] * 6), GroupReduce(2, rounds=0)
    budget = Budget.bytes(2 * (36 + 22) + 2)
    assert method.plans(12, 8, budget, weights) == [{"sizes": (6, 6), "mapped": True, "ranks": (2, 1)}]
    fitted = method.fit(table, budget=budget, token_weights=weights)
    assert fitted.total_bits() == budget.max_bits(12, 8)
    assert fitted.block_of.tolist() == [0b10101010, 0b1010]
    torch.testing.assert_close(fitted.dense(), table, rtol=0, atol=4e-3)
    # Sorted by weight, the blocks are runs of ids, and the same plan takes two bytes less.
    order = weights.argsort(descending=True, stable=True)
    fitted = method.fit(table[order], budget=Budget.bytes(2 * (36 + 22)), token_weights=weights[order])
    assert fitted.block_of is None
    torch.testing.assert_close(fitted.dense(), table[order], rtol=0, atol=4e-3)


def test_with_equal_weights_blocks_are_runs_and_ranks_differ_by_one_at_most():
    plan = GroupReduce(rounds=0).plans(403, 24, Budget.ratio(8))[0]
    assert plan["sizes"] == (81, 81, 81, 80, 80)
    assert plan["mapped"] is False
    assert max(plan["ranks"]) - min(plan["ranks"]) <= 1


def test_tokens_that_lie_in_other_subspaces_find_them():
    # Three lines through three points. A third of each run of 100 ids lies on the lines of the others.
    generator = torch.Generator().manual_seed(0)
    lines, points = torch.randn(2, 3, 12, generator=generator)
    line = torch.where(torch.rand(300, generator=generator) < 0.5, torch.arange(300) // 100, torch.arange(300) % 3)
    table = torch.randn(300, 1, generator=generator) * lines[line] + points[line]
    budget, few = Budget.bytes(2 * (300 + 3 * 24) + 75), {"least_candidates": 1}
    before, after = (GroupReduce(3, rounds=rounds, **few).fit(table, budget=budget) for rounds in (0, 1000))
    assert reconstruction(table, before).relative_error > 0.3
    assert reconstruction(table, after).relative_error < 1e-5
    place = after._mapped_place(after.block_of)[0]
    assert all(len(place[line == number].unique()) == 1 for number in range(3))


def test_distances_from_subspaces_are_those_of_least_squares():
    table, weights = low_rank_table(60, 8), zipf(60)
    block_of = torch.arange(60) % 3
    blocks = _Blocks(table, weights, block_of.clone(), [1, 3, 5], [False] * 3)
    moved = torch.tensor([4, 10, 11])
    blocks.move(moved, torch.tensor([0, 2, 1]))
    block_of[moved] = torch.tensor([0, 2, 1])
    for block, rank in enumerate([1, 3, 5]):
        rows, shares = table[block_of == block].double(), weights[block_of == block].double()[:, None]
        mean = (shares * rows).sum(0) / shares.sum()
        basis = torch.linalg.svd(shares.sqrt() * (rows - mean)).Vh[:rank].T
        centred = table.double() - mean
        left = centred.T - basis @ torch.linalg.lstsq(basis, centred.T).solution
        expected = weights * left.square().sum(0)
        torch.testing.assert_close(blocks.errors[:, block], expected.float(), rtol=1e-3, atol=1e-5)


def test_a_round_moves_each_token_to_the_block_that_brute_force_finds_best():
    table = low_rank_table(40, 6)
    start = torch.arange(40) % 4

    def distance(row, block):
        rows = table[start == block].double()
        basis, centred = torch.linalg.svd(rows - rows.mean(0)).Vh[:2].T, row.double() - rows.mean(0)
        return float((centred - basis @ torch.linalg.lstsq(basis, centred[:, None]).solution[:, 0]).square().sum())

    best = torch.tensor([min(range(4), key=lambda block: distance(row, block)) for row in table])
    assert 5 <= int((best != start).sum()) < 40
    ranks = [2] * 4
    assert torch.equal(reassign(table, torch.ones(40), start, ranks, free(4), **options(1, 1.0, 1)), best)
    gains = torch.tensor(
        [distance(row, own) - distance(row, to) for row, own, to in zip(table, start, best, strict=True)]
    )
    three_of = 3.01 / int((best != start).sum())
    few = reassign(table, torch.ones(40), start, ranks, free(4), **options(1, three_of, 1))
    assert set((few != start).nonzero()[:, 0].tolist()) == set(gains.topk(3).indices.tolist())
    none = options(9, 1.0, int((best != start).sum()) + 1)
    assert torch.equal(reassign(table, torch.ones(40), start, ranks, free(4), **none), start)


def test_moves_stay_inside_the_limit_and_lower_the_error():
    table, weights = low_rank_table(), zipf()
    start = torch.arange(400) % 2
    ranks = [2, 9]

    def bits(sizes):
        return sum(size * rank for size, rank in zip(sizes, ranks, strict=True))

    storage = Storage(bits, bits([200, 200]) + 30, [2.0, 9.0], [False, False])
    before = _Blocks(table, weights, start.clone(), ranks, storage.whole).error()
    moved = reassign(table, weights, start, ranks, storage, **options(100, 0.1, 5))
    assert bits(torch.bincount(moved).tolist()) <= storage.limit
    assert _Blocks(table, weights, moved, ranks, storage.whole).error() < 0.8 * before
    # Without a limit all go where the rank is high.
    everywhere = reassign(
        table, weights, start, ranks, Storage(bits, 10**9, [2.0, 9.0], [False, False]), **options(100, 1, 1)
    )
    assert int((everywhere == 1).sum()) > 380


def test_clusters_are_scipys_and_the_obvious_ones():
    labels, centroids = clusters(torch.tensor([11.0, 1.0, 100.0, 2.0, 10.0, 1.0, 99.0]), 3)
    assert labels.tolist() == [1, 0, 2, 0, 1, 0, 2]
    torch.testing.assert_close(centroids, torch.tensor([4 / 3, 10.5, 99.5], dtype=torch.float64))
    scores = zipf().sqrt()
    values = scores.double().unique()
    start = values[((torch.arange(5) + 0.5) * len(values) / 5).long()]
    theirs, who = kmeans2(scores.double().numpy(), start.numpy(), iter=1000, minit="matrix")
    labels, centroids = clusters(scores, 5)
    torch.testing.assert_close(centroids, torch.from_numpy(theirs))
    assert labels.tolist() == who.tolist()


def test_as_many_clusters_as_distinct_scores():
    labels, centroids = clusters(torch.tensor([3.0, 1.0, 3.0]), 5)
    assert labels.tolist() == [1, 0, 1]
    assert centroids.tolist() == [1.0, 3.0]
    table, budget = low_rank_table(), Budget.ratio(8)
    assert torch.equal(DiscBlock().fit(table, budget=budget).dense(), SVD().fit(table, budget=budget).dense())


def test_unused_budget_goes_to_the_largest_block_first():
    weights = torch.cat([torch.full((350,), 1.0), torch.full((50,), 3.0)])

    # Ranks 1 and 3 take 2 x (350 + 24 + 24) + 2 x (3 x 74 + 24) = 1288 bytes; a rank more takes 748 or 148.
    def plan(size, **fields):
        return DiscBlock(2, **fields).plans(400, 24, Budget.bytes(size), weights)[0]

    assert plan(1288)["ranks"] == plan(1288 + 147)["ranks"] == (1, 3)
    assert plan(1288 + 148, expand=False)["ranks"] == (1, 4)
    assert plan(1288 + 2 * 148, expand=False)["ranks"] == (1, 5)
    assert plan(1288 + 748 + 2 * 148)["ranks"] == (2, 5)
    # Proportions would make it 1 and 5, where what is left does for one more of each; the large block comes first.
    assert plan(1288 + 2 * 148 + 740, expand=False)["ranks"] == (1, 5)
    assert plan(1288 + 2 * 148 + 740)["ranks"] == (1, 10)


def test_alpha_floors_the_importance_of_a_block():
    weights = torch.cat([torch.full((350,), 1.0), torch.full((50,), 100.0)])
    assert DiscBlock(2).assign_blocks(weights)[1] == [1.0, 100.0]
    assert DiscBlock(2, alpha=0.25).assign_blocks(weights)[1] == [25.0, 100.0]
    assert DiscBlock(2, alpha=0.001).assign_blocks(weights)[1] == [1.0, 100.0]


def test_blocks_are_numbered_by_their_first_row():
    block_of, old = by_first_row(torch.tensor([3, 3, 0, 5, 0, 3]))
    assert block_of.tolist() == [0, 0, 1, 2, 1, 0]
    assert old == [3, 0, 5]


def test_a_block_is_whole_as_soon_as_that_takes_no_more():
    assert isinstance(empty_block(20, 8, 4, "float16"), Projected)  # 20 x 4 + 4 x 8 + 8 = 120 numbers, 160 when whole
    assert isinstance(empty_block(20, 8, 5, "float16"), Projected)  # 148
    assert isinstance(empty_block(20, 8, 6, "float16"), Dense)  # 176
    with pytest.raises(ValueError, match="a block of 20 x 8 has a rank of 1 to 8, got 9"):
        empty_block(20, 8, 9, "int8")
    with pytest.raises(ValueError, match="has a rank of 1 to 3, got 0"):
        empty_block(3, 8, 0, "int8")


def test_empty_blocks_and_weightless_blocks():
    table, block_of = low_rank_table(40, 6), torch.arange(40) // 20 * 2  # nobody lies in block 1
    weights = (block_of > 0).float()
    form = store_blocks(table, block_of, [2, 3, 30], weights, "float16")
    assert form.block_of is None
    assert [block.config()["form"] for block in form.blocks] == ["projected", "dense"]
    torch.testing.assert_close(form.dense()[20:], table[20:], rtol=0, atol=1e-3)
    alone = store_blocks(table[:20], block_of[:20], [2], torch.ones(20), "float16")
    torch.testing.assert_close(form.dense()[:20], alone.dense())


@pytest.mark.parametrize(
    "method", [GroupReduce(), DiscBlock(rounds=20), GroupReduce(blocks=40, factors="int4")], ids=str
)
def test_tokens_without_weight_and_many_blocks_are_fitted(method):
    table, weights = low_rank_table(), zipf()
    weights[::2] = 0
    fitted = method.fit(table, budget=Budget.ratio(4), token_weights=weights)
    assert fitted.total_bits() <= Budget.ratio(4).max_bits(400, 24)
    assert reconstruction(table, fitted, weights).relative_error < 0.5
    assert bool(fitted.dense().isfinite().all())


@pytest.mark.parametrize("ratio", [3, 6, 12])
@pytest.mark.parametrize("method", [GroupReduce, DiscBlock])
def test_moving_tokens_lowers_the_error_even_where_some_blocks_are_whole(method, ratio):
    table, weights, budget = low_rank_table(), zipf(), Budget.ratio(ratio)
    forms = [method(rounds=rounds).fit(table, budget=budget, token_weights=weights) for rounds in (0, 100)]
    if method is DiscBlock:  # the heaviest tokens are a block of their own
        assert {block.config()["form"] for block in forms[0].blocks} == {"dense", "projected"}
    before, after = (reconstruction(table, form, weights).relative_error for form in forms)
    assert after < before


def test_a_small_whole_block_keeps_its_rows_and_a_block_of_full_rank_takes_any():
    table, start = low_rank_table(60, 6), torch.tensor([0] * 3 + [1] * 27 + [2] * 30)
    storage = Storage(sum, 10**9, [1.0] * 3, [True, False, True])
    moved = reassign(table, torch.ones(60), start, [3, 1, 6], storage, **options(5, 1.0, 1))
    assert (moved == 0).nonzero()[:, 0].tolist() == [0, 1, 2]
    assert bool((moved[3:] == 2).all())


@pytest.mark.parametrize("method", [GroupReduce(3), DiscBlock(3)], ids=str)
def test_odd_tables_in_blocks(method):
    for shape in ((3, 2), (8, 40), (40, 1)):
        for table in (torch.zeros(shape), torch.full(shape, 0.3), torch.randn(shape)):
            fitted = method.fit(table, budget=Budget.ratio(1), token_weights=torch.arange(1.0, shape[0] + 1))
            torch.testing.assert_close(fitted.dense(), table, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="3 blocks are more than the 2 tokens of this table; set blocks to 2 or less"):
        method.fit(torch.zeros(2, 5), budget=Budget.ratio(1))


def test_weights_of_another_table_are_refused():
    with pytest.raises(ValueError, match=r"the weights have shape \(3,\), the table needs \(400,\)"):
        GroupReduce().plans(400, 24, Budget.ratio(8), torch.ones(3))


def test_frequent_tokens_are_held_better_than_by_weighted_svd():
    table, weights, budget = low_rank_table(2000), zipf(2000), Budget.ratio(8)
    errors = {
        type(method).__name__: reconstruction(
            table, method.fit(table, budget=budget, token_weights=weights), weights
        ).relative_error
        for method in (SVD(), GroupReduce(), DiscBlock())
    }
    assert errors["GroupReduce"] < 0.6 * errors["SVD"]
    assert errors["DiscBlock"] < 0.6 * errors["SVD"]
