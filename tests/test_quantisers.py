"""Uniform, product, residual, compositional and binary codes: by hand, and against FAISS."""

import faiss
import pytest
import torch

from cases import low_rank_table
from vocabpress import Binary, Budget, Compositional, Product, Residual, Uniform, make_method
from vocabpress.fitting.quantise import quantise
from vocabpress.packing import unpack
from vocabpress.reconstruction import reconstruction
from vocabpress.recover.thaw import freeze, thaw


def error(table, form):
    return reconstruction(table, form).relative_error


def squares(rows):
    return float(rows.detach().square().sum())


def test_uniform_by_hand():
    # Two bits have the levels -1, -1/3, 1/3, 1: with a scale for each pair, every row here is exact.
    table = torch.tensor([[3.0, -1.0, 6.0, 2.0], [0.0, 0.0, 12.0, 12.0]])
    fitted = Uniform(group_size=2).fit(table, budget=Budget.bytes(2 * (1 + 2 * 2)))
    assert fitted.config()["bits"] == 2
    torch.testing.assert_close(fitted.dense(), table)
    assert fitted.total_bits() == 8 * (2 + 2 * 2 * 2)


def test_the_last_group_may_be_shorter():
    values = torch.tensor([[4.0, -4.0, 1.0, 1.0, -0.5]])
    stored = quantise(values, 1, "group", 2)
    assert stored.scales is not None
    assert stored.scales.tolist() == [[4.0, 1.0, 0.5]]
    torch.testing.assert_close(stored.dense(), values)


def test_scales_that_may_clip_lose_less_and_columns_heed_weights():
    table = torch.randn(500, 32)
    plain, sought = (Uniform(2, "row", search=search).fit(table, budget=Budget.ratio(8)) for search in (False, True))
    assert plain.scales is not None
    torch.testing.assert_close(plain.scales[:, 0], table.abs().amax(1), rtol=1e-3, atol=0)
    assert error(table, sought) < 0.8 * error(table, plain)
    values, weights = torch.cat([torch.full((9, 1), 0.1), torch.tensor([[1.0]])]), torch.ones(10)
    plain = quantise(values, 1, "column").dense().detach()
    assert float(plain[0]) == pytest.approx(0.2, abs=0.05)  # the mean magnitude, 0.19
    weights[-1] = 1000
    weighted = quantise(values, 1, "column", weights=weights).dense().detach()
    assert float(weighted[0]) == pytest.approx(1.0, abs=0.01)


def test_small_groups_pay_where_magnitudes_change_within_rows():
    table = torch.randn(300, 64) * (10 ** (-2 * torch.rand(300, 4))).repeat_interleave(16, dim=1)
    chosen = Uniform().fit(table, budget=Budget.bits_per_weight(6.1))
    assert chosen.config()["group_size"] == 16
    even = torch.randn(300, 64)
    assert Uniform().fit(even, budget=Budget.bits_per_weight(4.3)).config()["scale_axis"] == "row"


def test_product_by_hand():
    # Left halves are one of two words, right halves one of two others: a bit each, and 4 words of two float16 numbers.
    left, right = torch.tensor([[1.0, 2.0], [-3.0, 0.5]]), torch.tensor([[0.25, 0.0], [8.0, -8.0]])
    pairs = [(i, j) for i in (0, 1) for j in (0, 1)] * 5
    table = torch.stack([torch.cat([left[i], right[j]]) for i, j in pairs])
    fitted = Product(segments=2, shared=False, rotation="none", factors="float16").fit(
        table, budget=Budget.bytes(20 + 4 * 2 * 2)
    )
    assert fitted.config()["bits"] == 1
    torch.testing.assert_close(fitted.dense(), table)
    codes = unpack(fitted.codes, 1, 2)
    assert [len(set(map(tuple, codes[i::4].tolist()))) for i in range(4)] == [1, 1, 1, 1]


def test_one_shared_book_serves_pieces_that_are_alike():
    words = torch.randn(16, 4)
    table = words[torch.randint(0, 16, (200, 6))].flatten(1)
    budget = Budget.bytes(200 * 3 + 16 * 4 * 2)
    fitted = Product(factors="float16").fit(table, budget=budget)
    assert fitted.config()["shared"]
    assert error(table, fitted) < 1e-5


def test_a_rotation_pays_where_entries_depend_on_each_other():
    table, budget = low_rank_table(1500), Budget.ratio(16)
    plain, turned, searched = (
        error(table, Product(rotation=rotation).fit(table, budget=budget)) for rotation in ("none", "opq", "auto")
    )
    assert turned < 0.8 * plain
    assert searched < 1.05 * turned


