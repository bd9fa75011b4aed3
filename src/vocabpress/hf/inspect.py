"""Inspect a checkpoint: its tables, their spectrum, and what each method would store."""

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
from vocabpress.forecast import expected_seconds
from vocabpress.hf.checkpoint import load_model, open_tokenizer
from vocabpress.hf.config import VocabpressConfig
from vocabpress.hf.folders import find_folder, weight_bytes
from vocabpress.hf.original import Original, TableInfo
from vocabpress.hub import model_name
from vocabpress.methods import METHODS, Plan, method_name
from vocabpress.registration import QUANT_METHOD
from vocabpress.spectrum import singular_values

SHOWN_RATIOS = (5.0, 10.0, 25.0, 50.0, 100.0)
DEFAULT_RATIO = 25.0  # of `compress`
RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class Skew:
    """How unevenly text uses the vocabulary."""

    tokens: int  # in the text
    used: float  # fraction of the vocabulary that occurs in it
    top: dict[int, float]  # number of most frequent tokens -> their fraction of all occurrences


@dataclass(frozen=True)
class WouldStore:
    """What a method with its default settings would store at a ratio to float32."""

    method: str
    ratio: float
    plan: Plan | None  # the only possible one; None if none fits, or the fit chooses among several
    bytes: int | None  # an upper limit if the fit chooses rates or plans by the table; None if nothing fits
    exact: bool  # whether `bytes` is the same for every table of this shape


@dataclass(frozen=True)
class CompressedTable:
    """A compressed table: its saved tensors and their size."""

    name: str
    shape: tuple[int, int]
    storage: list[StorageItem]
    bytes: int
    ratio_to_float32: float
    bits_per_weight: float


@dataclass(frozen=True)
class CompressedLinears:
    """Compressed linear maps with the same place in all layers."""

    names: str  # with ``*`` for the number of the layer
    maps: int
    shape: tuple[int, int]  # of each, (outputs, inputs)
    bytes: int  # of all maps together
    ratio_to_float32: float


@dataclass(frozen=True)
class CompressedInspection:
    """What `vocabpress inspect` prints about a compressed checkpoint."""

    source_name: str
    model_bytes: int
    tables: list[CompressedTable]
    linears: list[CompressedLinears]
    fitted_by: dict[str, Any] | None


@dataclass(frozen=True)
class Inspection:
    """What `vocabpress inspect` prints about an original."""

    source_name: str
    architecture: str
    model_bytes: int  # of the weight files
    tables: list[TableInfo]  # the input table first
    singular_values: list[float]  # of the centred input table, falling
    energy: dict[int, float]  # rank -> fraction of the input table's variance in that many principal axes
    would_store: list[WouldStore]  # for the input table, the recommended method first
    recommended: str  # the default method of `compress` for this model
    seconds: float | None  # of its fit at ratio 25 here; None if a second is too short for an estimate
    skew: Skew | None  # None without text


def inspect(
    model: str | Path,
    text: Sequence[str | Path] = (),
    save_counts_to: str | Path | None = None,
    progress: bool = False,
    trust_remote_code: bool = False,
) -> Inspection:
    """Inspect an original, and with text the skew of its tokens, whose counts can be saved for `compress`."""
    folder = find_folder(model)
    original = Original.of(load_model(folder, trust_remote_code, quantised=True))
    table, method = original.weight.detach(), original.method_for(None)
    values = singular_values(table)
    shares = values.square().cumsum(0) / values.square().sum().clamp(min=1e-30)
    calibration = Calibration()
    if text:
        calibration = weigh_tokens(calibration, lambda: open_tokenizer(folder), len(table), text, progress=progress)
    if save_counts_to is not None:
        if not text:
            raise ValueError("there are no token counts to save; give text to count tokens in")
        calibration.save(save_counts_to)
    return Inspection(
        source_name=model_name(model),
        architecture=type(original.model).__name__,
        model_bytes=weight_bytes(folder),
        tables=original.tables(),
        singular_values=values.tolist(),
        energy={rank: float(shares[rank - 1]) for rank in RANKS if rank <= len(values)},
        would_store=would_store(table.shape[0], table.shape[1], method_name(method)),
        recommended=method_name(method),
        seconds=expected_seconds(method, table, Budget.ratio(DEFAULT_RATIO)),
        skew=None if calibration.counts is None else skew(calibration.counts),
    )


def inspect_compressed(model: str | Path) -> CompressedInspection | None:
    """Inspect a compressed checkpoint by its config alone; None for any other model.

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
    groups: dict[tuple[str, int, int], list[int]] = {}  # name and shape -> bits of each map
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
    """The bytes that each method stores at each of SHOWN_RATIOS, the method ``first`` first; table of shape (V, d)."""
    names = sorted(METHODS, key=lambda name: name != first)
    return [_would_store(name, num_embeddings, embedding_dim, ratio) for name in names for ratio in SHOWN_RATIOS]


def _would_store(name: str, rows: int, columns: int, ratio: float) -> WouldStore:
    method, budget, weights = METHODS[name](), Budget.ratio(ratio), torch.ones(rows)
    families, limit = method.families(rows, columns, weights), budget.max_bits(rows, columns)
    try:
        if len(families) > 1:  # the fit chooses one; here it is enough that the smallest plan of one fits
            least = (method.stored_bits(rows, columns, {**f.fixed, f.size: f.sizes[0]}) for f in families if f.sizes)
            fits = any(bits <= limit for bits in least)
            return WouldStore(name, ratio, None, limit // 8 if fits else None, False)
        (plan,) = method.plans(rows, columns, budget, weights)
    except ValueError:
        return WouldStore(name, ratio, None, None, False)
    if "limit" in plan:  # the fit allocates these bits by the table
        return WouldStore(name, ratio, None, limit // 8, False)
    return WouldStore(name, ratio, plan, method.stored_bits(rows, columns, plan) // 8, True)
