import itertools
import math

import pytest
import torch

from vocabpress.fitting import binary
from vocabpress.fitting.binary import flip_bits, train_codes
from vocabpress.fitting.lowrank import principal_axes, ridge, weighted_svd
from vocabpress.fitting.quantise import quantise
from vocabpress.methods import LightToken
from vocabpress.methods.autoencoder import direction_loss

# Mean squared error of the best uniform quantiser for a unit Gaussian, 1 to 5 bits: J. Max, "Quantizing for minimum
# distortion", 1960, table II.
MAX_UNIFORM = {1: 0.3634, 2: 0.1188, 3: 0.03744, 4: 0.01154, 5: 0.003495}


def test_direction_loss_by_hand():
    # x = (3, 4), y = (4, 3): cosine 24/25; both entries are off by 1, so every power of the errors is 1.
    x, y = torch.tensor([[3.0, 4.0]]), torch.tensor([[4.0, 3.0]])
    for alpha in (1.0, 0.1):
        value = direction_loss(y, x, alpha, cosine_weight=0.1995, l1_weight=0.0025)
        torch.testing.assert_close(value, torch.tensor([0.1995 / 25 + 0.0025]))
    # Errors 0 and 4 with alpha 1/2: mean of their square roots is 1.
    value = direction_loss(torch.tensor([[3.0, 8.0]]), x, 0.5, cosine_weight=0.0, l1_weight=1.0)
    torch.testing.assert_close(value, torch.tensor([1.0]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("width", [2, 8, 384])
def test_the_calibrated_family_bounds_the_error(width):
    # In float64: at width 384 the float32 rounding of 1 - c alone is as large as the slack of the bounds.
    x = torch.randn(4000, width, dtype=torch.float64)
    y = torch.randn_like(x) * torch.rand(4000, 1, dtype=torch.float64) * 2
    y[:2000] = x[:2000] + 0.1 * y[:2000]  # near and far pairs
    square, slack = LightToken(loss="mse").row_loss(y, x), 1e-6
    torch.testing.assert_close(square, (x - y).square().sum(-1))
    torch.testing.assert_close(LightToken().row_loss(y, x), square)
    assert bool((LightToken(cosine_weight=2.0).row_loss(y, x) >= square - slack).all())


@pytest.mark.parametrize("loss", ["calibrated", "mse"])
def test_row_losses_are_least_at_the_original(loss):
    x, function = torch.randn(50, 6), LightToken(loss=loss, cosine_weight=2.0).row_loss
    y = x.clone().requires_grad_()
    function(y, x).sum().backward()
    assert y.grad is not None
    assert bool(y.grad.isfinite().all())
    assert bool((function(x, x) <= function(x + 0.1 * torch.randn(50, 6), x) + 1e-3).all())


def test_principal_axes_agree_with_torch_svd():
    rows = torch.randn(60, 7)
    axes, values = principal_axes(rows, torch.ones(60))
    expected = torch.linalg.svdvals(rows.double()).square() / 60
    torch.testing.assert_close(values, expected)
    torch.testing.assert_close(axes @ axes.T, torch.eye(7, dtype=torch.float64))


def test_weighted_svd_is_the_optimum_that_torch_finds():
    table, weights = torch.randn(80, 9, dtype=torch.float64), torch.rand(80, dtype=torch.float64) * 10
    for rank in (0, 1, 4, 9):
        low = weighted_svd(table, rank, weights)
        centred = (table - low.mean) * weights.sqrt()[:, None]
        optimum = torch.linalg.svdvals(centred)[rank:].square().sum()
        error = ((low.left.dense() @ low.right + low.mean - table).square().sum(1) * weights).sum()
        torch.testing.assert_close(error, optimum, rtol=1e-8, atol=1e-8)


def test_ridge_agrees_with_torch_least_squares():
    features, targets, weights = torch.randn(200, 5), torch.randn(200, 3), torch.rand(200) + 0.1
    root = weights.sqrt()[:, None]
    expected = torch.linalg.lstsq(features * root, targets * root).solution
    torch.testing.assert_close(ridge(features, targets, weights, penalty=0.0), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("bits", MAX_UNIFORM)
@pytest.mark.parametrize("axis", ["row", "column", "group"])
def test_scalar_rounding_reaches_the_best_uniform_quantiser(bits, axis):
    values = torch.randn(16384, 4) if axis == "column" else torch.randn(4, 16384)
    stored = quantise(values, bits, axis, group_size=8192 if axis == "group" else None)
    error = float((stored.dense().detach() - values).square().mean() / values.square().mean())
    assert error == pytest.approx(MAX_UNIFORM[bits], rel=0.06)


def test_rounding_by_hand():
    # Two bits: the levels are -1, -1/3, 1/3, 1; with scale 3 the first row is exact.
    values = torch.tensor([[-3.0, -1.0, 1.0, 3.0], [0.0, 0.0, 0.0, 0.0]])
    stored = quantise(values, 2, "row")
    torch.testing.assert_close(stored.dense(), values)  # a row of zeros gets the scale 0
    assert stored.scales is not None
    assert stored.scales.flatten().tolist() == [3.0, 0.0]


def best_codes(targets, decoder):
    """Brute force over all codes."""
    codes = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=len(decoder))))
    errors = torch.cdist(targets, codes @ decoder).square()
    return codes[errors.argmin(1)], errors.min(1).values


