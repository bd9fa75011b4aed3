"""Distillation of a compressed model against its original, on text or a task's rows: what training wins back."""

from vocabpress.recover.gates import GateReport, GateSettings, learn_gates
from vocabpress.recover.run import recover
from vocabpress.recover.sensitivity import MetricReport, measure_metric
from vocabpress.recover.settings import OBJECTIVES, Recovery, RecoveryReport

__all__ = [
    "OBJECTIVES",
    "GateReport",
    "GateSettings",
    "MetricReport",
    "Recovery",
    "RecoveryReport",
    "learn_gates",
    "measure_metric",
    "recover",
]
