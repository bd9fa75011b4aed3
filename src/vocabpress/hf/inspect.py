"""What is there to compress: the tables of a model, the shape of their numbers, and what each method would store."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vocabpress.budget import Budget
from vocabpress.calibrate.calibration import Calibration
from vocabpress.calibrate.counts import weigh_tokens
from vocabpress.embeddings import StorageItem, build
from vocabpress.estimate import expected_seconds
from vocabpress.hf.checkpoint import load_model, open_tokenizer
from vocabpress.hf.config import QUANT_METHOD, VocabpressConfig
from vocabpress.hf.folders import find_folder, weight_bytes
from vocabpress.hf.original import Original, TableInfo
from vocabpress.hf.report import model_name
from vocabpress.methods import METHODS, Plan, method_name
from vocabpress.spectrum import singular_values

RATIOS = (5.0, 10.0, 25.0, 50.0, 100.0)
USUAL = 25.0  # what `compress` makes if no size is given
RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class Skew:
    """How unevenly text uses the vocabulary.

    Attributes:
        tokens: Occurrences counted.
        used: Share of the vocabulary that occurs at all.
        top: Number of most frequent tokens -> their share of all occurrences.
    """

    tokens: int
    used: float
    top: dict[int, float]


@dataclass(frozen=True)
class WouldStore:
    """What a method with its default settings would store at a ratio to float32.

    Attributes:
        method: Its name.
        ratio: To float32.
        plan: The only plan there is; None where none fits, or a search picks one of several.
        bytes: What is stored; where rates or plans are chosen when the table is known, the most that can be. None where
            nothing fits.
        exact: Whether it is that many, whatever the table.
    """

    method: str
    ratio: float
    plan: Plan | None
    bytes: int | None
    exact: bool


@dataclass(frozen=True)
class CompressedTable:
    """A table that vocabpress stored: its saved tensors, what they take, and where they come from."""

    name: str
    shape: tuple[int, int]
    storage: list[StorageItem]
    bytes: int
    ratio_to_float32: float
    bits_per_weight: float


@dataclass(frozen=True)
class CompressedLinears:
    """Linear maps that vocabpress stored, those of all layers together.

    Attributes:
        names: Of the modules, the numbers of layers as ``*``.
        maps: How many they are.
        shape: Of a weight, (outputs, inputs).
        bytes: Of all of them.
        ratio_to_float32: Of all of them.
    """

    names: str
    maps: int
    shape: tuple[int, int]
    bytes: int
    ratio_to_float32: float


@dataclass(frozen=True)
class CompressedInspection:
    """What `vocabpress inspect` prints of a folder that is compressed already."""

    source_name: str
    model_bytes: int
    tables: list[CompressedTable]
    linears: list[CompressedLinears]
    fitted_by: dict[str, Any] | None


@dataclass(frozen=True)
class Inspection:
    """All that `vocabpress inspect` prints.

    Attributes:
        source_name: What was inspected.
        architecture: The class that the checkpoint names.
        model_bytes: Of the weight files.
        tables: Input table first.
        singular_values: Of the centred input table, falling.
        energy: Rank -> share of the input table's variance that this many axes hold.
        would_store: For the input table, the recommended method first.
        recommended: The method that `compress` takes if none is named.
        seconds: About what its fit takes here, at 25 times; None where that can't be told in a second.
        skew: None without text.
    """

    source_name: str
    architecture: str
    model_bytes: int
    tables: list[TableInfo]
    singular_values: list[float]
    energy: dict[int, float]
    would_store: list[WouldStore]
    recommended: str
    seconds: float | None
    skew: Skew | None


def inspect(
    model: str | Path,
    text: Sequence[str | Path] = (),
    save_counts_to: str | Path | None = None,
    progress: bool = False,
    trust_remote_code: bool = False,
) -> Inspection:
    """Look at a checkpoint.

    Args:
        model: A hub id, or a folder.
        text: UTF-8 text files, for the skew.
        save_counts_to: Write the text's token counts there, a `Calibration` for `compress`; nothing else is written.
        progress: Whether to draw a progress bar over the text on stderr.
        trust_remote_code: Whether code beside the weights may run, where transformers does not know the model.

    Raises:
        ValueError: As `compress`.
    """
    folder = find_folder(model)
    original = Original.of(load_model(folder, trust_remote_code, quantised=True))
    table, method = original.weight.detach(), original.default_method
    values = singular_values(table)
    shares = values.square().cumsum(0) / values.square().sum().clamp(min=1e-30)
    known = Calibration()
    if text:
        known = weigh_tokens(known, lambda: open_tokenizer(folder), len(table), text, progress=progress)
    if save_counts_to is not None:
        if not text:
            raise ValueError("there are no token counts to save; give text to count in")
        known.save(save_counts_to)
    return Inspection(
        source_name=model_name(model),
        architecture=type(original.model).__name__,
        model_bytes=weight_bytes(folder),
        tables=original.tables(),
        singular_values=values.tolist(),
        energy={rank: float(shares[rank - 1]) for rank in RANKS if rank <= len(values)},
        would_store=would_store(table.shape[0], table.shape[1], method_name(method)),
        recommended=method_name(method),
        seconds=expected_seconds(method, table, Budget.ratio(USUAL)),
        skew=None if known.counts is None else skew(known.counts),
    )


def inspect_compressed(model: str | Path) -> CompressedInspection | None:
    """Look at a checkpoint that vocabpress wrote; None for any other. Only its config is read.

    Raises:
        ValueError: If there is no such model, or its format is unknown.
    """
    folder = find_folder(model)
    stored = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("quantization_config") or {}
    if stored.get("quant_method") != QUANT_METHOD:
        return None
    config = VocabpressConfig.from_dict(stored)
    tables = []
    for name, form in config.tables.items():
        with torch.device("meta"):
            table = build(form)
        shape, bits = (table.num_embeddings, table.embedding_dim), table.total_bits()
        ratio = 32 * shape[0] * shape[1] / bits
        tables.append(CompressedTable(name, shape, table.storage(), bits // 8, ratio, table.bits_per_weight))
    linears = _grouped(config.linears)
    return CompressedInspection(model_name(model), weight_bytes(folder), tables, linears, config.fitted_by)


def _grouped(linears: dict[str, dict[str, Any]]) -> list[CompressedLinears]:
    groups: dict[tuple[str, int, int], list[int]] = {}  # bits of each map
    with torch.device("meta"):
        for name, config in linears.items():
            form = build(config)
            key = (re.sub(r"\d+", "*", name), form.num_embeddings, form.embedding_dim)
            groups.setdefault(key, []).append(form.total_bits())
    return [
        CompressedLinears(names, len(bits), (rows, width), sum(bits) // 8, 32 * len(bits) * rows * width / sum(bits))
        for (names, rows, width), bits in groups.items()
    ]


def skew(counts: Tensor) -> Skew:
    """Skew of token counts, shape (V)."""
    ordered = counts.double().sort(descending=True).values
    total = ordered.sum()
    sizes = [size for size in (10, 100, 1000, 10000) if size < len(counts)]
    return Skew(int(total), float((counts > 0).double().mean()), {n: float(ordered[:n].sum() / total) for n in sizes})


def would_store(num_embeddings: int, embedding_dim: int, first: str | None = None) -> list[WouldStore]:
    """For each method and each of RATIOS the bytes that it stores, counted on the meta device.

    Args:
        num_embeddings: V.
        embedding_dim: d.
        first: The method to begin with.
    """
    names = sorted(METHODS, key=lambda name: name != first)
    return [_would_store(name, num_embeddings, embedding_dim, ratio) for name in names for ratio in RATIOS]


def _would_store(name: str, rows: int, columns: int, ratio: float) -> WouldStore:
    method, budget, weights = METHODS[name](), Budget.ratio(ratio), torch.ones(rows)
    families, limit = method.families(rows, columns, weights), budget.max_bits(rows, columns)
    try:
        if len(families) > 1:  # a search picks one: that the least of one fits is all that need be known
            least = (method.stored_bits(rows, columns, {**f.fixed, f.size: f.sizes[0]}) for f in families if f.sizes)
            fits = any(bits <= limit for bits in least)
            return WouldStore(name, ratio, None, limit // 8 if fits else None, False)
        (plan,) = method.plans(rows, columns, budget, weights)
    except ValueError:
        return WouldStore(name, ratio, None, None, False)
    if "limit" in plan:  # to be shared out when the table is known
        return WouldStore(name, ratio, None, limit // 8, False)
    return WouldStore(name, ratio, plan, method.stored_bits(rows, columns, plan) // 8, True)