def test_learning_the_rotation_pays():
    # Two heaps a coordinate, and all turned: principal axes of so round a cloud are anyone's, the right ones are bits.
    table = torch.randint(0, 2, (800, 4)).float() * 2 - 1 + 0.05 * torch.randn(800, 4)
    table = table @ torch.linalg.qr(torch.randn(4, 4)).Q
    errors = [
        error(table, Product(1, 4, rotation="opq", turns=turns).fit(table, budget=Budget.ratio(8))) for turns in (0, 30)
    ]
    assert errors[1] < 0.5 * errors[0]


def test_segments_must_divide_the_row_unless_it_is_turned():
    table = low_rank_table()
    with pytest.raises(ValueError, match=r"5 does not divide 24.*rotation='opq' takes any.*the nearest .* is 4 or 6$"):
        Product(segments=5).fit(table, budget=Budget.ratio(8))
    with pytest.raises(ValueError, match=r"25 does not divide 24, the entries of a row; the nearest that does is 24$"):
        Residual(segments=25, rotation="pca").fit(table, budget=Budget.ratio(8))
    for method in (Product(segments=5, rotation="opq"), Residual(segments=5, rotation="pca")):
        assert method.fit(table, budget=Budget.ratio(8)).config()["inner"]["segments"] == 5


def test_residual_by_hand():
    # Rows are sums of one of two words and one of two others: two stages of a bit.
    first, second = torch.tensor([[8.0, 0.0, 8.0], [-8.0, 0.0, 8.0]]), torch.tensor([[0.0, 1.0, 0.0], [0.0, -1.0, 2.0]])
    table = (first[:, None] + second).flatten(0, 1).repeat(20, 1)
    method = Residual(bits=1, stages=2, segments=1, rotation="none", factors="float16")
    fitted = method.fit(table, budget=Budget.bytes(80 + 4 * 3 * 2))
    torch.testing.assert_close(fitted.dense(), table, rtol=0, atol=5e-3)
    assert (fitted.config()["stages"], fitted.total_bits()) == (2, 8 * (80 + 4 * 3 * 2))


def test_the_search_of_residual_codes_costs_little():
    table, budget = low_rank_table(1500), Budget.ratio(14)
    fixed = [error(table, Residual(bits=4, segments=n).fit(table, budget=budget)) for n in (1, 2, 3)]
    assert error(table, Residual().fit(table, budget=budget)) < 1.05 * min(fixed)


def test_a_weighted_fit_of_codes_moves_the_words():
    table, budget = low_rank_table(), Budget.ratio(12)
    counts = torch.ones(400)
    counts[:40] = 500
    for method in (Product(rotation="none"), Residual(rounds=2), Compositional(epochs=100)):
        plain, weighted = (method.fit(table, budget=budget, token_weights=w) for w in (None, counts))
        after = reconstruction(table, weighted, counts).relative_error
        assert after < 0.9 * reconstruction(table, plain, counts).relative_error, method


def test_wide_segments_are_searched_too():
    # A short fit looks at some 48 columns: here a piece of a row has more.
    table = low_rank_table(300, 192)
    fitted = Residual(segments=1, rotation="none", rounds=1).fit(table, budget=Budget.ratio(12))
    assert fitted.config()["segments"] == 1
    assert error(table, fitted) < 0.5


@pytest.mark.parametrize(("segments", "bits"), [(8, 4), (4, 6), (2, 8)])
def test_product_errs_no_more_than_faiss(segments, bits):
    table = low_rank_table(4000)
    index = faiss.ProductQuantizer(24, segments, bits)
    index.cp.max_points_per_centroid = len(table)
    index.train(table.numpy())
    theirs = torch.from_numpy(index.decode(index.compute_codes(table.numpy())))
    method = Product(bits, segments, rotation="none", factors="float16")
    ours = method.fit(table, budget=Budget.ratio(1)).dense()
    assert squares(ours - table) < 1.02 * squares(theirs - table)


@pytest.mark.parametrize(("stages", "bits"), [(4, 4), (8, 4), (3, 6)])
def test_residual_errs_no_more_than_faiss(stages, bits):
    table = low_rank_table(2000)
    index = faiss.ResidualQuantizer(24, stages, bits)
    index.train(table.numpy())
    theirs = torch.from_numpy(index.decode(index.compute_codes(table.numpy())))
    method = Residual(bits, 1, rotation="none", factors="float16", stages=stages)
    ours = method.fit(table, budget=Budget.ratio(1)).dense()
    assert squares(ours - table) < 1.02 * squares(theirs - table)


