"""Linear maps as trellis codes in tiles, each tile undoing what the errors of others do to the outputs.

QTIP (Tseng et al., NeurIPS 2024) with the two-sided feedback of YAQA (Tseng et al., 2025):

1. Both sides of the matrix are rotated at random, so that its entries are close to normal and alike (`Rotated`).
2. Tiles of 16 x 16 entries are coded one after the other, with the feedback of `fitting/ldlq.py`.
3. A tile is one path of 256 steps through the trellis of `tcq`.

Ours: rates between whole bits, the damping, and the words, which are those of `tcq`.

Stored: ``Rotated(Tiles(Trellis))``, in ``Scaled`` if scales are to be trained. With ``codes="uniform"`` a `Scalar`
takes the place of the `Trellis`; with feedback from inputs alone and no rotation, that is GPTQ (Frantar et al., ICLR
2023).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from vocabpress.embeddings import CompressedEmbedding, Rotated, Run, Scalar, Scaled, Tiles, Trellis
from vocabpress.embeddings.rotated import OF_COLUMNS, OF_ROWS, rotate, turned
from vocabpress.fitting.ldlq import Coder, code_with_feedback, damped, left_over
from vocabpress.fitting.quantise import quantise, scalar_codes
from vocabpress.fitting.trellis import Encoder, chunk_by_chunk
from vocabpress.methods.tcq import WORDS
from vocabpress.packing import pack

SIDE = 16  # of a tile
ENTRIES = SIDE * SIDE
MOST_SIZE = 2.0**12  # root mean square of a map's entries, whose scales are stored in float16
# Bits of an entry -> runs of a tile. Two entries a step are worse than two rates side by side, but for 3/2.
RATES: dict[float, tuple[Run, ...]] = {
    1: (Run(ENTRIES, 1),),
    1.5: (Run(ENTRIES, 3, 2),),
    2: (Run(ENTRIES, 2),),
    2.5: (Run(ENTRIES // 2, 3), Run(ENTRIES // 2, 2)),
    3: (Run(ENTRIES, 3),),
    3.5: (Run(ENTRIES // 2, 4), Run(ENTRIES // 2, 3)),
    **{bits: (Run(ENTRIES, bits),) for bits in (4, 5, 6, 8)},
}


@dataclass(frozen=True)
class LDLQ:
    """How linear maps are coded.

    Attributes:
        codes: ``"trellis"``, or ``"uniform"`` for whole numbers of the same bits.
        feedback: Errors of which tiles a tile undoes: of those in the same rows (``"inputs"``, QTIP), in the same rows
            and columns (``"both"``, YAQA), or of none.
        rotate: Whether the sides are rotated.
        scales: Whether rows and columns get scales, all 1, to be trained.
        memory: Bits of the trellis' state: each one more doubles the time of a fit and reduces the error.
        damping: Share of the mean diagonal that is added to the inputs' moments.
        output_damping: The same for the outputs' moments, which come from random projections and are less certain.
        same_energy: Whether outputs have the mean square that they had. Those of codes of least error are smaller,
            because the error is in what the codes lack; our choice, at no byte (docs/ablations.md).
    """

    paper: ClassVar[str] = "Tseng et al., NeurIPS 2024; Tseng et al., 2025"
    codes: Literal["trellis", "uniform"] = "trellis"
    feedback: Literal["both", "inputs", "none"] = "both"
    rotate: bool = True
    scales: bool = False
    memory: Annotated[int, Field(ge=8, le=16)] = 12
    damping: Annotated[float, Field(gt=0, le=1)] = 0.01
    output_damping: Annotated[float, Field(gt=0, le=10)] = 0.1
    same_energy: bool = True

    @property
    def rates(self) -> list[float]:
        """Bits of an entry that can be had, ascending."""
        return [bits for bits in RATES if self.codes == "trellis" or bits == int(bits)]

    def loss(self, bits: float) -> float:
        """The squared error of a normal entry of variance 1."""
        if self.codes == "uniform":
            return _uniform_scale(int(bits))[1]
        losses = [WORDS[run.bits, run.width][1] * 4 ** -(run.bits / run.width) for run in RATES[bits]]
        return sum(losses) / len(losses)

    def empty(self, outputs: int, inputs: int, bits: float) -> CompressedEmbedding:
        """What a map with so many outputs and inputs is stored in, without numbers, on the current device.

        Raises:
            ValueError: If the bits are not among `rates`.
        """
        if bits not in self.rates:
            raise ValueError(f"a map takes {', '.join(f'{each:g}' for each in self.rates)} bits an entry, got {bits:g}")
        tiles = math.ceil(outputs / SIDE) * math.ceil(inputs / SIDE)
        codes: CompressedEmbedding = (
            Scalar(tiles, ENTRIES, int(bits), "column")
            if self.codes == "uniform"
            else Trellis(tiles, RATES[bits], self.memory)
        )
        form: CompressedEmbedding = Tiles(codes, outputs, inputs, SIDE, SIDE)
        form = Rotated(form, seed=0) if self.rotate else form
        return Scaled(form) if self.scales else form

    def sensitivity(self, weight: Tensor, inputs: Tensor, outputs: Tensor | None) -> float:
        """tr(G E H E^T) of a map for codes whose own error is 1 for normal entries of variance 1; see `loss`."""
        found = float(weight.float().square().sum())
        sides = (
            (inputs, self.damping, self.feedback != "none"),
            (outputs, self.output_damping, self.feedback == "both"),
        )
        for stream, (moments, damping, undone) in zip((OF_COLUMNS, OF_ROWS), sides, strict=True):
            size = 1.0 if moments is None else float(moments.diagonal().mean())
            found *= size
            if moments is not None and undone and size > 0:
                found *= left_over(self._turned_moments(damped(moments, damping), stream), SIDE)
        return found

    def fit(self, weight: Tensor, inputs: Tensor, outputs: Tensor | None, bits: float) -> CompressedEmbedding:
        """Code a map.

        Args:
            weight: (outputs, inputs), float32.
            inputs: H, the second moments of its inputs, (inputs, inputs).
            outputs: G, those of the gradients at its outputs, (outputs, outputs); None weighs outputs alike.
            bits: Bits of an entry, among `rates`.

        Raises:
            ValueError: As `check_map`, or if the bits are not among `rates`.
        """
        check_map(weight, inputs, outputs)
        rows, columns = weight.shape
        form = self.empty(rows, columns, bits).to(weight.device)
        tiles = next(part for part in form.modules() if isinstance(part, Tiles))
        left = damped(outputs, self.output_damping) if outputs is not None and self.feedback == "both" else None
        right = damped(inputs, self.damping) if self.feedback != "none" else None
        right = None if right is None else self._turned_moments(right, OF_COLUMNS)
        left = None if left is None else self._turned_moments(left, OF_ROWS)
        matrix = turned(weight, seed=0) if self.rotate else weight
        size = float(matrix.square().mean().sqrt())
        with self._coder(tiles.inner, size) as code:
            padded = _padded(matrix / size if size else matrix)
            codes = code_with_feedback(padded, _padded_moments(right), _padded_moments(left), (SIDE, SIDE), code)
        tiles.inner.get_buffer("codes").copy_(codes)
        if self.same_energy:
            seen, pair = damped(inputs, self.damping), (weight, form.dense().detach())
            before, after = (float((each @ seen).mul_(each).sum()) for each in pair)
            tiles.inner.get_parameter("scales").data *= math.sqrt(before / after) if before > 0 < after else 1
        return form.round_to_stored()

    def _turned_moments(self, moments: Tensor, stream: int) -> Tensor:
        return rotate(rotate(moments, 0, stream).T, 0, stream) if self.rotate else moments

    @contextmanager
    def _coder(self, form: CompressedEmbedding, size: float) -> Iterator[Coder]:
        """What codes tiles of variance about 1; sets the scales of the form for entries of this size."""
        scales = form.get_parameter("scales").data
        if isinstance(form, Scalar):
            scale = _uniform_scale(form.bits)[0]
            scales.fill_(scale * size)
            top = (1 << form.bits) - 1

            def rounded(tiles: Tensor) -> tuple[Tensor, Tensor]:
                codes = scalar_codes(tiles, tiles.new_tensor(scale), form.bits)
                return pack(codes, form.bits), (codes.float() * (2 / top) - 1) * scale

            yield rounded
            return
        assert isinstance(form, Trellis)
        unit = torch.tensor([WORDS[run.bits, run.width][0] for run in form.runs], device=scales.device)
        scales.copy_(unit * size)
        encoder, importance = Encoder.of(form.runs, unit, self.memory), torch.ones(ENTRIES, device=scales.device)
        with chunk_by_chunk(scales.device) as each:

            def coded(tiles: Tensor) -> tuple[Tensor, Tensor]:
                share = max(1, min(encoder.at_once, math.ceil(len(tiles) / torch.get_num_threads())))
                parts = each(lambda some: encoder.codes(some, importance), tiles.split(share))
                packed = torch.cat(list(parts))
                with torch.device("meta"):
                    reading = Trellis(len(tiles), form.runs, self.memory)
                reading.codes, reading.scales = packed, torch.nn.Parameter(unit, requires_grad=False)
                return packed, reading.lookup(torch.arange(len(tiles), device=tiles.device))

            yield coded


def check_map(weight: Tensor, inputs: Tensor, outputs: Tensor | None) -> None:
    """Check that a map can be coded.

    Raises:
        ValueError: As `check_weight`, or if a moment is not finite, or moments have another size.
    """
    check_weight(weight)
    for moments, size, what in ((inputs, weight.shape[1], "inputs"), (outputs, weight.shape[0], "outputs")):
        if moments is not None and moments.shape != (size, size):
            raise ValueError(f"it has {size} {what}, their moments have the shape {tuple(moments.shape)}")
        if moments is not None and not bool(moments.isfinite().all()):
            raise ValueError(f"its {what} are NaN or infinite for some text, so it can't be calibrated")


def check_weight(weight: Tensor) -> None:
    """Check that a weight can be coded.

    Raises:
        ValueError: If a number is not finite or too large.
    """
    if not bool(weight.isfinite().all()):
        raise ValueError("its weight holds NaN or infinite values; repair the checkpoint first")
    if float(weight.double().square().mean().sqrt()) > MOST_SIZE:
        reach = float(weight.abs().max())
        raise ValueError(f"its weight reaches {reach:.3g}, too large for codes with scales in float16")


@lru_cache(maxsize=16)
def _uniform_scale(bits: int) -> tuple[float, float]:
    """The best scale of whole numbers for normal entries of variance 1, and their squared error."""
    entries = torch.randn(1, 2**16, generator=torch.Generator().manual_seed(0))
    form = quantise(entries, bits, "row", dtype=torch.float32).requires_grad_(False)
    return float(form.get_parameter("scales")), float((form.dense() - entries).square().mean())


def _padded(matrix: Tensor) -> Tensor:
    rows, columns = matrix.shape
    return torch.nn.functional.pad(matrix, (0, -columns % SIDE, 0, -rows % SIDE))


def _padded_moments(moments: Tensor | None) -> Tensor | None:
    """With ones for the entries that only fill tiles, which matter to nobody and must not hurt others."""
    if moments is None:
        return None
    padded, size = _padded(moments), len(moments)
    padded.diagonal()[size:] = 1
    return padded
