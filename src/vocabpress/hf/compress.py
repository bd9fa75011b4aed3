"""Compress a model in memory."""

import torch
from transformers import PreTrainedModel

from vocabpress.calibrate.calibration import Calibration
from vocabpress.fitting.shards import ALONE, Shards
from vocabpress.hf.config import VocabpressConfig
from vocabpress.hf.fit import EVEN, Compressed, fit, put
from vocabpress.hf.linears import compress_linears
from vocabpress.hf.original import Original
from vocabpress.hf.quantizer import attach
from vocabpress.hf.request import Request


def compress_model(
    model: Original | PreTrainedModel,
    request: Request,
    calibration: Calibration = EVEN,
    device: str | None = None,
    shards: Shards = ALONE,
    progress: bool = False,
) -> Compressed:
    """Compress a model in memory, so that `save_pretrained`, `dequantize` and all else treat it as a loaded one.

    Args:
        model: An original; changed in place.
        request: What is asked for.
        calibration: Which errors matter; without, every token counts alike.
        device: Where to fit; None is where the tensors are.
        shards: The processes that fit the table together.
        progress: Whether to draw progress bars on stderr.

    Raises:
        ValueError: If the table is compressed already, or can't be fitted.
    """
    original = model if isinstance(model, Original) else Original.of(model)
    maps = compress_linears(original.model, request.linears, device, progress)
    fitted = fit(original, request, calibration, device, shards, progress)
    done = put(original, fitted, calibration, maps)
    attach(original.model, VocabpressConfig(**done.stored))
    return done


def check_device(device: str | None) -> None:
    """Refuse a device that is not here.

    Raises:
        ValueError: If torch does not know it, or sees none.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"can't use the device {device!r} ({reason}); try cpu") from None
