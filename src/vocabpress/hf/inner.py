"""A body that another library has quantised: its own quantizer of transformers does for it what it would do alone.

A checkpoint has one ``quantization_config``, and that is ours; the body's stands in its field ``inner``.
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
"""What transformers asks of a quantizer about single parameters and the environment; some versions lack some."""

BODIES = ("int8",)
"""What ``body`` of `vocabpress.compress` may be called."""


class Unquantised(HfQuantizer):
    """The quantizer of a body of plain numbers: every hook is the default, which does nothing."""

    def is_serializable(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Saving works."""
        return True

    @property
    def is_trainable(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride, reportIncompatibleMethodOverride]
        """Adapters train on top."""
        return True

    @property
    def is_qat_trainable(self) -> bool:
        """So do its own numbers."""
        return True

    @property
    def is_compileable(self) -> bool:
        """No shape depends on data."""
        return True


def body_config(name: str) -> QuantizationConfigMixin:
    """What transformers is told to quantise a body so: ``"int8"`` is torchao's, weights alone, a scale for each row.

    Raises:
        ValueError: If there is no such name, or torchao is not installed.
    """
    if name not in BODIES:
        raise ValueError(f"unknown body {name!r}; choose from {', '.join(BODIES)}, or quantise it first and press that")
    try:
        from torchao.quantization import Int8WeightOnlyConfig
    except ImportError:
        raise ValueError("a body in int8 is torchao's, which is not installed; pip install torchao") from None
    return TorchAoConfig(Int8WeightOnlyConfig())


def make_config(inner: dict[str, Any]) -> QuantizationConfigMixin:
    """The config of transformers that a field ``inner`` holds.

    Raises:
        ImportError: If a package that it needs is not installed.
        ValueError: If transformers does not know it.
    """
    with _told_of_packages(inner):
        return AutoQuantizationConfig.from_dict(copy.deepcopy(inner))


def make_quantizer(inner: dict[str, Any], pre_quantized: bool) -> HfQuantizer:
    """The quantizer of transformers for a body.

    Raises:
        ImportError: If a package that it needs is not installed.
        ValueError: If transformers does not know it, or can't quantise with it at load.
    """
    config = make_config(inner)
    with _told_of_packages(inner):
        return AutoHfQuantizer.from_config(config, pre_quantized=pre_quantized)


@contextmanager
def _told_of_packages(inner: dict[str, Any]) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f"the body of this checkpoint is quantised by {method_of(inner)}, and a package for that is missing "
            f"({error}); install it"
        ) from error
    except (KeyError, AssertionError, TypeError) as error:
        raise ValueError(
            f"the body of this checkpoint is said to be quantised by {method_of(inner)}, but not how"
        ) from error


def method_of(config: Any) -> str:
    """The name of the method of a quantization config, a dict or an object of transformers."""
    method = config.get("quant_method") if isinstance(config, dict) else config.quant_method
    return str(getattr(method, "value", method))


def is_quantised(tensor: Tensor) -> bool:
    """Whether a parameter holds codes rather than numbers."""
    return type(tensor.data) is not Tensor or not tensor.is_floating_point()


def stored_bytes(tensor: Tensor) -> int:
    """Bytes of a tensor, or of the parts of one that is made of several, as quantised ones are."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return tensor.numel() * tensor.itemsize
    parts: Any = tensor
    return sum(stored_bytes(getattr(parts, name)) for name in parts.__tensor_flatten__()[0])


def check_quantised(model: PreTrainedModel, method: str) -> None:
    """See that a body that was to be quantised is.

    Raises:
        ValueError: If it is not: it has no `nn.Linear`, or transformers left it or unpacked it.
    """
    if getattr(model, "hf_quantizer", None) is None:
        raise ValueError(
            f"transformers can't keep a body quantised by {method} here: it does not know it, or unpacks it where "
            "nothing runs it packed; start from the original checkpoint, or press it on a machine that runs it"
        )
    if not any(is_quantised(parameter) for parameter in model.parameters()):
        raise ValueError(
            f"{method} finds nothing to quantise in {type(model).__name__}; it wants linear maps (nn.Linear), so leave "
            "the body as it is"
        )


def without_deserialisers(model: nn.Module) -> None:
    """Forget how a body's tensors were put together at load: its quantizer takes them apart itself when it saves.

    Transformers would undo what it did at load, and these steps can't be undone.
    """
    conversions: Any = getattr(model, "_weight_conversions", None)
    if conversions:
        kept = [
            conversion
            for conversion in conversions
            if not any(hasattr(step, "hf_quantizer") for step in getattr(conversion, "operations", ()))
        ]
        setattr(model, "_weight_conversions", kept)  # noqa: B010


def holds(flag: Any) -> bool:
    """A flag of a quantizer: some classes of transformers have methods where the others have properties."""
    return bool(flag() if callable(flag) else flag)
