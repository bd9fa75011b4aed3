"""Progress on stderr: one bar with the time left on a terminal, some plain lines elsewhere.

A bar that is opened while another one is open is a part of the other's step, and moves that one: so a job has one bar,
however its parts show theirs. What takes less than two seconds shows nothing.
"""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import suppress
from typing import Any, Generic, Self, TextIO, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
DELAY = 2.0  # seconds that need no bar
SHARE, PAUSE = 0.1, 30.0  # between lines where there is no terminal: of the whole, or seconds
FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left{postfix}"

_open: list["Bar[Any]"] = []


def duration(seconds: float) -> str:
    """Seconds for people: 12 s, 3.5 min, 2.1 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def tell(line: str, stream: TextIO | None = None) -> None:
    """Say something on stderr; that nobody listens any more, as behind ``| head``, is no reason to fail."""
    with suppress(OSError, ValueError):
        (stream or sys.stderr).write(f"{line}\n")
        (stream or sys.stderr).flush()


class Bar(Generic[Item]):
    """A bar over items, or over as many units as `update` is told of.

    Args:
        items: What is gone through; None where `update` tells of it.
        total: Units; None takes as many as there are items, if that is known.
        desc: What is done.
        initial: Units that were done before.
        disable: Whether to show nothing.
    """

    def __init__(
        self,
        items: Iterable[Item] | None = None,
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
        self.outer = _open[-1] if _open and not disable else None
        self.stream: TextIO = sys.stderr
        self.began = self.told = time.monotonic()
        self.share_told: float | None = None
        self.drawn: tqdm[Any] | None = None
        if not disable:
            _open.append(self)

    @property
    def share(self) -> float:
        """Of the whole, what is done: 0 to 1; 0 where nobody knows how much there is."""
        return min(1.0, (self.n + self.inner) / self.total) if self.total else 0.0

    def update(self, units: float = 1) -> None:
        """So many more are done."""
        self.n, self.inner = self.n + units, 0.0
        self._show()

    def set_note(self, **values: Any) -> None:
        """Say something beside the bar."""
        self.note = ", ".join(f"{name} {value}" for name, value in values.items())

    def _show(self) -> None:
        if self.disable:
            return
        if self.outer is not None:
            self.outer.inner = self.share
            self.outer._show()
        elif time.monotonic() - self.began >= DELAY:
            self._draw() if self.stream.isatty() else self._tell()

    def _draw(self) -> None:
        if self.drawn is None:
            layout = FORMAT if self.total else None
            self.drawn = tqdm(
                total=self.total,
                initial=self.initial,  # pyright: ignore[reportArgumentType]: floats serve as well
                desc=self.desc,
                file=self.stream,
                leave=False,
                bar_format=layout,
            )
            self.drawn.start_t -= time.monotonic() - self.began
        self.drawn.total, self.drawn.n = self.total, self.n + self.inner
        if time.monotonic() - self.told >= 0.1:  # a terminal is slow
            self.told = time.monotonic()
            self.drawn.set_postfix_str(f" {self.note}" if self.note else "", refresh=True)

    def _tell(self) -> None:
        now, before = time.monotonic(), self.share_told or 0.0
        if not (now - self.told >= PAUSE or self.share >= before + SHARE or (self.share_told is None and self.share)):
            return
        passed, done = now - self.began, self.share - (self.initial / self.total if self.total else 0.0)
        left = f", about {duration(passed * (1 - self.share) / done)} left" if done > 0 else ""
        how_far = f"{self.share:.0%}" if self.total else f"{self.n:,.0f}"
        note = f" ({self.note})" if self.note else ""
        tell(f"{self.desc}: {how_far} after {duration(passed)}{left}{note}", self.stream)
        self.told, self.share_told = now, self.share

    def close(self) -> None:
        """Take the bar away."""
        if self in _open:
            _open.remove(self)
        if self.share_told is not None and self.share >= 1:
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

    def __iter__(self) -> Iterator[Item]:
        with self:
            for item in self.items or ():
                yield item
                self.update()
