"""Compressing a model in memory: linear maps and the token table are fitted, and stand in the model afterwards."""

import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import torch
from transformers.core_model_loading import WeightConverter, WeightTransform

from vocabpress.calibrate.calibration import UNIFORM, Calibration
from vocabpress.embeddings import CompressedEmbedding
from vocabpress.estimate import expected_seconds
from vocabpress.fitting.shards import ALONE, Shards
from vocabpress.hf.linears import LinearOutcome, compress_linears
from vocabpress.hf.original import Original
from vocabpress.hf.request import Request
from vocabpress.hf.swap import install
from vocabpress.hf.tables import base_prefix
from vocabpress.methods import Method, method_name, method_settings
from vocabpress.progress import DELAY, duration, tell

LARGE = 2**21  # entries of a table whose fit is worth a second of looking at how long it will take
EVEN = Calibration(source=UNIFORM)


@dataclass(frozen=True)
class Compressed:
    """What compressing a model in memory gave.

    Attributes:
        table: The table as it stands in the model.
        method: By which it was fitted.
        linears: What became of the linear maps, one outcome for each role.
        stored: ``tables``, ``linears``, ``separate`` and ``fitted_by`` of the model's `VocabpressConfig`.
        seconds: Of the fit of the table.
    """

    table: CompressedEmbedding
    method: Method
    linears: list[LinearOutcome]
    stored: dict[str, Any]
    seconds: float


def fit(
    original: Original,
    request: Request,
    calibration: Calibration = EVEN,
    device: str | None = None,
    shards: Shards = ALONE,
    progress: bool = False,
) -> Compressed:
    """Fit what is asked for, and put it into the model.

    Args:
        original: Its model is changed in place.
        request: What is asked for.
        calibration: Which errors matter.
        device: Where to fit; None is where the tensors are.
        shards: The processes that fit the table together; each has loaded the model, and reads its own rows.
        progress: Whether to draw progress bars on stderr.

    Raises:
        ValueError: If something can't be fitted.
    """
    model, weight, method = original.model, original.weight.detach(), request.method or original.default_method
    forms, outcomes = compress_linears(model, request.linears, device, progress)
    if progress:
        _foretell(original, method, request)
    start = time.perf_counter()
    place = torch.device(device) if device is not None else weight.device
    own = shards.rows(*weight.shape)
    table = method.fit(
        weight[own.start : own.stop].to(place),
        budget=request.budget,
        **calibration.for_table(*original.shape),
        generator=torch.Generator(place).manual_seed(request.seed),
        shards=shards,
        progress=progress,
    ).to(weight.device, weight.dtype)
    seconds = time.perf_counter() - start
    name, prefix = original.name, base_prefix(model)
    conversions: Any = getattr(model, "_weight_conversions", None)
    if conversions:  # what a save would undo
        setattr(model, "_weight_conversions", without_converters(conversions, [name]))  # noqa: B010
    separate = original.settle_ties()
    install(model, name, table, separate)
    stored = {
        "tables": {name.removeprefix(prefix): table.config()},
        "linears": forms,
        "separate": [module.removeprefix(prefix) for module in separate],
        "fitted_by": _provenance(request, method, calibration),
    }
    return Compressed(table, method, outcomes, stored, seconds)


def _provenance(request: Request, method: Method, calibration: Calibration) -> dict[str, Any]:
    """Where the numbers come from, as config.json has it."""
    metric = {} if calibration.metric is None else {"metric": calibration.metric_strength}
    linears = {} if request.linears is None else {"linears": request.linears.to_dict()}
    return {
        "method": method_name(method),
        "settings": method_settings(method),
        "budget": asdict(request.budget),
        "seed": request.seed,
        "token_weights": calibration.describe(),
        "calibration": calibration.provenance(),
        "vocabpress": version("vocabpress"),
        "torch": str(torch.__version__),
        **metric,
        **linears,
    }


def _foretell(original: Original, method: Method, request: Request) -> None:
    """Say on stderr how long the fit will take, about."""
    table = original.weight.detach()
    seconds = expected_seconds(method, table, request.budget) if table.numel() >= LARGE else None
    if seconds is not None and seconds > DELAY:
        shape = " x ".join(f"{side:,}" for side in table.shape)
        tell(f"fitting {shape} by {method_name(method)}: about {duration(seconds)}")


def without_converters(conversions: list[WeightTransform], tables: list[str]) -> list[WeightTransform]:
    """Conversions of checkpoints, but for those that put the weight of a table together from several tensors (Molmo 2).

    A compressed table is stored as it is.
    """
    keys = [f"{name}.weight" for name in tables]
    return [
        conversion
        for conversion in conversions
        if not isinstance(conversion, WeightConverter)
        or not any(key.endswith(target) for key in keys for target in conversion.target_patterns)
    ]
