"""Which errors of a compressed model matter: token weights, the metric of a row, learned gates.

Modules that run a model are imported at first use: `compress` is in a lower layer and needs only the counts.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vocabpress.calibrate.calibration import Calibration
    from vocabpress.calibrate.gates import GateSettings
    from vocabpress.calibrate.run import calibrate

_HOME_OF = {"Calibration": "calibration", "GateSettings": "gates", "calibrate": "run"}

__all__ = ["Calibration", "GateSettings", "calibrate"]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
