"""The smallest table that loses no more than the user allows, in a few fits.

The error of a code falls fourfold with each bit of an entry, and what the model loses is about proportional to it:
loss ~ c 4^-bits. So one measured fit forecasts the next. Where two fits show another slope, that is used.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

FITS = 3
DEFAULT = 99.0
START_TIED, START_INPUT = 2.5, 1.4  # bits per weight at which models of either kind lose about 1
FALL = 2.0  # log2 of the loss per bit
FLATTEST, STEEPEST, STEEPEST_UP = 0.5, 4.0, 2.5  # that two fits may show instead; the last for larger tables
AIM, LAST_AIM = 0.92, 0.75  # shares of the limit
SAVING = 0.06  # of the bits, for which another fit is made


@dataclass(frozen=True)
class Tried:
    """A fit: its budget in bits per weight, and its loss, 0 to 100."""

    bits: float
    loss: float


def check_quality(quality: float) -> float:
    """Raise ValueError unless a quality can be asked for."""
    if not 0 < quality < 100:
        raise ValueError(f"a quality is over 0 and below 100, got {quality:g}; try 99, or 95 for a smaller table")
    return quality


def first_bits(quality: float, tied: bool, of_tied: float = START_TIED, of_input: float = START_INPUT) -> float:
    """Bits per weight of the first fit.

    Args:
        quality: What is asked for.
        tied: Whether an output head shares the table.
        of_tied: Bits at which models with such a head lose about 1.
        of_input: The same for other models.
    """
    return shifted(of_tied if tied else of_input, 1.0, 100 - quality)


def shifted(bits: float, loss: float, wanted: float, fall: float = FALL) -> float:
    """The bits per weight that lose ``wanted``, where ``bits`` lose ``loss``; at least 0.05."""
    return max(0.05, bits + math.log2(max(loss, wanted / 64) / wanted) / fall)


def gentler_ratio(bits: float, loss: float) -> int:
    """About the ratio to float32 at which a table loses 1, if one of ``bits`` per weight loses ``loss``."""
    return max(2, int(32 / shifted(bits, loss, 100 - DEFAULT)))


def next_bits(tried: Sequence[Tried], limit: float, least: float, most: float) -> float | None:
    """Bits per weight of the next fit; None if there should be none.

    Args:
        tried: The fits so far.
        limit: The most that may be lost.
        least: Bits per weight of the smallest table.
        most: Bits per weight of the largest table.
    """
    best, nearest = smallest(tried, limit), min(tried, key=lambda each: abs(math.log(max(each.loss, 1e-6) / limit)))
    if len(tried) == FITS:
        return None
    last = len(tried) == FITS - 1
    fall = _fall(tried, STEEPEST_UP if best is None else STEEPEST)
    bits = shifted(nearest.bits, nearest.loss, limit * (LAST_AIM if last else AIM), fall)
    low = max((each.bits for each in tried if each.loss > limit), default=least)
    high = most if best is None else best.bits
    if last and best is not None and low > least:  # a fit that fails would be for nothing
        bits = max(bits, (low + high) / 2)
    bits = min(max(bits, low, least), high, most)
    if best is not None and bits > best.bits * (1 - SAVING):
        return None
    return None if any(abs(bits - each.bits) < 0.005 * bits for each in tried) else bits


def smallest(tried: Sequence[Tried], limit: float) -> Tried | None:
    """The smallest of the fits that lose no more than the limit."""
    return min((each for each in tried if each.loss <= limit), key=lambda each: each.bits, default=None)


def _fall(tried: Sequence[Tried], steepest: float) -> float:
    """By how much log2 of the loss falls with a bit."""
    if len(tried) < 2 or min(tried[0].loss, tried[1].loss) <= 0:
        return FALL
    a, b = tried[:2]
    return min(max(math.log2(a.loss / b.loss) / (b.bits - a.bits), FLATTEST), steepest)
