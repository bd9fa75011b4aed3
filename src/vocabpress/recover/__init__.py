"""Distillation of a compressed model against its original, on text or on a task's rows."""

from vocabpress.recover.run import recover
from vocabpress.recover.settings import OBJECTIVES, Recovery, RecoveryReport

__all__ = ["OBJECTIVES", "Recovery", "RecoveryReport", "recover"]
