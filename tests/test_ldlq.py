"""Codes of linear maps with feedback: the error in the metric of both sides, and every shape that a map can have."""

import pytest
import torch

from vocabpress.embeddings import build
from vocabpress.embeddings.inference import dense
from vocabpress.fitting.ldlq import below_diagonal, code_with_feedback, damped, left_over
from vocabpress.methods.ldlq import LDLQ, RATES

FAST = LDLQ(memory=8)


def moments(size, seed, strength=2.0):
    """Second moments of neighbours that are alike, on axes of uneven size."""
    draw = torch.Generator().manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(size, size, generator=draw)).Q
    sizes = torch.arange(1, size + 1).float() ** -strength
    return (axes * sizes) @ axes.T


def weight(rows, columns, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def cost(error, inputs, outputs=None):
    """tr(G E H E^T)."""
    left = error if outputs is None else outputs @ error
    return float((left * (error @ inputs)).sum())


@torch.no_grad()
def error(method, matrix, inputs, outputs, bits=2):
    return matrix - method.fit(matrix, inputs, outputs, bits).dense()


def test_feedback_from_inputs_makes_the_error_smaller_and_from_both_sides_smaller_still():
    matrix, inputs, outputs = weight(96, 128), moments(128, 1), moments(96, 2)
    costs = {
        how: cost(error(LDLQ(memory=8, feedback=how), matrix, inputs, outputs), inputs, outputs)
        for how in ("none", "inputs", "both")
    }
    assert costs["inputs"] < 0.5 * costs["none"]
    assert costs["both"] < 0.7 * costs["inputs"]


def test_the_error_is_foretold():
    matrix, inputs, outputs = weight(192, 256), moments(256, 3, 1.0), moments(192, 4, 1.0)
    unit = float(error(LDLQ(memory=8, feedback="none"), weight(256, 256, 5), torch.eye(256), None).square().mean())
    for how, sides in {"none": (inputs, None), "inputs": (inputs, None), "both": (inputs, outputs)}.items():
        method = LDLQ(memory=8, feedback=how, damping=1e-4, output_damping=1e-4)
        found = cost(error(method, matrix, *sides), *sides)
        assert found == pytest.approx(method.sensitivity(matrix, *sides) * unit, rel=0.1), how


def test_what_is_left_over_is_between_the_least_and_the_mean_diagonal():
    inputs = moments(64, 1)
    found = [left_over(inputs, block) for block in (64, 16, 1)]
    assert found[0] == pytest.approx(float(inputs.diagonal().mean()), rel=1e-5)
    assert found[0] > found[1] > found[2] > 0
    assert left_over(torch.eye(48), 16) == pytest.approx(1)


def test_a_factor_times_its_diagonal_is_the_matrix():
    inputs = moments(64, 1, 0.5).double()
    factor = below_diagonal(inputs, 16).double() + torch.eye(64)
    inner = torch.linalg.solve(factor, torch.linalg.solve(factor, inputs).T)
    off = inner.clone()
    for start in range(0, 64, 16):
        off[start : start + 16, start : start + 16] = 0
    assert float(off.abs().max()) < 1e-5 * float(inner.abs().max())


def test_tiles_are_coded_as_the_sum_by_hand_has_it():
    """Each tile aims at what the errors of those to the right and below want, by the definition of M."""
    rows, columns, matrix = 2, 3, 4 * weight(6, 9)
    inputs, outputs, aims = moments(9, 1, 0.3), moments(6, 2, 0.3), []

    def rounded(tiles):
        aims.append(tiles.clone())
        return tiles.round().to(torch.int8).view(torch.uint8), tiles.round()

    codes = code_with_feedback(matrix, inputs, outputs, (rows, columns), rounded)
    right, left = below_diagonal(inputs, columns) + torch.eye(9), below_diagonal(outputs, rows) + torch.eye(6)
    wrong = torch.zeros(6, 9)
    for step, diagonal in enumerate(range(4, -1, -1)):
        places = [(j, diagonal - j) for j in range(3) if 0 <= diagonal - j < 3]
        found = []
        for j, k in places:
            down, across = slice(j * rows, (j + 1) * rows), slice(k * columns, (k + 1) * columns)
            aim = matrix[down, across] + (left.T @ wrong @ right)[down, across]
            found.append(aim.flatten())
            assert torch.equal(codes[j * 3 + k].view(torch.int8), aim.round().flatten().to(torch.int8))
            wrong[down, across] = matrix[down, across] - aim.round()
        torch.testing.assert_close(aims[step], torch.stack(found), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 40), (40, 1), (53, 12), (16, 16), (17, 33), (1, 1)])
