"""A checkpoint as a folder that ONNX runtimes and transformers.js read."""

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
from vocabpress.hf.report import model_name
from vocabpress.hf.writing import check_output, written_at_once
from vocabpress.progress import Bar
from vocabpress.texts import read_lines, sources

FORMATS = ("onnx",)
OPERATORS = ("onnxruntime", "standard")
PLACE = "onnx/model.onnx"  # where transformers.js and sentence-transformers look
LINES = 32  # of text, on which the file is checked
TOLERANCE = 1e-3  # of the largest value
SENTENCES: list[str] = [
    "The quick brown fox jumps over the lazy dog.",
    "In 1872, she sold 1,204 copies of her book on the birds of Peru!",
    "Why?",
]


@dataclass(frozen=True)
class ExportReport:
    """What was written. Sizes are bytes of files.

    Attributes:
        source_name: Of the model.
        output: The folder written.
        architecture: Class of the model.
        result: Name of the graph's output.
        onnx_bytes: Of the graph, weights included.
        checkpoint_bytes: Of the files of weights that it was made from.
        largest_difference: Between what onnxruntime and torch say of the text.
        largest_value: Of what torch says.
        runtime_nodes: Nodes of the graph that are onnxruntime's own; without any, it is standard ONNX.
        sequences: On which the two were compared.
        seconds: Of it all.
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
        return self.model(**dict(zip(self.names, tensors, strict=True)), **self.quietly())[self.result]

    def quietly(self) -> dict[str, Any]:
        """No cache of keys and values: a graph has no memory."""
        known = inspect.signature(self.model.forward).parameters
        return {"use_cache": False} if "use_cache" in known else {}


def export(
    model: str | Path,
    output: str | Path,
    *,
    to: str = "onnx",
    text: Sequence[str | Path] = (),
    operators: str = "onnxruntime",
    progress: bool = False,
) -> ExportReport:
    """Write a checkpoint, compressed or not, as an ONNX graph with its tokenizer beside it.

    The graph holds the tables as they are stored, and decodes the rows that it needs. It takes what the tokenizer
    gives, any number of sequences of any length, and returns ``last_hidden_state``, or ``logits`` where the model has a
    head. Before anything is written it is run on text, and compared with torch.

    Args:
        model: A hub id, or a folder.
        output: A folder that does not exist yet, or is empty: ``onnx/model.onnx``, config and tokenizer, as
            transformers.js reads them.
        to: ``"onnx"``.
        text: UTF-8 text files to check it on; a few sentences without.
        operators: ``"onnxruntime"``: tables of uniform codes are read by the runtime's own ``GatherBlockQuantized``
            where it fits; ``"standard"``: operators of ONNX alone, for other runtimes.
        progress: Whether to draw progress bars on stderr.

    Raises:
        ValueError: With one line that says what was wrong and what to try; nothing was written then.
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
            f"the body of {model} is quantised, which can't be exported yet; press the original without --body"
        )
    if loaded.config.is_encoder_decoder:
        raise ValueError(f"{type(loaded).__name__} is an encoder with a decoder, which can't be exported yet")
    lines = list(islice(read_lines(text, progress), LINES)) if text else SENTENCES
    known = inspect.signature(loaded.forward).parameters
    limit = min(getattr(loaded.config.get_text_config(), "max_position_embeddings", 512), 512)
    feeds = [_inputs(tokenizer, part, known, limit) for part in (lines, lines[:1])]
    with torch.no_grad():
        said = loaded(**feeds[0])
        result = "logits" if "logits" in said else "last_hidden_state"
        graph = _Graph(loaded.requires_grad_(False), list(feeds[0]), result).eval()
        expected = [graph(*feed.values()) for feed in feeds]
    if operators == "onnxruntime" and hasattr(torch.onnx, "ops"):  # torch 2.8; before, it can't name such operators
        gather_uniform(loaded)
    with written_at_once(target) as temporary, Bar(total=2, desc="export", disable=not progress) as bar:
        file = temporary / PLACE
        file.parent.mkdir()
        nodes = to_onnx(graph, feeds[0], result, dict.fromkeys(feeds[0], ("batch", "sequence")), file)
        bar.update()
        off, largest = _compare(run_onnx(file, feeds), expected)
        bar.update()
        if off > TOLERANCE * largest:
            raise ValueError(f"the ONNX file differs from torch by {off:.2g}, where values reach {largest:.2g}")
        config = loaded.config.to_dict()
        config.pop("quantization_config", None)  # of the checkpoint; the graph needs none
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
        largest_difference=off,
        largest_value=largest,
        runtime_nodes=nodes,
        sequences=len(lines) + 1,
        seconds=time.perf_counter() - start,
    )


def _inputs(tokenizer: Any, lines: list[str], known: Any, limit: int) -> dict[str, Tensor]:
    """What the tokenizer gives and the model takes, (batch, tokens) each."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    found = tokenizer(lines, padding=True, truncation=True, max_length=limit, return_tensors="pt")
    return {name: found[name] for name in tokenizer.model_input_names if name in found and name in known}


def _compare(found: Sequence[Tensor], expected: Sequence[Tensor]) -> tuple[float, float]:
    """The largest difference, and the largest value."""
    pairs = zip(found, expected, strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs), max(float(each.abs().max()) for each in expected)