def test_bit_flips_keep_the_brute_force_optimum_and_reach_a_local_one():
    decoder, targets = torch.randn(6, 4), torch.randn(300, 4) * 2
    optimum, least = best_codes(targets, decoder)
    codes, generator = optimum.clone(), torch.Generator().manual_seed(0)
    flip_bits(targets, codes, decoder, 0.0, generator)
    assert torch.equal(codes, optimum)

    codes = torch.where(torch.randn(300, 6) > 0, 1.0, -1.0)
    errors = [(targets - codes @ decoder).square().sum(1)]
    for _ in range(8):
        flip_bits(targets, codes, decoder, 0.0, generator)
        errors.append((targets - codes @ decoder).square().sum(1))
        assert bool((errors[-1] <= errors[-2] + 1e-4).all())
    for bit in range(6):  # no single flip helps any more
        flipped = codes.clone()
        flipped[:, bit] *= -1
        assert bool(((targets - flipped @ decoder).square().sum(1) >= errors[-1] - 1e-4).all())
    assert bool((errors[-1] >= least - 1e-4).all())


def test_annealed_bit_flips_end_nearer_to_the_optimum_than_plain_ones():
    decoder, targets = torch.randn(8, 5), torch.randn(2000, 5) * 2
    start = torch.where(torch.randn(2000, 8) > 0, 1.0, -1.0)
    ends = []
    for temperatures in ([0.0] * 12, [0.3 * (1 - step / 8) for step in range(8)] + [0.0] * 4):
        codes, generator = start.clone(), torch.Generator().manual_seed(1)
        for temperature in temperatures:
            flip_bits(targets, codes, decoder, temperature, generator)
        ends.append(float((targets - codes @ decoder).square().sum()))
    assert ends[1] < ends[0]


def calls_of_the_loss(monkeypatch, epochs, **constants) -> int:
    for name, value in constants.items():
        monkeypatch.setattr(binary, name, value)
    calls = 0

    def loss(y, x):
        nonlocal calls
        calls += 1
        return (x - y).square().sum(-1)

    table = torch.randn(600, 8)
    codes = train_codes(
        table, torch.zeros_like(table), 8, torch.ones(600), loss, epochs, torch.Generator().manual_seed(0)
    )[:]
    assert set(codes.unique().tolist()) == {-1.0, 1.0}
    return calls


def test_a_stage_stops_when_its_codes_saturate_or_its_loss_is_flat(monkeypatch):
    monkeypatch.setattr(binary, "BATCH_SIZE", 100)
    steps = math.ceil(0.97 * 600 / 100) + 1  # batches of an epoch, and one look at the held-out rows
    assert calls_of_the_loss(monkeypatch, 6, SATURATION=2.0, PATIENCE=100) == 6 * steps
    assert calls_of_the_loss(monkeypatch, 60, PATIENCE=2) < 60 * steps
    # At so low a temperature every logit is saturated from the start: one epoch, and the detector ends it.
    assert calls_of_the_loss(monkeypatch, 6, SATURATION=0.9, TEMPERATURES=(1e-4, 1e-5)) == steps


def test_trained_codes_beat_the_random_rotation_that_they_start_from():
    table = torch.randn(3000, 12) * torch.arange(1, 13) ** -1.0
    errors = []
    for epochs in (0, 8):
        codes = train_codes(
            table, torch.zeros_like(table), 12, torch.ones(3000), LightToken(loss="mse").row_loss, epochs,
            torch.Generator().manual_seed(0),
        )[:]  # fmt: skip
        decoder = ridge(codes, table, torch.ones(3000))
        errors.append(float((codes @ decoder - table).square().sum()))
    assert errors[1] < 0.95 * errors[0]
