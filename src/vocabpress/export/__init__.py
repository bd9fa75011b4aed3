"""Export a checkpoint as an ONNX file, with its tables still compressed."""

from vocabpress.export.run import ExportReport, export

__all__ = ["ExportReport", "export"]
