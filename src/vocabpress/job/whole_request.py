"""What a user asks of the whole model, not of its table alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from vocabpress.budget import Budget
from vocabpress.calibrate.calibration import Calibration
from vocabpress.fitting.shards import Shards
from vocabpress.hf.fit import Maps
from vocabpress.hf.folders import weight_bytes
from vocabpress.hf.inner import TRELLIS, method_of
from vocabpress.hf.maps import find_maps, weight_of
from vocabpress.hf.original import Original
from vocabpress.hf.request import LinearShapes
from vocabpress.hf.states import shortened
from vocabpress.hf.tables import base_prefix
from vocabpress.job.body import Body, named
from vocabpress.job.quality import check_quality
from vocabpress.job.search import Bench, Settled
from vocabpress.job.whole import Whole
from vocabpress.methods.ldlq import LDLQ, check_weight

BITS = 3.0


@dataclass(frozen=True)
class WholeRequest:
    """A request for the linear maps, or for the size of the file; false if there is none.

    Attributes:
        bits: Bits of an entry of the maps.
        size: Bytes of the weight file.
        ratio: Bytes of the original's weight files over those of the new one.
        quality: The least quality of the model; the file is the smallest of a few that have it.
        method: How maps are coded.
    """

    bits: float | None = None
    size: int | None = None
    ratio: float | None = None
    quality: float | None = None
    method: LDLQ = field(default_factory=LDLQ)

    def __bool__(self) -> bool:
        return self.bits is not None or self.limited

    @property
    def limited(self) -> bool:
        """Whether the size of the file is given, or its quality."""
        return any(each is not None for each in (self.size, self.ratio, self.quality))

    @classmethod
    def of(
        cls, body: Any, bits: float | None, size: Any, ratio: float | None, quality: float | None, trains: bool
    ) -> "WholeRequest":
        """From arguments of `compress`; ``trains`` is whether a recovery follows.

        Raises:
            ValueError: If they exclude each other, or are out of range.
        """
        given = {"model_size": size, "model_ratio": ratio, "model_quality": quality}
        given = [name for name, value in given.items() if value is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} each say how small the file is; give one")
        limited = bool(given)
        if bits is not None and (limited or body != TRELLIS):
            raise ValueError("body_bits are for body='trellis' without a size of the model; give --body trellis")
        if limited and body not in (None, TRELLIS):
            raise ValueError(f"a size of the model is reached with a body of trellis codes, got {body!r}; leave it out")
        if ratio is not None and not ratio > 1:
            raise ValueError(f"a ratio of the model is above 1, got {ratio:g}; try 20")
        if quality is not None:
            check_quality(quality)
        method = LDLQ(scales=trains)
        if bits is not None and bits not in method.rates:
            raise ValueError(f"body_bits are one of {', '.join(f'{each:g}' for each in method.rates)}, got {bits:g}")
        bytes_ = None if size is None else int(Budget.bytes(size).amount)
        return cls(BITS if body == TRELLIS and not limited and bits is None else bits, bytes_, ratio, quality, method)

    def check(
        self,
        budget: Budget | None,
        quality: float | None,
        linears: LinearShapes | None,
        measure: bool,
        shards: Shards,
    ) -> None:
        """Raise ValueError if something beside it says the same otherwise."""
        if self.quality is not None and not measure:
            raise ValueError("a quality must be measured; leave out --no-measure (measure=False), or give --model-size")
        if self and linears is not None:
            raise ValueError("a body of trellis codes has all linear maps; leave out linears")
        if self.limited and (budget is not None or quality is not None):
            raise ValueError("the size of the model is shared out over the table, too; leave out that of the table")
        if self and shards.world > 1:
            raise ValueError("linear maps are coded by one process; run without torchrun")

    def check_original(self, original: Original) -> None:
        """Raise ValueError if the model can't be stored so, before anything is measured."""
        if not self:
            return
        model = original.model
        body = getattr(model, "hf_quantizer", None)
        if body is not None:
            raise ValueError(
                f"the body is quantised by {method_of(body.quantization_config)} already, so its maps can't be coded; "
                "start from the original, or leave out the body and the size of the model"
            )
        maps = find_maps(model)
        if not maps:
            raise ValueError(f"{type(model).__name__} has no linear maps that can be coded; compress its table alone")
        for name, module in maps.items():
            with named(name):
                check_weight(weight_of(module))
        coded = {f"{base_prefix(model)}{name}.weight" for name in maps}
        table = {f"{name}.weight" for name in (original.name, *original.tied)}
        for name, tensor in model.state_dict().items():
            if tensor.dtype == torch.float32 and name not in coded | table:
                shortened(name, tensor)

    def body(self, other: str | None) -> str | None:
        """The body as the command line has it; ``other`` if this is no request."""
        return TRELLIS if self.bits is not None else other

    def fit(
        self,
        bench: Bench,
        folder: Path,
        files: Sequence[Path],
        known: Calibration,
        measures: bool,
        wanted: float | None,
        insists: bool,
    ) -> tuple[Settled, Maps, Calibration]:
        """Fit table and maps, and install the maps; the calibration is the one that the table was fitted with.

        Args:
            bench: The original, and what measures it.
            folder: Folder of the checkpoint.
            files: Text to calibrate on.
            known: Which errors of the table matter.
            measures: Whether its metric is still to be measured.
            wanted: The quality of the table beside a body as it is; None takes the size of the request.
            insists: As in `Bench.search`.
        """
        names, table = find_maps(bench.original.model), bench.original.weight
        size, where = bench.original.model.num_parameters() - table.numel(), (bench.device, bench.progress)
        body = Body(folder, size, table.dtype, files, names, self.method, bench.request.seed, *where)
        known = body.with_metric(known) if measures else known
        whole = Whole(bench, body, known)
        if not self.limited:
            assert self.bits is not None
            return *whole.to_bits(self.bits, bench.settle(wanted, insists, known)), known
        if self.quality is not None:
            return *whole.to_quality(self.quality), known
        limit = self.size if self.size is not None else int(weight_bytes(folder) / (self.ratio or 1))
        return *whole.to_size(limit), known
