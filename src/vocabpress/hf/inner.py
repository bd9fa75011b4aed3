"""Bodies that another library has quantised. Their quantizer in transformers works as without vocabpress.

A checkpoint has one ``quantization_config``, which is ours. The body's is its field ``inner``.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel, TorchAoConfig
from transformers.quantizers.auto import AutoHfQuantizer, AutoQuantizationConfig
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

HOOKS = (
    "validate_environment",
    "update_dtype",
    "update_device_map",
    "update_attn_implementation",
    "update_tp_plan",
    "update_ep_plan",
    "adjust_max_memory",
    "param_element_size",
    "param_needs_quantization",
    "get_quantize_ops",
    "get_new_dtype",
)
"""Hooks of a quantizer about single parameters and the environment. Some versions of transformers lack some."""

TRELLIS, INT8 = "trellis", "int8"
BODIES = (TRELLIS, INT8)
"""Bodies that ``body`` in `vocabpress.compress` can name: ours, and those of other libraries."""


class Unquantised(HfQuantizer):
    """The quantizer of a body that is not quantised: every hook is the default, which does nothing."""

    is_trainable = is_qat_trainable = is_compileable = True  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]

    def is_serializable(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        return True


def body_config(name: str) -> QuantizationConfigMixin:
    """The config to quantise a body with: ``"int8"`` is torchao's weight-only int8, a scale a row.

    Raises:
        ValueError: If the name is unknown, or torchao is not installed.
    """
    if name != INT8:
        raise ValueError(
            f"unknown body {name!r}; choose from {', '.join(BODIES)}, or quantise the body first, then compress"
        )
    try:
        from torchao.quantization import Int8WeightOnlyConfig
    except ImportError:
        raise ValueError("a body in int8 needs torchao; pip install torchao") from None
    return TorchAoConfig(Int8WeightOnlyConfig())


def make_config(inner: dict[str, Any]) -> QuantizationConfigMixin:
    """The config of transformers in a field ``inner``.

    Raises:
        ImportError: If a package that it needs is not installed.
        ValueError: If transformers does not know it.
    """
    with _explained_errors(inner):
        return AutoQuantizationConfig.from_dict(copy.deepcopy(inner))


def make_quantizer(inner: dict[str, Any], pre_quantized: bool) -> HfQuantizer:
    """The quantizer of transformers for a body; errors as `make_config`."""
    with _explained_errors(inner):
        return AutoHfQuantizer.from_config(make_config(inner), pre_quantized=pre_quantized)


@contextmanager
def _explained_errors(inner: dict[str, Any]) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f"the body of this checkpoint is quantised by {method_of(inner)}, and a package for that is missing "
            f"({error}); install it"
        ) from error
    except (KeyError, AssertionError, TypeError) as error:
        raise ValueError(
            f"config.json names {method_of(inner)} for the body of this checkpoint, but its settings are incomplete"
        ) from error


def method_of(config: Any) -> str:
    """The method's name in a quantization config, given as a dict or an object of transformers."""
    method = config.get("quant_method") if isinstance(config, dict) else config.quant_method
    return str(getattr(method, "value", method))


def is_quantised(tensor: Tensor) -> bool:
    """Whether a parameter contains codes instead of floats."""
    return type(tensor.data) is not Tensor or not tensor.is_floating_point()


def stored_bytes(tensor: Tensor) -> int:
    """Bytes of a tensor; for a quantised one, which consists of several tensors, their sum."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return tensor.numel() * tensor.itemsize
    parts: Any = tensor
    return sum(stored_bytes(getattr(parts, name)) for name in parts.__tensor_flatten__()[0])


def check_quantised(model: PreTrainedModel, method: str) -> None:
    """Raise a ValueError if a loaded body has no `nn.Linear` to quantise, or transformers ignored or unpacked it."""
    if getattr(model, "hf_quantizer", None) is None:
        raise ValueError(
            f"transformers can't load a body quantised by {method} as it is: it does not know the method, or unpacks "
            "it because this machine can't run it; start from the original, or compress it on a machine that can"
        )
    if not any(is_quantised(parameter) for parameter in model.parameters()):
        raise ValueError(
            f"{method} finds nothing to quantise in {type(model).__name__}; it needs linear maps (nn.Linear), so leave "
            "out the option for the body"
        )


def without_deserialisers(model: nn.Module) -> None:
    """Remove the conversions by which a body's quantised tensors were assembled at load.

    A save would try to reverse them, which is impossible. The body's quantizer splits the tensors itself.
    """

    def of_body(conversion: Any) -> bool:
        return any(hasattr(step, "hf_quantizer") for step in getattr(conversion, "operations", ()))

    conversions: Any = getattr(model, "_weight_conversions", None)
    if conversions:
        vars(model)["_weight_conversions"] = [each for each in conversions if not of_body(each)]


def as_bool(flag: Any) -> bool:
    """A flag of a quantizer, which is a property in some classes of transformers and a method in others."""
    return bool(flag() if callable(flag) else flag)
