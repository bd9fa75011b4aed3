"""Export a module as an ONNX graph: packed codes become uint8 initialisers, decoded by standard operators.

This module is independent of the forms: each reads itself in plain torch, which `torch.onnx` traces. Only shifts of
signed integers are translated here, because ONNX has shifts only for unsigned ones.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

OPSET = 18  # the first with BitwiseAnd and BitwiseOr
INT32, UINT32, UINT64 = 6, 12, 13  # ONNX's codes of the dtypes
RUNTIME_DOMAIN = "com.microsoft"


def to_onnx(
    module: nn.Module, inputs: dict[str, Tensor], output: str, dynamic: dict[str, Sequence[str]], path: Path
) -> int:
    """Write a module's graph to a file.

    Args:
        module: Its ``forward(*tensors)`` takes the inputs in their order and returns one tensor.
        inputs: Name -> example, with a size of at least 2 along each dynamic axis.
        output: Name of the result.
        dynamic: Name of an input -> names of its first axes, whose sizes are free.
        path: Path of the file.

    Returns:
        Number of nodes with onnxruntime's own operators.

    Raises:
        ValueError: If the packages are missing, or an operator has no ONNX counterpart.
    """
    try:
        import onnx
        from onnx_ir.passes import common
        from onnxscript import opset18, optimizer
    except ImportError:
        raise ValueError("an ONNX export needs onnx and onnxscript; pip install 'vocabpress[onnx]'") from None

    op: Any = opset18

    def shift(direction: str) -> Any:
        def translated(values: Any, by: Any) -> Any:
            kind = UINT32 if values.dtype == INT32 else UINT64
            moved = op.BitShift(op.Cast(values, to=kind), op.Cast(by, to=kind), direction=direction)
            return op.CastLike(moved, values)

        return translated

    left, right = torch.ops.aten.__lshift__, torch.ops.aten.__rshift__
    shifts = {
        kind: shift(name) for each, name in ((left, "LEFT"), (right, "RIGHT")) for kind in (each.Tensor, each.Scalar)
    }
    axes = {name: torch.export.Dim(name) for names in dynamic.values() for name in names}
    shapes = tuple({place: axes[name] for place, name in enumerate(dynamic[each])} for each in inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own code
        try:
            program: Any = torch.onnx.export(
                module,
                tuple(inputs.values()),
                dynamo=True,
                dynamic_shapes=(shapes,),
                input_names=list(inputs),
                output_names=[output],
                opset_version=OPSET,
                custom_translation_table=shifts,
                verbose=False,
                optimize=False,  # rewriting takes minutes for the graphs of many maps, and runtimes do it, too
            )
        except torch.onnx.errors.OnnxExporterError as error:
            reason = str(error.__cause__ or error).strip().splitlines()[0]
            raise ValueError(f"torch can't export this model to ONNX: {reason}") from None
    optimizer.fold_constants(program.model)
    for simplify in (
        common.DeduplicateInitializersPass(size_limit=2**32),  # the words of codes, which many maps share
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
    ):
        simplify(program.model)
    graph = program.model_proto
    _remove_origins(graph)
    onnx.save(graph, path)
    return sum(node.domain == RUNTIME_DOMAIN for node in graph.graph.node)


def _remove_origins(model: Any) -> None:
    """Remove the Python stack of every node, megabytes of text with paths of this machine."""
    for node in [*model.graph.node, *(node for function in model.functions for node in function.node)]:
        del node.metadata_props[:]
        node.doc_string = ""
    for part in (model, model.graph, *model.graph.initializer, *model.graph.value_info, *model.functions):
        part.doc_string = ""
        if hasattr(part, "metadata_props"):
            del part.metadata_props[:]
    del model.graph.value_info[:]  # shapes of inner values, which runtimes infer


def open_onnx(path: Path) -> Any:
    """A session of onnxruntime, on the CPU.

    Raises:
        ValueError: If onnxruntime is missing, or can't run the file.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ValueError("running an ONNX file needs onnxruntime; pip install 'vocabpress[onnx]'") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # only errors
    with _onnxruntime_errors():
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run_onnx(path: Path, feeds: Sequence[dict[str, Tensor]]) -> list[Tensor]:
    """Run a file in onnxruntime on each of the inputs.

    Raises:
        ValueError: If onnxruntime is missing, or can't run the file.
    """
    session = open_onnx(path)
    with _onnxruntime_errors():
        found = [session.run(None, {name: each.numpy() for name, each in feed.items()})[0] for feed in feeds]
    return [torch.from_numpy(each) for each in found]


@contextmanager
def _onnxruntime_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # onnxruntime has a class for each kind of error
        raise ValueError(f"onnxruntime can't run the file: {str(error).splitlines()[0]}") from None
