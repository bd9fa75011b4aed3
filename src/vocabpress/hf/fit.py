"""Fit the token table of a model in memory, and install it in the model."""

import time
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any

import torch
from transformers.core_model_loading import WeightConverter, WeightTransform

from vocabpress.calibrate.calibration import UNIFORM, Calibration
from vocabpress.embeddings import CompressedEmbedding
from vocabpress.fitting.shards import ALONE, Shards
from vocabpress.forecast import expected_seconds
from vocabpress.hf.linears import LinearOutcome
from vocabpress.hf.original import Original
from vocabpress.hf.request import Request
from vocabpress.hf.swap import install
from vocabpress.hf.tables import base_prefix
from vocabpress.methods import Method, method_name, method_settings
from vocabpress.progress import DELAY, duration, tell

LARGE = 2**21  # entries; for tables from this size on, the time of the fit is estimated first, which takes a second
EVEN = Calibration(source=UNIFORM)
Maps = tuple[dict[str, dict[str, Any]], list[LinearOutcome]]
"""What `compress_linears` returns: configs of the maps' forms, and a result for each role."""


@dataclass(frozen=True)
class Fitted:
    """A table that was fitted to an original, not yet installed."""

    table: CompressedEmbedding  # on the device and in the dtype of the original
    request: Request  # its method is the one that fitted
    seconds: float

    @property
    def method(self) -> Method:
        assert self.request.method is not None
        return self.request.method


@dataclass(frozen=True)
class Compressed:
    """The result of compressing a model in memory."""

    table: CompressedEmbedding
    method: Method
    linears: list[LinearOutcome]
    stored: dict[str, Any]  # fields ``tables``, ``linears``, ``separate`` and ``fitted_by`` of its `VocabpressConfig`
    seconds: float  # of the table's fit


def fit(
    original: Original,
    request: Request,
    calibration: Calibration = EVEN,
    device: str | None = None,
    shards: Shards = ALONE,
    progress: bool = False,
) -> Fitted:
    """Fit the table of an original, which does not change, on a ``device``, by default where the table is.

    The ``shards`` have each loaded the model and read their own rows. A ValueError if the method or the budget does not
    fit the table.
    """
    weight, method = original.weight.detach(), original.method_for(request.method)
    request = replace(request, method=method)
    if progress:
        _announce_time(original, method, request)
    start = time.perf_counter()
    place = torch.device(device) if device is not None else weight.device
    own = shards.rows(*weight.shape)
    table = method.fit(
        weight[own.start : own.stop].to(place),
        budget=request.budget,
        **calibration.for_fit(),
        generator=torch.Generator(place).manual_seed(request.seed),
        shards=shards,
        progress=progress,
    ).to(weight.device, weight.dtype)
    return Fitted(table, request, time.perf_counter() - start)


def put(original: Original, fitted: Fitted, calibration: Calibration, maps: Maps) -> Compressed:
    """Install a fitted table in its model, whose linear maps, ``maps``, are installed already."""
    model, name, prefix = original.model, original.name, base_prefix(original.model)
    conversions: Any = getattr(model, "_weight_conversions", None)
    if conversions:  # a save would undo them
        vars(model)["_weight_conversions"] = without_converters(conversions, [name, *maps[0]])
    separate = original.settle_ties()
    install(model, name, fitted.table, separate)
    stored = {
        "tables": {name.removeprefix(prefix): fitted.table.config()},
        "linears": maps[0],
        "separate": [module.removeprefix(prefix) for module in separate],
        "fitted_by": _provenance(fitted, calibration),
    }
    return Compressed(fitted.table, fitted.method, maps[1], stored, fitted.seconds)


def _provenance(fitted: Fitted, calibration: Calibration) -> dict[str, Any]:
    request, method = fitted.request, fitted.method
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


def _announce_time(original: Original, method: Method, request: Request) -> None:
    """Print on stderr about how long the fit will take."""
    table = original.weight.detach()
    seconds = expected_seconds(method, table, request.budget) if table.numel() >= LARGE else None
    if seconds is not None and seconds > DELAY:
        shape = " x ".join(f"{side:,}" for side in table.shape)
        tell(f"fitting {shape} by {method_name(method)}: about {duration(seconds)}")


def without_converters(conversions: list[WeightTransform], names: list[str]) -> list[WeightTransform]:
    """Drop the conversions that make the weights of these tables and maps of a checkpoint's tensors, as for Molmo 2.

    Compressed ones are stored under their names in the model.
    """
    keys = [f".{name}.weight." for name in names]

    def makes_one(conversion: WeightTransform) -> bool:
        targets = conversion.target_patterns if isinstance(conversion, WeightConverter) else ()
        return any(f"{target.rstrip('.')}." in key for key in keys for target in targets)

    return [conversion for conversion in conversions if not makes_one(conversion)]
