"""Which errors of a compressed model matter: token weights, the metric of a row, learned gates.

What runs a model is imported at its first use: `compress` stands below it and needs the counts alone.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vocabpress.calibrate.calibration import Calibration
    from vocabpress.calibrate.gates import GateReport, GateSettings, learn_gates
    from vocabpress.calibrate.run import calibrate

_HOME_OF = {"GateReport": "gates", "GateSettings": "gates", "learn_gates": "gates"}
_HOME_OF |= {"Calibration": "calibration", "calibrate": "run"}

__all__ = ["Calibration", "GateReport", "GateSettings", "calibrate", "learn_gates"]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
