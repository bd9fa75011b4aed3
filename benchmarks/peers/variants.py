"""The peers and their settings: FAISS and PCA at given sizes, the others at given bits."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from coded import Peer
from rounding import HQQ, PCAInt8, RoundToNearest, TorchAO
from vectors import FaissIndex

RATIOS = (8, 16, 25, 50, 103)
SHORT = 32  # the groups of GGUF and of MLX
SLACK = 1.005  # tolerance of a size; codes have whole bits
BITS = (8, 7, 6, 5, 4)
# Ratio -> share of the dimensions after the rotation of OPQ, with the least error on the sample model. FAISS learns the
# rotation with 8 bits a code, so the codes have 8. At lower ratios training takes over five minutes.
OPQ = {25: 0.664, 50: 0.375, 103: 0.229}
OPQ_BITS = 8
RQ_BITS = 4  # codebooks span the whole row, so more codewords than 16 cost more than they gain
USUAL_PQ, USUAL_RQ = ("96x8", "48x8"), "16x6"  # usual first choices; their sizes follow from the layout


@dataclass(frozen=True)
class Variant:
    """A peer with its settings.

    Attributes:
        family: Name in legends; one curve over sizes.
        setting: Name within the family.
        peer: The peer.
    """

    family: str
    setting: str
    peer: Peer

    @property
    def name(self) -> str:
        """Display name."""
        return f"{self.family} {self.setting}".strip()

    @property
    def method(self) -> str:
        """Name of the method in results; FAISS is several methods."""
        return self.family.lower().replace(" ", "-") if self.peer.method == "faiss" else self.peer.method

    @property
    def folder(self) -> str:
        """Name of the folder of its results."""
        return re.sub(r"[^a-z0-9_]+", "-", self.name.lower()).strip("-")

    def fits(self, word: str) -> bool:
        """Whether its name, with or without spaces, or its method starts with the word."""
        name, word = self.name.lower(), word.lower()
        return name.startswith(word) or self.folder.startswith(word) or self.method.startswith(word)


def variants(rows: int, width: int) -> list[Variant]:
    """All peers for a table (rows, width), without those that can reach no target size on it."""
    at_sizes = [*_pca(rows, width), *_pq(rows, width), *_opq(rows, width), *_rq(rows, width)]
    taken = {variant.name for variant in at_sizes}
    return [*_bitwise(width), *at_sizes, *(usual for usual in _usual(rows, width) if usual.name not in taken)]


def _bitwise(width: int) -> Iterable[Variant]:
    group = 64 if width % 64 == 0 else width
    for bits in (8, 4, 3, 2):
        yield Variant("RTN", f"{bits} bit", RoundToNearest(bits, group))
    yield Variant("RTN", "4 bit symmetric", RoundToNearest(4, group, symmetric=True))
    if width % SHORT == 0 and group != SHORT:
        for bits in (5, 4, 3):
            yield Variant("RTN", f"{bits} bit of {SHORT}", RoundToNearest(bits, SHORT))
    for bits in (8, 4, 3, 2):  # one bit is worse than the mean row
        yield Variant("HQQ", f"{bits} bit", HQQ(bits, group))
    yield Variant("torchao Int8", "", TorchAO("Int8"))
    yield Variant("torchao Float8", "", TorchAO("Float8"))
    for bits in (8, 4, 2):
        yield Variant(f"torchao Intx {bits} bit", "", TorchAO("Intx", bits, group, symmetric=False))


def _largest(sizes: Callable[[int], int], most: int, budget: float) -> int:
    """The largest number from 1 to ``most`` whose size fits; 0 if none does."""
    return max((number for number in range(1, most + 1) if sizes(number) <= budget), default=0)


def _pca(rows: int, width: int) -> Iterable[Variant]:
    for ratio in RATIOS:
        count = _largest(lambda k: rows * k + (k + 1) * width * 2 + 4, min(rows, width), _budget(rows, width, ratio))
        if count:
            yield Variant("PCA + int8", f"{count} components", PCAInt8(count))


def _pq(rows: int, width: int) -> Iterable[Variant]:
    """At each size the most bits a row, then the least number of codes: the least error on the sample model."""
    divisors = [codes for codes in range(1, width + 1) if width % codes == 0]
    for ratio in RATIOS:
        budget = _budget(rows, width, ratio)
        fitting = [
            (codes * bits, bits, codes)
            for bits in BITS
            for codes in divisors
            if _codes(rows, codes, bits) + 2**bits * width * 2 <= budget
        ]
        if fitting:
            _, bits, codes = max(fitting)
            yield Variant("FAISS PQ", f"{codes}x{bits}", FaissIndex(f"PQ{codes}x{bits}np"))
            if ratio == 25:
                as_faiss = FaissIndex(f"PQ{codes}x{bits}np", codebooks="float32")
                yield Variant("FAISS PQ", f"{codes}x{bits} float32", as_faiss)


def _opq(rows: int, width: int) -> Iterable[Variant]:
    """The rotation may drop dimensions, and must at small sizes, where a square one takes most of the bytes."""
    for ratio, share in OPQ.items():

        def dimensions(codes: int, share: float = share) -> int:
            return codes * max(1, round(share * width / codes))

        def size(codes: int) -> int:
            rotated = dimensions(codes)
            stored = _codes(rows, codes, OPQ_BITS) + (2**OPQ_BITS + width) * rotated * 2
            return stored if rotated <= width else rows * width * 4

        codes = _largest(size, width, _budget(rows, width, ratio))
        if codes:
            factory = f"OPQ{codes}_{dimensions(codes)},PQ{codes}x{OPQ_BITS}np"
            yield Variant("FAISS OPQ", f"{codes}x{OPQ_BITS} of {dimensions(codes)}", FaissIndex(factory))


def _rq(rows: int, width: int) -> Iterable[Variant]:
    """Only from 25x on: over a hundred stages take minutes to train."""
    for ratio in RATIOS[2:]:

        def size(stages: int) -> int:
            return _codes(rows, stages, RQ_BITS) + stages * 2**RQ_BITS * width * 2

        stages = _largest(size, width, _budget(rows, width, ratio))
        if stages:
            yield Variant("FAISS RQ", f"{stages}x{RQ_BITS}", FaissIndex(f"RQ{stages}x{RQ_BITS}"))


def _usual(rows: int, width: int) -> Iterable[Variant]:
    """Layouts without a target size, except those whose codebooks have more words than the table has rows."""
    for layout in USUAL_PQ:
        if width % int(layout.split("x")[0]) == 0 and rows >= 2**8:
            yield Variant("FAISS PQ", layout, FaissIndex(f"PQ{layout}np"))
    if rows >= 2**6:
        yield Variant("FAISS RQ", USUAL_RQ, FaissIndex(f"RQ{USUAL_RQ}"))


def _budget(rows: int, width: int, ratio: float) -> float:
    return rows * width * 4 / ratio * SLACK


def _codes(rows: int, codes: int, bits: int) -> int:
    return rows * ((codes * bits + 7) // 8)
