"""Fit a table once to a size, or a few times to a quality, and measure each fit."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from vocabpress.budget import Budget
from vocabpress.calibrate.calibration import Calibration
from vocabpress.fitting.shards import Shards
from vocabpress.hf.fit import Fitted, fit
from vocabpress.hf.original import Original
from vocabpress.hf.report import Change
from vocabpress.hf.request import Request
from vocabpress.job.change import Probe
from vocabpress.job.quality import FITS, Tried, first_bits, next_bits, smallest
from vocabpress.methods import Method
from vocabpress.progress import tell


@dataclass(frozen=True)
class Settled:
    """The fit that is written.

    Attributes:
        fitted: The table.
        change: What it changes; None if that was not measured.
        fits: Number of fits.
    """

    fitted: Fitted
    change: Change | None
    fits: int = 1


class Measured(Protocol):
    """A fit that was measured."""

    @property
    def change(self) -> Change | None: ...


Fit = TypeVar("Fit", bound=Measured)


def search(
    quality: float,
    insists: bool,
    first: float,
    most: float,
    fit_of: Callable[[float], tuple[float, Fit]],
    progress: bool,
    what: str = "table",
) -> tuple[Fit, int]:
    """The smallest of at most `FITS` fits whose quality is not below ``quality``, and their number.

    Args:
        quality: What is asked for.
        insists: Whether a quality that is not reached is an error; else the best is returned, with a warning.
        first: Bits per weight of the first fit.
        most: Bits per weight of the largest.
        fit_of: Fits to bits per weight, or the next larger ones that are possible; returns these and the fit.
        progress: Whether to print each fit on stderr.
        what: What is fitted.

    Raises:
        ValueError: If the quality is not reached.
    """
    limit = 100 - quality
    found, tried, least = list[Fit](), list[Tried](), 0.0
    bits: float | None = first
    while bits is not None:
        possible, fitted = fit_of(bits)
        least = possible if possible > bits else least
        assert fitted.change is not None
        found.append(fitted)
        tried.append(Tried(possible, fitted.change.loss))
        if progress:
            tell(f"fit {len(tried)}: {possible:.3g} bits per weight, quality {fitted.change.quality:.2f}")
        bits = next_bits(tried, limit, least, most)
    best = smallest(tried, limit)
    if best is None:
        best = min(tried, key=lambda each: each.loss)
        said = _missed(quality, best, most, what)
        if insists:
            raise ValueError(said)
        warnings.warn(f"{said}; the best is written", stacklevel=7)
    return found[tried.index(best)], len(found)


def _missed(quality: float, best: Tried, most: float, what: str) -> str:
    reached = f"the best reached is {100 - best.loss:.2f}, at {best.bits:.3g} bits per weight"
    if best.bits > most * 0.99:
        return f"no {what} of {most:g} bits per weight or less has the quality {quality:g}; {reached}"
    more = "--bits-per-weight" if what == "table" else "--model-size"
    return f"{FITS} fits did not reach the quality {quality:g}; {reached}; more can be had with {more}"


@dataclass(frozen=True)
class Bench:
    """An original and its answers, with which fits of its table are measured.

    Attributes:
        original: The original.
        request: What is asked for; its budget is for a fit without a search.
        measured: Whether the first process measures.
        probe: What the original answers; None if nothing is measured, and on all processes but the first.
        device: Where to fit; None is where the table is.
        shards: The processes that fit together.
        progress: Whether to draw progress bars, and print each fit of a search, on stderr.
    """

    original: Original
    request: Request
    measured: bool
    probe: Probe | None
    device: str | None
    shards: Shards
    progress: bool

    @property
    def method(self) -> Method:
        """The method for the table."""
        return self.original.method_for(self.request.method)

    @property
    def most(self) -> float:
        """Bits per weight of the largest table of a search: half of what the table was."""
        return self.original.weight.itemsize * 8 / 2

    def takes_metric(self, quality: float | None) -> bool:
        """Whether the method's rows can be fitted in a metric, in the size or the sizes of a search."""
        budget = self.request.budget if quality is None else Budget.bits_per_weight(self.most)
        return self.method.takes_metric(*self.original.shape, budget)

    def settle(self, quality: float | None, insists: bool, calibration: Calibration) -> Settled:
        """Fit to a quality, or to the size of the request if that is None. The arguments are those of `search`."""
        if quality is None:
            return self.once(self.request.budget, calibration)
        return self.search(quality, insists, calibration)

    def once(self, budget: Budget, calibration: Calibration) -> Settled:
        """Fit within a budget, and measure."""
        request = replace(self.request, budget=budget)
        fitted = fit(self.original, request, calibration, self.device, self.shards, self.progress)
        return Settled(fitted, self.change(fitted))

    def search(self, quality: float, insists: bool, calibration: Calibration) -> Settled:
        """The smallest table whose quality is not below ``quality``, in at most `FITS` fits.

        Args:
            quality: What is asked for.
            insists: Whether a quality that is not reached is an error; else the best is returned, with a warning.
            calibration: Which errors matter.

        Raises:
            ValueError: If no plan fits, or the quality is not reached.
        """
        first = min(first_bits(quality, self.original.ties_head), self.most)

        def fit_of(bits: float) -> tuple[float, Settled]:
            possible = self._possible(bits)
            return possible, self.once(Budget.bits_per_weight(round(possible, 4)), calibration)

        chosen, fits = search(quality, insists, first, self.most, fit_of, self.progress)
        return Settled(chosen.fitted, chosen.change, fits)

    def _possible(self, bits: float) -> float:
        """The bits, or the next larger ones for which the method has a plan."""
        while True:
            try:
                self.method.plans(*self.original.shape, Budget.bits_per_weight(round(bits, 4)))
            except ValueError:
                if bits >= self.most:
                    raise
                bits = min(bits * 1.15, self.most)
            else:
                return bits

    def change(self, fitted: Fitted) -> Change | None:
        """What a fitted table changes, on all processes."""
        if not self.measured:
            return None
        found = None
        if self.probe is not None:
            with self.original.reading(fitted.table):
                found = self.probe.measure()
        return self.shards.agree_on(found)
