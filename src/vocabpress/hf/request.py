"""What a user requests: method, budget, seed, and the linear maps to store as Kronecker products.

The shapes of linear maps follow KroneckerBERT (Tahaei et al., NAACL 2022, section 3.2). A weight W (outputs x inputs)
is A (x) B with A (m1 x n1), and users give ``n1 x m1``. In a feed-forward block the shape holds for W1 and for the
transpose of W2, so one shape serves both.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from typing import Any, Self

from vocabpress.budget import Budget
from vocabpress.fitting.quantise import Factors, check_factors
from vocabpress.methods import Method, NearestKronecker, make_method, method_name

FactorSide = int | Fraction
FactorShape = tuple[FactorSide, FactorSide]
"""n1 and m1: columns and rows of A. Each is a number, or a fraction below 1 of the map's inputs or outputs."""

ROLES = ("attention", "ffn")


def read_shape(role: str, value: Any) -> FactorShape:
    """Parse ``"48x384"``, ``"1/16x1/2"`` or a pair of numbers; a ValueError if it is not a shape."""
    sides = value.lower().split("x") if isinstance(value, str) else value
    try:
        first, second = (Fraction(side) for side in sides)
    except (TypeError, ValueError, ZeroDivisionError):
        first = second = Fraction(0)
    if min(first, second) <= 0 or any(side > 1 and side.denominator > 1 for side in (first, second)):
        raise ValueError(
            f"the shape of {role} is n1 x m1, columns and rows of its left factor, got {value!r}; "
            "write it like 48x384, or 1/16x1/2 for fractions of the map's sides"
        )
    return tuple(side.numerator if side.denominator == 1 else side for side in (first, second))  # pyright: ignore[reportReturnType]


@dataclass(frozen=True)
class LinearShapes:
    """The linear maps to store as Kronecker products.

    Attributes:
        attention: Shape of A for query, key, value and output maps; None does not compress them.
        ffn: Shape of A for the maps of feed-forward blocks, the last one transposed; None does not compress them.
        terms: Number of Kronecker products in the sum.
        factors: Number format of all factors: ``"float16"``, ``"int8"`` or ``"int4"``.

    Raises:
        ValueError: If a value is invalid, or neither `attention` nor `ffn` is given.
    """

    attention: FactorShape | None = None
    ffn: FactorShape | None = None
    terms: int = 1
    factors: Factors = "float16"

    def __post_init__(self) -> None:
        check_factors(self.factors)
        if not self.roles:
            raise ValueError(f"no linear maps are chosen; give a shape to one of {', '.join(ROLES)}")
        if self.terms < 1:
            raise ValueError(f"terms must be at least 1, got {self.terms}")

    @property
    def roles(self) -> dict[str, FactorShape]:
        """Role -> shape, without the roles that are None."""
        given = {"attention": self.attention, "ffn": self.ffn}
        return {role: shape for role, shape in given.items() if shape is not None}

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Self:
        """Parse settings from a command line or a dictionary, such as ``{"attention": "48x384", "ffn": (2, 16)}``.

        Raises:
            ValueError: If a name is unknown or a value is invalid.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"unknown linear maps {unknown[0]!r}; choose from {', '.join(known)}")
        read: dict[str, Any] = dict(values)
        for role in ROLES:
            if read.get(role) is not None:
                read[role] = read_shape(role, read[role])
        try:
            read["terms"] = int(read.get("terms", cls.terms))
        except ValueError:
            raise ValueError(f"terms takes a number such as 1, got {read['terms']!r}") from None
        return cls(**read)

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON, with shapes as text."""
        shapes = {role: "x".join(str(side) for side in shape) for role, shape in self.roles.items()}
        return {**shapes, "terms": self.terms, "factors": self.factors}


@dataclass(frozen=True)
class Request:
    """What a user requests.

    Attributes:
        method: Method for the table; None is `TCQ`.
        budget: Size of the table.
        seed: Seed for all randomness.
        linears: Linear maps to store as Kronecker products.
    """

    method: Method | None = None
    budget: Budget = field(default_factory=lambda: Budget.ratio(25))
    seed: int = 0
    linears: LinearShapes | None = None


@dataclass(frozen=True)
class Preset:
    """A method for the table, its budget, and the linear maps that go with it."""

    method: Method
    budget: Budget
    linears: LinearShapes
    paper: str


def _kronecker_preset(width: int, attention: str, ffn: str) -> Preset:
    # The ratio `width` to float32 leaves room for right factors of `width` columns, in float16 and in float32 alike.
    shapes = LinearShapes.read({"attention": attention, "ffn": ffn})
    return Preset(NearestKronecker(width), Budget.ratio(width), shapes, NearestKronecker.paper)


PRESETS: dict[str, Preset] = {
    # Section 3.2: for BERT-base, d = 768, attention is (384, 384) and (48, 384) there.
    "kronecker-8x": _kronecker_preset(8, "1/2x1/2", "2x8"),
    "kronecker-20x": _kronecker_preset(16, "1/16x1/2", "2x16"),
}


def preset(name: str, **settings: Any) -> dict[str, Any]:
    """The arguments of `compress` for a preset. Tokens have equal weights, as in the papers.

    Args:
        name: A key of PRESETS.
        settings: Fields of its method to change; ``factors`` also applies to the linear maps.

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
    return {"method": method, "budget": chosen.budget, "linears": linears, "calibration": "uniform"}
