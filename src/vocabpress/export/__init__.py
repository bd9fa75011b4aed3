"""Out of Python: a checkpoint as an ONNX file, its tables still compressed."""

from vocabpress.export.run import ExportReport, export

__all__ = ["ExportReport", "export"]
