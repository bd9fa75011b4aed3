"""For each method one example that a person can work out, and one oracle that is not ours."""

from dataclasses import fields

import pytest
import torch

from cases import low_rank_table
from vocabpress import (
    METHODS,
    SVD,
    TCQ,
    Autoencoder,
    Budget,
    Compositional,
    DiscBlock,
    GroupReduce,
    LightToken,
    NearestKronecker,
    Product,
    Residual,
    Uniform,
    make_method,
)
from vocabpress.methods.lighttoken import stage_bits
from vocabpress.reconstruction import reconstruction


def test_svd_by_hand():
    # Mean (1, 0), deviations along (1, 0) only: rank 1 is exact. 4 + 2 + 2 numbers of 16 bits make 16 bytes.
    table = torch.tensor([[2.0, 0.0], [0.0, 0.0], [3.0, 0.0], [-1.0, 0.0]])
    fitted = SVD().fit(table, budget=Budget.bytes(16))
    assert fitted.config()["inner"]["embedding_dim"] == 1
    torch.testing.assert_close(fitted.dense(), table, rtol=0, atol=2e-3)


@pytest.mark.parametrize("rank", [1, 5, 11])
def test_svd_is_torchs_optimum(rank):
    table = low_rank_table()
    numbers = rank * sum(table.shape) + table.shape[1]
    fitted = SVD().fit(table, budget=Budget.bytes(2 * numbers))
    centred = table - table.mean(0)
    values = torch.linalg.svdvals(centred).square()
    error = reconstruction(table, fitted).relative_error
    assert error == pytest.approx(float(values[rank:].sum() / values.sum()), rel=1e-3, abs=1e-6)


def test_fewer_bits_for_more_axes_pays():
    table = low_rank_table(2000)
    errors = [
        reconstruction(table, SVD(f).fit(table, budget=Budget.ratio(8))).relative_error
        for f in ("float16", "int8", "int4")
    ]
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("nonlinear", [False, True])
def test_the_autoencoder_turns_rows_nearer_than_the_svd_it_starts_from(nonlinear):
    table, budget = low_rank_table(), Budget.ratio(8)
    low = SVD().fit(table, budget=budget)
    trained = Autoencoder(nonlinear=nonlinear).fit(table, budget=budget)
    assert trained.total_bits() == low.total_bits()
    assert (
        reconstruction(table, trained).mean_cosine > reconstruction(table, low).mean_cosine + 2e-4
    )  # rounding moves it by 1e-6


def test_a_linear_autoencoder_never_beats_eckart_and_young():
    table, budget = low_rank_table(), Budget.ratio(8)
    best = reconstruction(table, SVD().fit(table, budget=budget)).relative_error
    assert reconstruction(table, Autoencoder(epochs=6).fit(table, budget=budget)).relative_error >= best * (1 - 1e-3)


def test_autoencoder_by_hand():
    # Rows on a line through the mean: one latent holds them, and no training can turn them nearer.
    table = torch.outer(torch.linspace(1, 2, 32), torch.tensor([3.0, 4.0]))
    fitted = Autoencoder(epochs=1).fit(table, budget=Budget.bytes(2 * (32 + 2 + 2)))
    assert reconstruction(table, fitted).mean_cosine == pytest.approx(1.0, abs=1e-5)


def test_lighttoken_by_hand():
    # Rows are all sums of +-w_1, +-w_2, +-w_3 about a mean: three bits hold them exactly, and eight are allowed.
    signs = torch.tensor([[1.0 if i >> j & 1 else -1.0 for j in range(3)] for i in range(8)])
    decoder = torch.eye(3, 6) * torch.tensor([[4.0], [2.0], [1.0]])
    table = (signs @ decoder + 0.5).repeat(50, 1)
    fitted = LightToken(rank=0, stages=1).fit(table, budget=Budget.bytes(400 + 8 * 8 + 2 * 6))
    assert fitted.total_bits() == 8 * (400 + 8 * 8 + 2 * 6)  # 8 bits a row; 8 decoder rows of 6 bytes and a scale; mean
    assert reconstruction(table, fitted).relative_error < 1e-3


def test_lighttoken_on_white_noise_lies_between_the_bounds():
    # One bit a weight: no code does better than the rate-distortion bound 2**-2, a sign and a scale get 0.3634.
    table = torch.randn(8000, 16)
    fitted = LightToken(rank=0, stages=1, factors="float16").fit(table, budget=Budget.bits_per_weight(1.04))
    assert fitted.config()["parts"][0]["inner"]["embedding_dim"] == 16
    assert 0.25 < reconstruction(table, fitted).relative_error < 0.3634


