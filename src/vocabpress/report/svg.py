"""Figures as SVG that stands inside a page: several on one page do not clash, and nothing is fetched."""

import io
import re
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from vocabpress.report.console import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 4.6  # inches; at 340 CSS pixels a point is then about a pixel
FONT_SIZE = 10.5
STYLE = {
    "svg.fonttype": "none",  # text stays text: sharp, searchable, in the page's font
    "text.parse_math": False,  # a "$" in a name is a "$"
    "font.family": "DejaVu Sans",  # wide: what fits in it, fits in the fonts of browsers
    "font.size": FONT_SIZE,
    "axes.titlesize": FONT_SIZE,
    "axes.labelsize": FONT_SIZE,
    "xtick.labelsize": FONT_SIZE - 0.5,
    "ytick.labelsize": FONT_SIZE - 0.5,
    "legend.fontsize": FONT_SIZE - 0.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.7,
    "hatch.linewidth": 0.6,
}


_LONG = re.compile(r"-?\d+\.\d{3,}")  # a number finer than anybody sees


def clean(text: str) -> str:
    """Text without what XML can't hold, on one line."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def draw(name: str, title: str, height: float, plot: Callable[["Figure"], None]) -> str:
    """An SVG element without a size of its own.

    Args:
        name: Unique on the page; letters, digits and hyphens. All ids of the drawing start with it.
        title: What the chart says, for those who do not see it.
        height: In inches; the width is `WIDTH`.
        plot: Draws on the empty figure.

    Raises:
        ValueError: If matplotlib is not installed.
    """
    figure = new_figure(WIDTH, height)  # before the import below: it says what to install
    import matplotlib

    buffer = io.BytesIO()
    with ExitStack() as stack:
        style: Any = {**STYLE, "svg.hashsalt": name}
        stack.enter_context(matplotlib.rc_context(style))
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message=".*[Gg]lyph")  # the browser has the fonts
        plot(figure)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _inline(buffer.getvalue(), name, title)


def _inline(document: bytes, name: str, title: str) -> str:
    """The document as an element of a page: own ids, an accessible name, no namespaces, no metadata, no style."""
    root = ElementTree.fromstring(document)
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = {_local(key): _own(key, value, name) for key, value in element.attrib.items()}
    box = root.attrib["viewBox"]
    root.attrib = {"viewBox": box, "role": "img", "aria-labelledby": f"{name}-title", "id": name}
    root.set("style", "stroke-linejoin:round;stroke-linecap:butt")  # what matplotlib's style sheet says of everything
    label: Any = ElementTree.Element("title", {"id": f"{name}-title"})
    label.text = clean(title)
    root.insert(0, label)
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)


def _local(name: str) -> str:
    return name.rsplit("}", 1)[-1]


def _own(key: str, value: str, name: str) -> str:
    """An attribute's value, its ids made the chart's own, its numbers short."""
    if key == "id":
        return f"{name}-{value}"
    if _local(key) in ("d", "x", "y", "transform", "width", "height"):
        return _LONG.sub(lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), value)
    if _local(key) == "href" and value.startswith("#"):
        return f"#{name}-{value[1:]}"
    return value.replace("url(#", f"url(#{name}-")
