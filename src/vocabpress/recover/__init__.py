"""Distillation of a compressed model against its original, on unlabelled text: what a little training wins back."""

from vocabpress.recover.gates import GateReport, GateSettings, learn_gates
from vocabpress.recover.run import recover
from vocabpress.recover.settings import Recovery, RecoveryReport

__all__ = ["GateReport", "GateSettings", "Recovery", "RecoveryReport", "learn_gates", "recover"]
