"""Which errors matter to a job: as the user says, by the text, or by default."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from vocabpress.calibrate import calibrate
from vocabpress.calibrate.calibration import UNIFORM, VOCABULARY_ORDER, Calibration
from vocabpress.calibrate.counts import weigh_tokens
from vocabpress.calibrate.own import TOKENS, own_files
from vocabpress.evaluate.language import is_causal
from vocabpress.hf.checkpoint import open_tokenizer
from vocabpress.hf.original import Original
from vocabpress.job.text import JobText

SEQUENCES, FEWEST_SEQUENCES = 1000, 200  # for the metric
WEIGHTS = 3 * 10**10  # of a model times sequences: two cores need a minute or two for as much


def check_sources(given: Calibration, names: Sequence[str | Path]) -> None:
    """Raise ValueError if the user gives token counts twice."""
    if names and (given.counts is not None or given.source in (UNIFORM, VOCABULARY_ORDER)):
        raise ValueError("token weights come from text or from a calibration that has counts; give one of them")


@dataclass(frozen=True)
class Calibrating:
    """A model to calibrate, and how.

    Attributes:
        folder: Folder of the checkpoint.
        original: The model.
        text: The job's text.
        names: Text files as the user named them; empty if the text comes with the package.
        folds: Whether the method takes a metric.
        seed: Decides which sequences the metric is measured on.
        device: Where to run.
        progress: Whether to draw progress bars on stderr.
        has_own_text: Whether the text is in part the model's own.
    """

    folder: Path
    original: Original
    text: JobText
    names: Sequence[str | Path]
    folds: bool
    seed: int
    device: str | None
    progress: bool
    has_own_text: bool = False

    @contextmanager
    def with_own_text(self, given: Calibration, needed: bool) -> Iterator["Calibrating"]:
        """The same, where a causal language model adds to the text what it writes itself, unless there is the user's.

        Args:
            given: As in `of`.
            needed: Whether there is a use for text but the metric.
        """
        device, tokens = torch.device(self.device or "cpu"), 0
        if not self.names and (needed or self._wants_metric(given)) and is_causal(self.original.model):
            with suppress(ValueError):  # without a tokenizer there is no text
                open_tokenizer(self.folder)
                tokens = TOKENS
        with own_files(self.folder, tokens, self.seed, device, self.progress) as own:
            yield replace(self, text=replace(self.text, files=[*own, *self.text.files]), has_own_text=bool(own))

    def of(self, given: Calibration, later: bool = False) -> tuple[Calibration, bool]:
        """The calibration of the job, and whether its metric is still to be measured.

        Args:
            given: The user's; without weights, counts and metric there is none. Its metric, or its lack of one, stays.
            later: Whether another pass over the text measures the metric, too.

        Raises:
            ValueError: If the text holds no token of the table.
        """
        known = self.weights(given)
        if not self._wants_metric(given) or not (self.names or self.has_own_text):
            return known, False
        return (known, True) if later else (self.with_metric(known), False)

    def _wants_metric(self, given: Calibration) -> bool:
        """Whether a metric is measured: on the user's text, or by default on what a model writes.

        Without a metric the rows of a tied head are far worse (`benchmarks/tied_weights.py`). Encoders gain nothing
        from the little text that comes with the package: they go by Zipf's law over the order of the vocabulary.
        """
        if not self.folds or not given.leaves_weights_open or given.metric is not None:
            return False
        return bool(self.names) or self.original.ties_head

    def weights(self, known: Calibration) -> Calibration:
        """Add token weights, by the user's text if there is any."""
        files = self.text.files if self.names else ()
        rows = self.original.shape[0]
        tokenizer = lambda: open_tokenizer(self.folder)  # noqa: E731
        return weigh_tokens(known, tokenizer, rows, files, noted=self.names, progress=self.progress)

    def with_metric(self, known: Calibration) -> Calibration:
        """Add the metric to token counts and weights, measured on the job's text; a warning if this model has none."""
        try:
            return calibrate(
                self.folder,
                text=self.text.files,
                start=[replace(known, weights=None, exponent=None)],
                metric=True,
                own_tokens=0,
                sequences=max(FEWEST_SEQUENCES, min(SEQUENCES, WEIGHTS // self.original.model.num_parameters())),
                seed=self.seed,
                device=self.device,
                progress=self.progress,
            )
        except Exception as error:  # models that read more than text fail in as many ways as there are models
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            warnings.warn(f"no metric was measured, so all directions of a row weigh alike: {reason}", stacklevel=2)
            return known