def test_opq_errs_no_more_than_faiss():
    table = low_rank_table(4000)
    turn, index = faiss.OPQMatrix(24, 6), faiss.ProductQuantizer(24, 6, 5)
    turn.niter = 10
    turn.train(table.numpy())
    turned = turn.apply(table.numpy())
    index.train(turned)
    theirs = torch.from_numpy(turn.reverse_transform(index.decode(index.compute_codes(turned))))
    method = Product(5, 6, rotation="opq", factors="float16")
    ours = method.fit(table, budget=Budget.ratio(1)).dense()
    assert squares(ours - table) < 1.03 * squares(theirs - table)


def test_compositional_by_hand():
    # Four rows; two books of four words hold them exactly in half a byte a row.
    table = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -3.0]]).repeat(40, 1)
    fitted = Compositional(2, epochs=100, batch_size=32).fit(table, budget=Budget.bytes(160 + 2 * 4 * 2 * 2))
    torch.testing.assert_close(fitted.dense(), table, rtol=0, atol=2e-3)
    assert (fitted.config()["stages"], fitted.total_bits()) == (2, 8 * (160 + 2 * 4 * 2 * 2))


def test_compositional_training_beats_codes_of_an_untrained_encoder():
    table, budget = low_rank_table(1500), Budget.ratio(16)
    trained, hardly = (
        error(table, Compositional(epochs=epochs, batch_size=64, learning_rate=rate).fit(table, budget=budget))
        for epochs, rate in ((50, 0.02), (1, 1e-9))
    )
    assert trained < 0.8 * hardly


def test_binary_stores_the_papers_decoder():
    # One bit, two rows: c is the first, c + W the second; as levels -1 and +1 that is their middle and half the way.
    table = torch.tensor([[0.5, -0.5], [-0.3, 0.3]]).repeat(100, 1)
    fitted = Binary(code_bits=1, regulariser=0.0, epochs=60, batch_size=20, learning_rate=0.05).fit(
        table, budget=Budget.ratio(4)
    )
    torch.testing.assert_close(fitted.dense(), table, rtol=0, atol=0.02)
    bit = unpack(fitted.inner.codes, 1, 1).float()
    frame, offset = 2 * fitted.basis.dense(), fitted.bias - fitted.basis.dense().sum(0)
    torch.testing.assert_close(torch.tanh(bit @ frame + offset), fitted.dense())


def test_binary_codes_of_more_bits_err_less():
    table = low_rank_table(1000)
    errors = [error(table, Binary(code_bits=bits).fit(table, budget=Budget.ratio(1))) for bits in (8, 16, 32, 64)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.5 * errors[0]


def test_binary_refuses_what_tanh_does_not_reach():
    with pytest.raises(ValueError, match=r"reaches 2\.\d+, too large for tanh .*scale the table down"):
        Binary().fit(low_rank_table().div(low_rank_table().abs().max()) * 2.5, budget=Budget.ratio(8))


def test_quantisers_by_name():
    assert make_method("product", shared="true", bits="6") == Product(bits=6, shared=True)
    assert make_method("residual", shared="no", beam="4") == Residual(shared=False, beam=4)
    assert make_method("uniform", search="false", group_size="32") == Uniform(search=False, group_size=32)
    with pytest.raises(ValueError, match=r"bits should be a valid integer.*got 'few'"):
        make_method("product", bits="few")


@pytest.mark.parametrize("method", [Product(factors="int8"), Residual(factors="int4", rounds=1)], ids=str)
def test_words_in_few_bits_are_thawed_for_recovery_and_frozen_into_the_same_bytes(method):
    table = method.fit(low_rank_table(), budget=Budget.ratio(8))
    before, bits = table.dense().detach(), table.total_bits()
    config = table.config()
    thaw(table)
    table.dense().sum().backward()
    assert any(name.endswith("words.values") and float(p.grad.abs().sum()) > 0 for name, p in table.named_parameters())
    freeze(table)
    assert (table.total_bits(), table.config()) == (bits, config)
    torch.testing.assert_close(table.dense(), before, rtol=0, atol=0.05 * float(before.abs().max()))


@pytest.mark.parametrize("shape", [(1, 1), (1, 8), (3, 2), (8, 40), (40, 1)])
@pytest.mark.parametrize("value", [0.0, 0.3])
def test_binary_of_equal_rows(shape, value):
    table = torch.full(shape, value)
    fitted = Binary(code_bits=4).fit(table, budget=Budget.bytes(10_000))
    torch.testing.assert_close(fitted.dense(), table, rtol=0, atol=2e-3)
