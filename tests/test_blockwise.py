"""A method in blocks of tokens: how the vocabulary is cut, and that bytes go where weights are."""

import pytest
import torch

from cases import low_rank_table
from vocabpress import SVD, Blockwise, Budget, LightToken, Stacked, Uniform, make_method
from vocabpress.methods import is_method, method_name, method_settings
from vocabpress.methods.blockwise import _between
from vocabpress.reconstruction import reconstruction


def test_names_and_fields_make_the_same_method_again():
    made = make_method("blockwise:lighttoken", **{"blocks": "3", "inner.epochs": "2"})
    assert made == Blockwise(LightToken(epochs=2), 3)
    assert method_name(made) == "blockwise:lighttoken"
    assert make_method(method_name(made), **method_settings(made)) == made
    both = make_method("blockwise:svd+uniform", **{"first.inner.factors": "int8", "first.blocks": 2})
    assert both == Stacked(Blockwise(SVD("int8"), 2), Uniform())
    assert make_method(method_name(both), **method_settings(both)) == both
    assert is_method("blockwise:svd+uniform")
    assert not is_method("blockwise:")
    for name, settings, words in (
        ("blockwise:origami", {}, "unknown method 'origami'"),
        ("blockwise:svd", {"inner.bits": 1}, "method svd has no field 'bits'"),
        ("blockwise:svd", {"factors": "int8"}, "no field 'factors'"),
        ("blockwise:svd", {"blocks": 0}, "blocks should be greater than or equal to 1, got 0"),
    ):
        with pytest.raises(ValueError, match=words):
            make_method(name, **settings)


def test_blocks_by_hand():
    # Steps of the logarithm: 16, 8, 4, 2, 1 in four steps are blocks 0, 1, 2, 3, 3. At width 1 a block has 4 rows.
    weights = torch.tensor([16.0] * 3 + [8.0] * 2 + [4.0] * 9 + [2.0] * 4 + [1.0] * 30)
    assert Blockwise(SVD(), 4).assign_blocks(weights, 1).tolist() == [0] * 5 + [1] * 9 + [2] * 34
    assert Blockwise(SVD(), 4).assign_blocks(weights, 3).tolist() == [0] * 14 + [1] * 34
    assert Blockwise(SVD(), 4).assign_blocks(weights, 9).tolist() == [0] * 48
    assert Blockwise(SVD(), 4).assign_blocks(weights.flip(0), 1).tolist() == [2] * 34 + [1] * 9 + [0] * 5
    # A last block that is too small joins the one before.
    assert Blockwise(SVD(), 4).assign_blocks(weights[:17], 1).tolist() == [0] * 5 + [1] * 12


def test_without_weights_it_is_the_method_itself():
    table, budget = low_rank_table(), Budget.ratio(5)
    assert torch.equal(Blockwise(SVD()).fit(table, budget=budget).dense(), SVD().fit(table, budget=budget).dense())


SLOW = pytest.param(LightToken(epochs=2, polish=2), marks=pytest.mark.slow)


@pytest.mark.parametrize("inner", [Uniform(), SVD("int8"), SLOW])
def test_bytes_go_where_the_weights_are(inner):
    table, budget = low_rank_table(1200), Budget.ratio(8)
    weights = torch.ones(1200)
    weights[torch.randperm(1200, generator=torch.Generator().manual_seed(0))[:300]] = 100
    plain = inner.fit(table, budget=budget, token_weights=weights)
    fitted = Blockwise(inner, blocks=2).fit(table, budget=budget, token_weights=weights)
    assert fitted.total_bits() <= budget.max_bits(*table.shape)
    heavy, light = fitted.blocks
    assert heavy.num_embeddings == 300
    assert heavy.bits_per_weight > 1.2 * light.bits_per_weight
    before, after = (reconstruction(table, form, weights).relative_error for form in (plain, fitted))
    assert after < 0.8 * before


def test_between_the_measured_sizes_the_logarithm_is_linear():
    bits, logs = torch.tensor([100.0, 200.0, 400.0]).double(), torch.tensor([0.0, -1.0, -0.5]).double()
    sizes, distortions = _between(bits, logs)
    assert (sizes[0], sizes[-1]) == (100, 400)
    middle = int((sizes - 150).abs().argmin())
    assert float(distortions[middle]) == pytest.approx(2.718281828 ** -((float(sizes[middle]) - 100) / 100), rel=0.02)
    # What errs more than something smaller is taken to err like it.
    assert float(distortions[-1]) == pytest.approx(2.718281828**-1)
    assert bool((distortions.diff() <= 1e-12).all())


def test_too_little_for_a_block_is_refused_in_words():
    weights = torch.ones(400)
    weights[:200] = 100
    with pytest.raises(ValueError, match=r"too little for 2 blocks.*the least that SVD can store"):
        Blockwise(SVD()).fit(low_rank_table(), budget=Budget.ratio(60), token_weights=weights)
