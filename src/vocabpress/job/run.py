"""From an opened model to what is written: calibrate, fit, measure, install, write."""

import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from vocabpress.budget import Budget
from vocabpress.calibrate.calibration import Calibration
from vocabpress.fitting.shards import Shards
from vocabpress.hf.config import VocabpressConfig
from vocabpress.hf.fit import Compressed, put
from vocabpress.hf.linears import compress_linears
from vocabpress.hf.maps import write_counts
from vocabpress.hf.original import Original
from vocabpress.hf.quantizer import attach
from vocabpress.hf.report import Report
from vocabpress.hf.request import Request
from vocabpress.job.calibration import Calibrating
from vocabpress.job.change import NotMeasurable, Probe, ask
from vocabpress.job.recovery import Recovering, check_text
from vocabpress.job.search import Bench, Settled
from vocabpress.job.text import NO_TEXT, JobText, open_text
from vocabpress.job.whole_request import WholeRequest
from vocabpress.job.write import Label, write

FALLBACK = Budget.ratio(25)  # where no quality can be measured


@dataclass(frozen=True)
class Job:
    """A request that was checked, and the model that it is for.

    Attributes:
        original: The model.
        request: What is asked of its table; the budget is for a fit without a search.
        asked: What is asked of the whole model.
        quality: Of the table alone, searched for; None takes the budget, or what is asked of the whole.
        insists: Whether a quality that can't be measured or reached is an error.
        measures: Whether to measure what changed.
        known: The user's calibration.
        files: The user's text; may be empty.
        names: The text as the user named it.
        minutes: Of training after the fit; None trains nothing.
        target: The output folder.
        label: What a report says of the job; its quality is still open.
        device: Where to fit.
        shards: The processes that do this together.
        progress: Whether to draw progress bars on stderr.
    """

    original: Original
    request: Request
    asked: WholeRequest
    quality: float | None
    insists: bool
    measures: bool
    known: Calibration
    files: Sequence[Path]
    names: Sequence[str | Path]
    minutes: float | None
    target: Path
    label: Label
    device: str | None
    shards: Shards
    progress: bool

    def run(self) -> Report:
        """Do it; the report is the same on all processes.

        Raises:
            ValueError: If something is refused; nothing was written then.
        """
        with ExitStack() as stack:
            text = NO_TEXT
            if not self.shards.rank:
                text = stack.enter_context(open_text(self.files, self.names, self.label.folder, self.measures))
            if self.minutes is not None:
                check_text(text)
            bench = self._bench(text)
            quality = self.quality if bench.measured else None
            calibrating = self._calibrating(bench, text, quality, stack)
            settled, done, known = self._fit(bench, calibrating, quality)
            if self.shards.rank:  # the first process measures and writes
                return self.shards.agree_on(None)
            label = replace(self.label, quality=quality or self.asked.quality)
            report = write(self.target, bench, label, done, settled, known, self._recovering(calibrating.text))
        return self.shards.agree_on(report)

    def _bench(self, text: JobText) -> Bench:
        probe = None
        if self.measures and not self.shards.rank:
            before = write_counts(self.original.model)
            probe = self._ask(text)
            self._check_unchanged(before)
        elif self.quality is not None and not self.shards.rank:
            warnings.warn(f"the table gets {FALLBACK}, because no quality is measured", stacklevel=4)
        measured = self.shards.agree_on(probe is not None)
        return Bench(self.original, self.request, measured, probe, self.device, self.shards, self.progress)

    def _check_unchanged(self, before: Mapping[str, int]) -> None:
        """Refuse a model that a forward pass has changed: what is written must be the original's."""
        model = self.original.model
        changed = [name for name, times in write_counts(model).items() if times != before[name]]
        if changed:
            raise ValueError(
                f"{type(model).__name__} writes to its weights when it runs ({changed[0]}), so what changes can't be "
                "measured; give --no-measure (measure=False) and a size, such as --ratio 8"
            )

    def _ask(self, text: JobText) -> Probe | None:
        """What the original answers; None, with a warning, if it can't be measured."""
        try:
            return ask(self.original, self.label.folder, text, self.progress)
        except NotMeasurable as error:
            if self.insists:
                raise ValueError(f"a quality can't be measured: {error}; give a size, such as --ratio 25") from None
            instead = "" if self.quality is None else f", so the table gets {FALLBACK}"
            warnings.warn(f"what the compression changes is not measured{instead}: {error}", stacklevel=5)
            return None

    def _calibrating(self, bench: Bench, text: JobText, quality: float | None, stack: ExitStack) -> Calibrating:
        folds, seed = bench.takes_metric(quality), self.request.seed
        found = Calibrating(self.label.folder, self.original, text, self.names, folds, seed, self.device, self.progress)
        if self.shards.rank:
            return found
        needed = bool(self.asked) or self.minutes is not None
        return stack.enter_context(found.with_own_text(self.known, needed))

    def _fit(
        self, bench: Bench, calibrating: Calibrating, quality: float | None
    ) -> tuple[Settled, Compressed, Calibration]:
        """Fit the table and what else is asked for, and install it."""
        original, asked = self.original, self.asked
        found = None if self.shards.rank else calibrating.of(self.known, bool(asked))
        known, measures = self.shards.agree_on(found)
        known.check(*original.shape)
        if asked:
            files, insists = calibrating.text.files, self.insists
            settled, maps, known = asked.fit(bench, self.label.folder, files, known, measures, quality, insists)
        else:
            maps = compress_linears(original.model, self.request.linears, self.device, self.progress)
            settled = bench.settle(quality, self.insists, known)
        done = put(original, settled.fitted, known, maps)
        attach(original.model, VocabpressConfig(**done.stored, rest="float16" if asked else None))
        return settled, done, known

    def _recovering(self, text: JobText) -> Recovering | None:
        if self.minutes is None:
            return None
        return Recovering(self.label.folder, text, self.minutes, self.request.seed, self.device, bool(self.asked))