@torch.no_grad()
def test_sides_of_any_length(shape):
    matrix, inputs, outputs = weight(*shape), moments(shape[1], 1, 0.5), moments(shape[0], 2, 0.5)
    form = FAST.fit(matrix, inputs, outputs, 4)
    wrong = form.dense() - matrix
    assert form.dense().shape == shape
    assert cost(wrong, inputs, outputs) < 0.05 * cost(matrix, inputs, outputs)
    torch.testing.assert_close(dense(form), form.dense(), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_moments_of_one_vector_and_of_none():
    matrix, vector = weight(48, 32), torch.randn(32, generator=torch.Generator().manual_seed(3))
    one, none, plain = vector.outer(vector), torch.zeros(32, 32), torch.eye(32)
    found = FAST.fit(matrix, one, torch.zeros(48, 48), 2)
    without = error(LDLQ(memory=8, feedback="none"), matrix, one, None)
    assert cost(matrix - found.dense(), one) < 0.6 * cost(without, one)
    for outputs in (None, torch.zeros(48, 48)):
        assert torch.equal(FAST.fit(matrix, none, outputs, 2).dense(), FAST.fit(matrix, plain, None, 2).dense())
        assert FAST.sensitivity(matrix, none, outputs) == 0
    assert bool(damped(none, 0.1).eq(plain).all())
    zeros = FAST.fit(torch.zeros(20, 20), torch.eye(20), None, 2)
    assert not bool(zeros.dense().any())


@pytest.mark.parametrize("codes", ["trellis", "uniform"])
@torch.no_grad()
def test_every_rate_stores_what_its_empty_form_has(codes):
    matrix, inputs = weight(40, 24), moments(24, 1, 0.5)
    for scales in (False, True):
        method, errors = LDLQ(codes=codes, memory=8, scales=scales), []
        for bits in method.rates:
            form, empty = method.fit(matrix, inputs, None, bits), method.empty(40, 24, bits)
            assert form.total_bits() == empty.total_bits()
            assert form.config() == empty.config()
            codes_alone = 3 * 2 * 256 * bits
            extra = 16 * (40 + 24) if scales else 0
            assert codes_alone <= form.total_bits() - extra <= codes_alone + 16 * 2 + 16 * 256 * (codes == "uniform")
            again = build(form.config())
            again.load_state_dict(form.state_dict())
            assert torch.equal(again.dense(), form.dense())
            for name, tensor in form.stored_tensors().items():
                assert torch.equal(tensor.to(form.state_dict()[name].dtype), form.state_dict()[name]), name
            errors.append(cost(form.dense() - matrix, inputs))
        assert errors == sorted(errors, reverse=True)
    assert method.rates == sorted(method.rates)
    assert set(method.rates) <= set(RATES)


def test_losses_fall_with_the_rate():
    for codes in ("trellis", "uniform"):
        method = LDLQ(codes=codes)
        losses = [method.loss(bits) for bits in method.rates]
        assert losses == sorted(losses, reverse=True)
        assert losses[0] < 0.5
    assert LDLQ().loss(2) < LDLQ(codes="uniform").loss(2)


@torch.no_grad()
def test_uniform_codes_without_rotation_are_whole_numbers_of_one_step():
    matrix, inputs = weight(32, 48), moments(48, 1, 0.5)
    form = LDLQ(codes="uniform", feedback="inputs", rotate=False).fit(matrix, inputs, None, 3)
    levels = form.dense().unique()
    assert len(levels) <= 8
    torch.testing.assert_close(levels.diff(), levels.diff().mean().expand(len(levels) - 1), rtol=1e-2, atol=1e-3)
    without = LDLQ(codes="uniform", feedback="none", rotate=False)
    assert cost(matrix - form.dense(), inputs) < cost(error(without, matrix, inputs, None, 3), inputs)


@torch.no_grad()
def test_threads_change_no_bit():
    matrix, inputs, outputs = weight(70, 90), moments(90, 1), moments(70, 2)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(FAST.fit(matrix, inputs, outputs, 1.5).stored_tensors())
    finally:
        torch.set_num_threads(before)
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(bad):
    matrix, inputs, outputs = weight(32, 16), torch.eye(16), torch.eye(32)
    for number, words in enumerate(("its weight holds NaN", "its inputs are NaN", "its outputs are NaN")):
        given = [matrix.clone(), inputs.clone(), outputs.clone()]
        given[number][1, 1] = bad
        with pytest.raises(ValueError, match=words):
            FAST.fit(*given, 2)


def test_other_bad_arguments():
    with pytest.raises(ValueError, match=r"a map takes 1, 1\.5, 2, 2\.5, 3, 3\.5, 4, 5, 6, 8 bits an entry, got 7"):
        FAST.fit(weight(16, 16), torch.eye(16), None, 7)
    with pytest.raises(ValueError, match=r"a map takes 1, 2, 3, 4, 5, 6, 8 bits an entry, got 1\.5"):
        LDLQ(codes="uniform").empty(16, 16, 1.5)
    with pytest.raises(ValueError, match=r"it has 16 inputs, their moments have the shape \(8, 8\)"):
        FAST.fit(weight(16, 16), torch.eye(8), None, 2)
    with pytest.raises(ValueError, match="reaches 4e\\+05, too large for codes with scales in float16"):
        FAST.fit(1e5 * torch.full((16, 16), 4.0), torch.eye(16), None, 2)


@torch.no_grad()
def test_outputs_have_the_mean_square_that_they_had():
    matrix, inputs, outputs = weight(64, 96), moments(96, 1, 0.5), moments(64, 2, 0.5)
    found = {same: LDLQ(memory=8, same_energy=same).fit(matrix, inputs, outputs, 1).dense() for same in (True, False)}
    assert cost(found[True], inputs) == pytest.approx(cost(matrix, inputs), rel=5e-3)
    assert cost(found[False], inputs) < 0.97 * cost(matrix, inputs)
