"""Export a checkpoint to a folder for ONNX runtimes and transformers.js."""

import inspect
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vocabpress.export.gathered import gather_uniform
from vocabpress.export.onnx import run_onnx, to_onnx
from vocabpress.hf.checkpoint import named_class, open_model, open_tokenizer
from vocabpress.hf.companions import copy_companions, module_folders
from vocabpress.hf.folders import find_folder, weight_bytes
from vocabpress.hf.inner import is_quantised
from vocabpress.hf.writing import check_output, written_at_once
from vocabpress.hub import model_name
from vocabpress.progress import Bar
from vocabpress.texts import read_lines, sources

FORMATS = ("onnx",)
OPERATORS = ("onnxruntime", "standard")
ONNX_FILE = "onnx/model.onnx"  # the path that transformers.js and sentence-transformers expect
CHECK_LINES = 32  # lines of text on which the file is checked
TOLERANCE = 1e-3  # as a fraction of the largest value
DEFAULT_SENTENCES: list[str] = [
    "The quick brown fox jumps over the lazy dog.",
    "In 1872, she sold 1,204 copies of her book on the birds of Peru!",
    "Why?",
]


@dataclass(frozen=True)
class ExportReport:
    """The result of an export. Sizes are bytes of files.

    Attributes:
        source_name: Name of the model.
        output: The output folder.
        architecture: Class of the model.
        result: Name of the graph's output.
        onnx_bytes: Bytes of the graph, including weights.
        checkpoint_bytes: Bytes of the checkpoint's weight files.
        largest_difference: Largest difference between the outputs of onnxruntime and torch on the text.
        largest_value: Largest absolute value in the output of torch.
        runtime_nodes: Nodes with onnxruntime's own operators; with 0 the file is standard ONNX.
        sequences: Number of sequences on which the two were compared.
        seconds: Total time.
    """

    source_name: str
    output: str
    architecture: str
    result: str
    onnx_bytes: int
    checkpoint_bytes: int
    largest_difference: float
    largest_value: float
    runtime_nodes: int
    sequences: int
    seconds: float


class _Graph(nn.Module):
    """A model that takes tensors in order and returns one."""

    def __init__(self, model: nn.Module, names: Sequence[str], result: str) -> None:
        super().__init__()
        self.model, self.names, self.result = model, list(names), result

    def forward(self, *tensors: Tensor) -> Tensor:
        """The named output for these inputs."""
        # A graph has no state, so there is no cache of keys and values.
        has_cache = "use_cache" in inspect.signature(self.model.forward).parameters
        options = {"use_cache": False} if has_cache else {}
        return self.model(**dict(zip(self.names, tensors, strict=True)), **options)[self.result]


def export(
    model: str | Path,
    output: str | Path,
    *,
    to: str = "onnx",
    text: Sequence[str | Path] = (),
    operators: str = "onnxruntime",
    progress: bool = False,
) -> ExportReport:
    """Write a checkpoint, compressed or not, as an ONNX graph, with its config and tokenizer.

    The graph contains the tables as stored, and decodes the rows that it needs. Its inputs are the outputs of the
    tokenizer, any number of sequences of any length. It returns ``logits`` if the model has a head, otherwise
    ``last_hidden_state``. Before the folder appears, the graph is run on text and compared with torch.

    Args:
        model: A hub id, or a folder.
        output: A new or empty folder for ``onnx/model.onnx``, config and tokenizer, the layout of transformers.js.
        to: ``"onnx"``.
        text: UTF-8 text files for the check; by default some built-in sentences.
        operators: ``"onnxruntime"`` reads tables of uniform codes by the runtime's own ``GatherBlockQuantized`` where
            it can; ``"standard"`` uses only operators of ONNX, for other runtimes.
        progress: Whether to draw progress bars on stderr.

    Raises:
        ValueError: If an argument is invalid or the model can't be exported. Nothing is written then.
    """
    start = time.perf_counter()
    if to not in FORMATS:
        raise ValueError(f"can't export to {to!r}; choose from {', '.join(FORMATS)}")
    if operators not in OPERATORS:
        raise ValueError(f"unknown operators {operators!r}; choose from {', '.join(OPERATORS)}")
    target, text, folder = check_output(output), sources(text), find_folder(model)
    module_folders(folder)
    loaded, tokenizer = open_model(folder, named_class(folder)), open_tokenizer(folder)
    if any(is_quantised(parameter) for parameter in loaded.parameters()):
        raise ValueError(
            f"the body of {model} is quantised, which can't be exported yet; compress the original without --body"
        )
    if loaded.config.is_encoder_decoder:
        raise ValueError(f"{type(loaded).__name__} is an encoder with a decoder, which can't be exported yet")
    lines = list(islice(read_lines(text, progress), CHECK_LINES)) if text else DEFAULT_SENTENCES
    known = inspect.signature(loaded.forward).parameters
    limit = min(getattr(loaded.config.get_text_config(), "max_position_embeddings", 512), 512)
    feeds = [_inputs(tokenizer, part, known, limit) for part in (lines, lines[:1])]
    with torch.no_grad():
        result = "logits" if "logits" in loaded(**feeds[0]) else "last_hidden_state"
        graph = _Graph(loaded.requires_grad_(False), list(feeds[0]), result).eval()
        expected = [graph(*feed.values()) for feed in feeds]
    if operators == "onnxruntime" and hasattr(torch.onnx, "ops"):  # before torch 2.8 there are no custom operators
        gather_uniform(loaded)
    with written_at_once(target) as temporary, Bar(total=2, desc="export", disable=not progress) as bar:
        file = temporary / ONNX_FILE
        file.parent.mkdir()
        nodes = to_onnx(graph, feeds[0], result, dict.fromkeys(feeds[0], ("batch", "sequence")), file)
        bar.update()
        difference, largest = _compare(run_onnx(file, feeds), expected)
        bar.update()
        if difference > TOLERANCE * largest:
            raise ValueError(f"the ONNX file differs from torch by {difference:.2g}, with values up to {largest:.2g}")
        config = loaded.config.to_dict()
        config.pop("quantization_config", None)  # the graph does not need it
        (temporary / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        copy_companions(folder, temporary)
        size = sum(each.stat().st_size for each in file.parent.iterdir())
    return ExportReport(
        source_name=model_name(model),
        output=str(output),
        architecture=type(loaded).__name__,
        result=result,
        onnx_bytes=size,
        checkpoint_bytes=weight_bytes(folder),
        largest_difference=difference,
        largest_value=largest,
        runtime_nodes=nodes,
        sequences=len(lines) + 1,
        seconds=time.perf_counter() - start,
    )


def _inputs(tokenizer: Any, lines: list[str], known: Any, limit: int) -> dict[str, Tensor]:
    """The outputs of the tokenizer that the model accepts, (batch, tokens) each."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    found = tokenizer(lines, padding=True, truncation=True, max_length=limit, return_tensors="pt")
    return {name: found[name] for name in tokenizer.model_input_names if name in found and name in known}


def _compare(found: Sequence[Tensor], expected: Sequence[Tensor]) -> tuple[float, float]:
    """The largest absolute difference, and the largest absolute value."""
    pairs = zip(found, expected, strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs), max(float(each.abs().max()) for each in expected)
