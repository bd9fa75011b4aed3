"""Which linear maps of a model are to be Kronecker products, and of what shape: what the user says.

The notation is that of KroneckerBERT (Tahaei et al., NAACL 2022, section 3.2): a weight W (outputs x inputs) is A (x) B
with A (m1 x n1), and ``n1 x m1`` is given. For the maps of a feed-forward block it is that of W1 and of W2 transposed,
so that one pair serves both.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any, Self

from vocabpress.fitting.quantise import Factors, check_factors

Side = int | Fraction
Shape = tuple[Side, Side]
"""n1 and m1: columns and rows of A, each a number, or a share (below 1) of the map's inputs or outputs."""

ROLES = ("attention", "ffn")


def read_shape(role: str, value: Any) -> Shape:
    """``"48x384"``, ``"1/16x1/2"`` or a pair of numbers as a shape.

    Raises:
        ValueError: If it is none.
    """
    sides = value.lower().split("x") if isinstance(value, str) else value
    try:
        first, second = (Fraction(side) for side in sides)
    except (TypeError, ValueError, ZeroDivisionError):
        first = second = Fraction(0)
    if min(first, second) <= 0 or any(side > 1 and side.denominator > 1 for side in (first, second)):
        raise ValueError(
            f"the shape of {role} is n1 x m1, columns and rows of its left factor, got {value!r}; "
            "write it like 48x384, or 1/16x1/2 for shares of the map's sides"
        )
    return tuple(side.numerator if side.denominator == 1 else side for side in (first, second))  # pyright: ignore[reportReturnType]


@dataclass(frozen=True)
class LinearShapes:
    """The linear maps that are stored as Kronecker products.

    Attributes:
        attention: Shape of A of the queries', keys', values' and output maps; None leaves them as they are.
        ffn: Of the feed-forward blocks' maps, of the last one transposed; None leaves them as they are.
        terms: Products that are added up.
        factors: Number format of all factors: ``"float16"``, ``"int8"`` or ``"int4"``.

    Raises:
        ValueError: If a value is none, or no role is given.
    """

    attention: Shape | None = None
    ffn: Shape | None = None
    terms: int = 1
    factors: Factors = "float16"

    def __post_init__(self) -> None:
        check_factors(self.factors)
        if not self.roles:
            raise ValueError(f"no linear maps are chosen; give a shape to one of {', '.join(ROLES)}")
        if self.terms < 1:
            raise ValueError(f"terms is at least 1, got {self.terms}")

    @property
    def roles(self) -> dict[str, Shape]:
        """Role -> shape, of those that are given."""
        given = {"attention": self.attention, "ffn": self.ffn}
        return {role: shape for role, shape in given.items() if shape is not None}

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Self:
        """From what a command line or a dictionary says, such as ``{"attention": "48x384", "ffn": (2, 16)}``.

        Raises:
            ValueError: If a name is unknown or a value does not fit.
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

    def told(self) -> dict[str, Any]:
        """The same as JSON: shapes as text."""
        shapes = {role: "x".join(str(side) for side in shape) for role, shape in self.roles.items()}
        return {**shapes, "terms": self.terms, "factors": self.factors}
