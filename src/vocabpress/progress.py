"""Progress on stderr: one bar with the time left on a terminal, occasional plain lines elsewhere.

A bar that is opened while another one is open counts as a part of the other's current step and moves the other one.
So a job shows one bar, whatever bars its parts have. Work of less than two seconds shows nothing.
"""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import suppress
from typing import Any, Generic, Self, TextIO, TypeVar

from tqdm import tqdm

T = TypeVar("T")
DELAY = 2.0  # seconds before anything is shown
LINE_STEP, LINE_PAUSE = 0.1, 30.0  # without a terminal a line is printed after this fraction of the work, or seconds
BAR_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left{postfix}"

_open_bars: list["Bar[Any]"] = []


def duration(seconds: float) -> str:
    """Format seconds: 12 s, 3.5 min, 2.1 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def tell(line: str, stream: TextIO | None = None) -> None:
    """Print a line on stderr. A closed stream, as after ``| head``, is not an error."""
    with suppress(OSError, ValueError):
        (stream or sys.stderr).write(f"{line}\n")
        (stream or sys.stderr).flush()


class Bar(Generic[T]):
    """A progress bar over items, or over units counted by `update`.

    Args:
        items: Items to iterate over; None if the caller calls `update`.
        total: Number of units; None takes the number of items, if known.
        desc: Text before the bar.
        initial: Units that were done before the bar was opened.
        disable: Whether to show nothing.
    """

    def __init__(
        self,
        items: Iterable[T] | None = None,
        *,
        total: float | None = None,
        desc: str = "",
        initial: float = 0,
        disable: bool = False,
    ) -> None:
        self.items, self.desc, self.disable = items, desc, disable
        self.total = float(len(items)) if total is None and isinstance(items, Sized) else total
        self.n, self.initial, self.inner = float(initial), float(initial), 0.0
        self.note = ""
        self.outer = _open_bars[-1] if _open_bars and not disable else None
        self.stream: TextIO = sys.stderr
        self.began = self.last_shown = time.monotonic()
        self.last_share: float | None = None  # at the last line
        self.drawn: tqdm[Any] | None = None
        if not disable:
            _open_bars.append(self)

    @property
    def share(self) -> float:
        """The fraction that is done, 0 to 1; 0 if the total is unknown."""
        return min(1.0, (self.n + self.inner) / self.total) if self.total else 0.0

    def update(self, units: float = 1) -> None:
        self.n, self.inner = self.n + units, 0.0
        self._show()

    def set_note(self, **values: Any) -> None:
        """Set the values shown beside the bar."""
        self.note = ", ".join(f"{name} {value}" for name, value in values.items())

    def _show(self) -> None:
        if self.disable:
            return
        if self.outer is not None:
            self.outer.inner = self.share
            self.outer._show()
        elif time.monotonic() - self.began >= DELAY:
            self._draw() if self.stream.isatty() else self._print_line()

    def _draw(self) -> None:
        if self.drawn is None:
            self.drawn = tqdm(
                total=self.total,
                initial=self.initial,  # pyright: ignore[reportArgumentType]: floats work too
                desc=self.desc,
                file=self.stream,
                leave=False,
                bar_format=BAR_FORMAT if self.total else None,
            )
            self.drawn.start_t -= time.monotonic() - self.began
        self.drawn.total, self.drawn.n = self.total, self.n + self.inner
        if time.monotonic() - self.last_shown >= 0.1:  # terminals are slow
            self.last_shown = time.monotonic()
            self.drawn.set_postfix_str(f" {self.note}" if self.note else "", refresh=True)

    def _print_line(self) -> None:
        now, share, last = time.monotonic(), self.share, self.last_share
        is_due = share > 0 if last is None else share >= last + LINE_STEP
        if not is_due and now - self.last_shown < LINE_PAUSE:
            return
        passed, done = now - self.began, share - (self.initial / self.total if self.total else 0.0)
        left = f", about {duration(passed * (1 - share) / done)} left" if done > 0 else ""
        progress = f"{share:.0%}" if self.total else f"{self.n:,.0f}"
        note = f" ({self.note})" if self.note else ""
        tell(f"{self.desc}: {progress} after {duration(passed)}{left}{note}", self.stream)
        self.last_shown, self.last_share = now, share

    def close(self) -> None:
        if self in _open_bars:
            _open_bars.remove(self)
        if self.last_share is not None and self.share >= 1:
            tell(f"{self.desc}: done after {duration(time.monotonic() - self.began)}", self.stream)
        if self.outer is not None:
            self.outer.inner = 0.0
        if self.drawn is not None:
            self.drawn.close()
            self.drawn = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[T]:
        with self:
            for item in self.items or ():
                yield item
                self.update()
