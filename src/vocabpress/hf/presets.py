"""Published settings of a whole model, by name."""

from dataclasses import dataclass, replace
from typing import Any

from vocabpress.budget import Budget
from vocabpress.calibrate.calibration import UNIFORM
from vocabpress.hf.shapes import LinearShapes
from vocabpress.methods import Method, NearestKronecker, make_method, method_name


@dataclass(frozen=True)
class Preset:
    """A method for the table, its budget, and the linear maps that go with it."""

    method: Method
    budget: Budget
    linears: LinearShapes
    paper: str


def _kronecker(width: int, attention: str, ffn: str) -> Preset:
    # A ratio n to float32 leaves room for n columns a right factor in float16 and in float32 alike.
    shapes = LinearShapes.read({"attention": attention, "ffn": ffn})
    return Preset(NearestKronecker(width), Budget.ratio(width), shapes, NearestKronecker.paper)


PRESETS: dict[str, Preset] = {
    # Section 3.2: for BERT-base, d = 768, attention is (384, 384) and (48, 384) there.
    "kronecker-8x": _kronecker(8, "1/2x1/2", "2x8"),
    "kronecker-20x": _kronecker(16, "1/16x1/2", "2x16"),
}


def preset(name: str, **settings: Any) -> dict[str, Any]:
    """Arguments of `compress` that a preset stands for; the papers count every token alike.

    Args:
        name: A key of PRESETS.
        settings: Fields of its method that are to be others; ``factors`` is that of the linear maps, too.

    Raises:
        ValueError: If the name, a field or a value is unknown.

    Example:
        >>> vocabpress.compress(model, "small", **preset("kronecker-8x"))
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; choose from {', '.join(PRESETS)}")
    chosen = PRESETS[name]
    method = make_method(method_name(chosen.method), **{**vars(chosen.method), **settings})
    linears = replace(chosen.linears, factors=settings.get("factors", chosen.linears.factors))
    return {"method": method, "budget": chosen.budget, "linears": linears, "calibration": UNIFORM}
