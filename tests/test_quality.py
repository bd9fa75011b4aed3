"""The search for the smallest table of a quality, on curves instead of models."""

import pytest

from vocabpress.job.quality import FITS, Tried, check_quality, first_bits, gentler_ratio, next_bits, smallest

CURVES = {
    "as forecast": lambda bits: 12 * 4**-bits,
    "much is lost": lambda bits: min(100, 300 * 4**-bits),
    "little is lost": lambda bits: 0.8 * 4**-bits,
    "steeper": lambda bits: 60 * 8**-bits,
    "flatter": lambda bits: 6 * 2.5**-bits,
}


def searched(loss, limit, start=1.4, least=0.1, most=16.0):
    tried, bits = [], start
    while bits is not None:
        assert least <= bits <= most
        tried.append(Tried(bits, loss(bits)))
        bits = next_bits(tried, limit, least, most)
    return tried


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("limit", [0.3, 1, 5])
def test_three_fits_reach_a_quality_with_few_bits_to_spare(name, limit):
    tried = searched(CURVES[name], limit, first_bits(100 - limit, tied=False))
    best = smallest(tried, limit)
    assert len(tried) <= FITS
    assert best is not None
    assert best.bits < 0.3 or CURVES[name](best.bits * 0.85) > limit


def test_a_last_fit_between_two_others_halves_the_gap_at_least():
    tried = [Tried(1.4, 0.3), Tried(0.588, 1.73)]
    assert next_bits(tried, 1, 0.1, 16) == pytest.approx((1.4 + 0.588) / 2)


def test_a_fit_that_is_close_enough_is_the_last():
    assert len(searched(lambda bits: 0.95, 1)) == 1


def test_the_search_ends_at_the_largest_and_the_smallest_table():
    tried = searched(lambda bits: 50, 1, most=4.0)
    assert tried[-1].bits == 4.0
    assert smallest(tried, 1) is None
    tried = searched(lambda bits: 0.0, 1, least=0.7)
    assert smallest(tried, 1).bits == 0.7


def test_a_table_without_loss_has_no_logarithm():
    assert gentler_ratio(4, 0.0) > 8
    assert gentler_ratio(0.5, 30) < 25


@pytest.mark.parametrize("quality", [0, 100, -3, 250, float("nan")])
def test_a_quality_is_over_0_and_below_100(quality):
    with pytest.raises(ValueError, match="over 0 and below 100"):
        check_quality(quality)
