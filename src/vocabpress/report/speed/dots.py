"""What charts of rows share: names to the left, the first on top, and numbers to the right."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vocabpress.report.names import short
from vocabpress.report.svg import FONT_SIZE

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def put_names(axes: "Axes", names: Sequence[str]) -> None:
    """A row for each name, the first on top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def put_numbers(axes: "Axes", numbers: Sequence[float], head: str = "") -> None:
    """The number of each row at the right edge, under a head."""
    right = axes.secondary_yaxis("right")
    right.set_yticks(range(len(numbers)), [short(number) for number in numbers])
    right.tick_params(axis="y", length=0)
    right.spines["right"].set_visible(False)
    style: Any = {"xycoords": "axes fraction", "textcoords": "offset points", "fontsize": FONT_SIZE - 0.5}
    axes.annotate(head, (1, 1), (38, 3), ha="right", va="bottom", annotation_clip=False, **style)


def steps(values: Sequence[float]) -> tuple[list[float], list[float]]:
    """(x, y) of a line that runs down the rows, in each at its own value."""
    edges = [at + side for at in range(len(values)) for side in (-0.5, 0.5)]
    return [value for value in values for _ in range(2)], edges
