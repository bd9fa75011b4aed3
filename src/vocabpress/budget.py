"""How much a table may take, and the search for the largest size that fits.

There are no size formulas here: a size is what a module that was really built (on the meta device) counts.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
UNITS = ("ratio", "bits_per_weight", "bytes")
Size = TypeVar("Size")
_TEXT = re.compile(r"(?:ratio )?([0-9.,e+-]+) (?:to (\w+)|bits per weight|bytes)")  # what `str` writes
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def dtype_name(dtype: torch.dtype) -> str:
    """``torch.float16`` -> ``"float16"``."""
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Budget:
    """The most that a compressed table may store, given in one of three ways.

    Make one with :meth:`ratio`, :meth:`bits_per_weight` or :meth:`bytes`. Files hold its fields, by
    ``dataclasses.asdict``; :meth:`read` takes them back.

    Attributes:
        amount: The number as it was given.
        unit: ``"ratio"``, ``"bits_per_weight"`` or ``"bytes"``.
        reference: The dtype that a ratio is measured against; ratios of the literature use float32.
    """

    amount: float
    unit: str
    reference: str = "float32"

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ValueError(f"unknown unit {self.unit!r} of a budget; choose from {list(UNITS)}")
        if self.reference not in DTYPES:
            raise ValueError(f"unknown reference dtype {self.reference!r}; a ratio is against {list(DTYPES)}")
        if self.unit == "ratio" and not 1 <= self.amount < float("inf"):
            raise ValueError(f"a ratio is at least 1, got {self.amount:g}; try 25")
        if not 0 < self.amount < float("inf"):
            raise ValueError(f"a budget is a positive number, got {self.amount:g} {self.unit}")
        object.__setattr__(self, "amount", float(self.amount))  # 25 and 25.0 are written alike

    @classmethod
    def ratio(cls, ratio: float, reference: str | torch.dtype = "float32") -> Self:
        """At most 1/``ratio`` of the table in the ``reference`` dtype."""
        return cls(ratio, "ratio", reference if isinstance(reference, str) else dtype_name(reference))

    @classmethod
    def bits_per_weight(cls, bits: float) -> Self:
        """At most ``bits`` bits for each entry of the table, everything counted."""
        return cls(bits, "bits_per_weight")

    @classmethod
    def bytes(cls, size: int | str) -> Self:
        """At most ``size`` bytes; text such as ``"2MB"`` (10**6) or ``"2MiB"`` (2**20) is read.

        Raises:
            ValueError: If the text is not a size.
        """
        if isinstance(size, str):
            match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([a-z]*)\s*", size.lower())
            if match is None or match[2] not in _UNITS:
                raise ValueError(f"{size!r} is not a size; write it like 800kB, 2MB or 1.5MiB")
            size = int(float(match[1]) * _UNITS[match[2]])
        return cls(size, "bytes")

    @classmethod
    def read(cls, stored: str | Mapping[str, Any]) -> Self:
        """The budget that a file names: its fields, or the text that earlier versions wrote instead.

        Raises:
            ValueError: If it is neither.
        """
        if isinstance(stored, str):
            match = _TEXT.fullmatch(stored)
            if match is None:
                raise ValueError(f"{stored!r} is no budget; write it like 'ratio 25 to float32'")
            unit = "ratio" if match[2] else "bytes" if stored.endswith("bytes") else "bits_per_weight"
            return cls(float(match[1].replace(",", "")), unit, match[2] or "float32")
        try:
            return cls(**stored)
        except TypeError:
            raise ValueError(f"{stored!r} is no budget; its fields are amount, unit and reference") from None

    def options(self) -> list[str]:
        """The options of the command line that give it."""
        name = {"ratio": "--ratio", "bits_per_weight": "--bits-per-weight", "bytes": "--size"}[self.unit]
        reference = ["--reference", self.reference] if self.reference != Budget.reference else []
        return [name, f"{self.amount:.0f}" if self.unit == "bytes" else f"{self.amount:g}", *reference]

    def max_bits(self, num_embeddings: int, embedding_dim: int) -> int:
        """The most bits that a table of (``num_embeddings``, ``embedding_dim``) may store."""
        entries = num_embeddings * embedding_dim
        if self.unit == "ratio":
            return int(entries * DTYPES[self.reference].itemsize * 8 / self.amount)
        return int(entries * self.amount) if self.unit == "bits_per_weight" else int(self.amount) * 8

    def __str__(self) -> str:
        """The budget in words, its reference named."""
        if self.unit == "ratio":
            return f"ratio {self.amount:g} to {self.reference}"
        return f"{self.amount:g} bits per weight" if self.unit == "bits_per_weight" else f"{int(self.amount):,} bytes"


def largest(bits: Callable[[Size], int], limit: int, sizes: Sequence[Size]) -> Size | None:
    """The largest size in ``sizes`` with ``bits(size) <= limit``; None where even the first is too large.

    Args:
        bits: Counts what a size stores; must not fall as the size grows.
        limit: The most bits allowed.
        sizes: Ascending candidates.
    """
    if not sizes or bits(sizes[0]) > limit:
        return None
    low, high = 0, len(sizes) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if bits(sizes[middle]) <= limit:
            low = middle
        else:
            high = middle - 1
    return sizes[low]