def test_polishing_and_searching_never_cost_much():
    table, budget = low_rank_table(1200), Budget.ratio(12)
    searched, plain, unpolished = (
        reconstruction(table, method.fit(table, budget=budget)).relative_error
        for method in (LightToken(), LightToken(rank=0, stages=1), LightToken(rank=0, stages=1, polish=0))
    )
    assert plain < unpolished
    assert searched < 1.1 * plain


@pytest.mark.parametrize("shape", [(1, 1), (1, 8), (2, 1), (3, 2), (8, 40), (40, 1)])
@pytest.mark.parametrize(
    "method",
    [
        SVD(),
        SVD("int4"),
        Autoencoder(epochs=1),
        LightToken(),
        LightToken(2, 2),
        NearestKronecker(terms=0),
        GroupReduce(1),
        DiscBlock(1),
        TCQ(memory=8),
        Uniform(),
        Product(rotation="none"),
        Product(),
        Residual(),
        Compositional(epochs=1),
    ],
    ids=str,
)
def test_odd_tables_are_fitted_or_refused_in_words(method, shape):
    for table, tolerance in ((torch.zeros(shape), 1e-6), (torch.full(shape, 0.3), 1e-3), (torch.randn(shape), None)):
        try:
            method.plans(*shape, Budget.ratio(1.0))
        except ValueError:
            with pytest.raises(ValueError, match="the least that"):
                method.fit(table, budget=Budget.ratio(1.0))
            continue
        fitted = method.fit(table, budget=Budget.ratio(1.0))
        assert bool(fitted.dense().isfinite().all())
        if tolerance is not None:
            torch.testing.assert_close(fitted.dense(), table, rtol=0, atol=tolerance)


def test_stage_sizes_are_even_whole_bytes():
    assert stage_bits({"rank": 0, "stages": 1, "code_bits": 440}) == [440]
    assert stage_bits({"rank": 0, "stages": 4, "code_bits": 440}) == [112, 112, 112, 104]


def test_methods_by_name():
    assert make_method("svd", factors="int4") == SVD("int4")
    made = make_method("lighttoken", rank="8", stages="2", cosine_weight="4", epochs="3")
    assert made == LightToken(rank=8, stages=2, cosine_weight=4.0, epochs=3)
    assert make_method("autoencoder", nonlinear="true") == Autoencoder(nonlinear=True)


@pytest.mark.parametrize(
    ("name", "settings", "word"),
    [
        ("origami", {}, "choose from svd, autoencoder, lighttoken, kronecker"),
        ("groupreduce", {"blocks": "0"}, "blocks should be greater than or equal to 1, got '0'"),
        ("svd", {"rank": "3"}, "has no field 'rank'; it has factors"),
        ("autoencoder", {"epochs": "many"}, "epochs should be a valid integer, unable to parse.*got 'many'"),
        ("autoencoder", {"nonlinear": "perhaps"}, "nonlinear should be a valid boolean.*got 'perhaps'"),
        ("lighttoken", {"loss": "hinge"}, "loss should be 'calibrated'.*got 'hinge'"),
        ("lighttoken", {"cosine_weight": "0.5"}, "cosine_weight should be greater than or equal to 1"),
        ("lighttoken", {"stages": "0"}, "stages should be greater than or equal to 1, got '0'"),
        ("lighttoken", {"rank": "-1"}, "rank should be greater than or equal to 0, got '-1'"),
    ],
)
def test_bad_names_and_settings_are_refused(name, settings, word):
    with pytest.raises(ValueError, match=word):
        make_method(name, **settings)


@pytest.mark.parametrize("name", METHODS)
def test_every_number_of_a_method_has_a_limit_and_a_type(name):
    for field in fields(METHODS[name]):
        if not isinstance(field.default, bool | str):
            for text in ("-1", "some"):
                with pytest.raises(ValueError, match=rf"^{field.name} should be .*, got '{text}'$"):
                    make_method(name, **{field.name: text})
            with pytest.raises(ValueError, match=rf"^{field.name} should be"):
                METHODS[name](**{field.name: -1})


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", METHODS)
def test_fits_run_on_cuda_and_agree_with_the_cpu(name):
    table, budget = low_rank_table(), Budget.ratio(8)
    here = make_method(name).fit(table, budget=budget)
    there = make_method(name).fit(table.cuda(), budget=budget)
    assert there.device.type == "cuda"
    errors = [reconstruction(table, form).relative_error for form in (here, there)]
    assert errors[1] == pytest.approx(errors[0], rel=0.1)
