"""One architecture from end to end: find the table, compress, save, load, compare, generate, turn back."""

import copy
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from conformance.catalogue import Architecture, architecture
from conformance.inputs import REFUSALS, Inputs, distance, find_inputs, outputs, same, token_ids
from conformance.record import Record
from conformance.shrink import VOCAB, text_config, tiny_config, with_tie
from conformance.whole import compress_whole, rounded
from vocabpress import (
    SVD,
    TCQ,
    Budget,
    FastScan,
    Method,
    NearestKronecker,
    Product,
    Residual,
    Uniform,
)
from vocabpress.embeddings import CompressedEmbedding
from vocabpress.embeddings.inference import lookup
from vocabpress.hf.compress import compress_model
from vocabpress.hf.modules import CompressedLinear, TiedHead, TokenEmbedding
from vocabpress.hf.original import find_tables
from vocabpress.hf.request import Request
from vocabpress.hf.tables import has_input_table, input_table_name

LIMIT = 20_000_000
"""Most parameters of a tiny model: 80 MB in float32."""
METHODS: dict[str, Method] = {
    "svd": SVD("int8"),
    "uniform": Uniform(),
    "product": Product(rotation="none"),
    "tcq": TCQ(8),
    "kronecker": NearestKronecker(),
    "fastscan": FastScan(),
    "residual": Residual(bits=4, rotation="pca", rounds=1),
}
WHOLE = "the table and all linear maps"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2}
"""Largest relative difference between outputs by codes and by the decoded table, which sum in another order."""


class DifferenceError(Exception):
    """An output differs from the expected one."""


def check(model_type: str, turn: int = 0, quick: bool = False) -> Record:
    """Check one architecture; its errors go into the record.

    Args:
        model_type: As in config.json.
        turn: Which methods are tested on it.
        quick: Test a single case: default tie, float32.
    """
    record, start = Record(model_type), time.perf_counter()
    try:
        known = architecture(model_type)
        if known.model_class is None:
            record.outcome, record.cause = "part", "no model is built from this config alone"
        else:
            record.model_class = known.model_class.__name__
            _check(known, record, turn, quick)
    except (*REFUSALS, DifferenceError) as error:
        record.cause = _line(error)
    record.seconds = round(time.perf_counter() - start, 2)
    return record


def _line(error: Exception) -> str:
    """The most informative line: the first for a missing package, the last for an inconsistent config."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if isinstance(error, ImportError | DifferenceError | ValueError) and not lines[-1].startswith("ValueError"):
        return lines[0][:300]
    return lines[-1].removeprefix("ValueError: ")[:300]


def _check(known: Architecture, record: Record, turn: int, quick: bool) -> None:
    assert known.model_class is not None
    config, skeleton = _skeleton(known)
    try:
        record.table = input_table_name(skeleton)
    except ValueError as error:
        tables = token_tables(skeleton)
        record.outcome = "fails" if tables else "no table"
        record.cause = f"{_line(error)}{'; it has ' if tables else ''}{', '.join(tables)}"
        return
    parameters = sum(part.numel() for part in skeleton.parameters())
    if parameters > LIMIT:
        raise ValueError(f"{parameters:,} parameters are too many for a tiny model; shrink more sizes")
    _describe(skeleton, record)
    record.outcome = "fails"
    names = list(METHODS)
    for tie, dtype in [(None, "float32")] if quick else product(record.ties, DTYPES):
        method = names[turn % len(names)]
        record.methods.append(method)
        turn += 1
        _one(known.model_class, config, record, tie, dtype, method)
    record.outcome = "works"
    if not quick:
        try:
            record.whole = "works"
            _one(known.model_class, config, record, record.ties[0], "float32", WHOLE)
        except DifferenceError as error:
            record.whole = _line(error)


def _skeleton(known: Architecture) -> tuple[PreTrainedConfig, PreTrainedModel]:
    """A tiny config, and its model on the meta device; the default config if the model has no token table.

    Raises:
        Exception: Any error of transformers where the sizes are inconsistent.
    """
    cls: Any = known.model_class
    try:
        config = tiny_config(known.config_class)
        with torch.device("meta"):
            return config, cls(copy.deepcopy(config))
    except REFUSALS:  # a model without a table need not be tiny: nothing is computed
        plain = _without_table(known)
        if plain is None:
            raise
        return plain.config, plain


def _without_table(known: Architecture) -> PreTrainedModel | None:
    """The model of the default config, if that can be built and has no token table."""
    cls: Any = known.model_class
    try:
        config = known.config_class()
        with torch.device("meta"):
            skeleton = cls(config)
    except REFUSALS:  # the error of the tiny config is the relevant one
        return None
    return None if has_input_table(skeleton) or token_tables(skeleton) else skeleton


def token_tables(model: nn.Module) -> list[str]:
    """Embeddings with as many rows as the tiny vocabulary, or up to three more."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and VOCAB <= module.num_embeddings < VOCAB + 4
    ]


def _describe(skeleton: PreTrainedModel, record: Record) -> None:
    """Record the properties of the table before any case runs."""
    table = skeleton.get_submodule(record.table)
    found = find_tables(skeleton)[0]
    record.shape, record.tied = list(found.shape), list(found.tied)
    record.left = [name for name in token_tables(skeleton) if name not in (record.table, *record.tied)]
    if type(table).forward is not nn.Embedding.forward:
        record.kinds.append("scaled" if hasattr(table, "embed_scale") else type(table).__name__)
    width = getattr(text_config(skeleton.config), "hidden_size", found.shape[1])
    if width != found.shape[1]:
        record.kinds.append("factorised")
    if table.padding_idx is not None:
        record.kinds.append("padding row")
    record.ties = _ties(type(skeleton), skeleton.config, record.table)


def _ties(cls: type[PreTrainedModel], config: PreTrainedConfig, table: str) -> list[bool | None]:
    """The values of ``tie_word_embeddings`` if they change what is tied to the table, else only None."""
    made: dict[bool, int] = {}
    for tie in (True, False):
        with torch.device("meta"):
            try:
                skeleton = cls(with_tie(config, tie))
                made[tie] = len(find_tables(skeleton)[0].tied)
            except REFUSALS:  # some have no untied form
                continue
    return [True, False] if len(set(made.values())) == 2 else [None]


def _one(
    cls: type[PreTrainedModel], config: PreTrainedConfig, record: Record, tie: bool | None, dtype: str, name: str
) -> None:
    """Check one tie, dtype and method.

    Raises:
        DifferenceError: If an output differs from the expected one.
    """
    case = f"{name}, {dtype}, {'' if tie is None else 'tied, ' if tie else 'untied, '}".rstrip(", ")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        try:
            original = _original(cls, with_tie(config, tie), place / "source", DTYPES[dtype])
            inputs = find_inputs(original, record.table)
        except REFUSALS as error:
            record.outcome = "not built"
            raise RuntimeError(f"transformers alone: {_line(error)}".replace(folder, "the folder")) from None
        try:
            _compare(original, inputs, record, dtype, name, place)
        except (*REFUSALS, DifferenceError) as error:
            raise DifferenceError(f"{case}: {_line(error)}") from error


def _original(cls: type[PreTrainedModel], config: PreTrainedConfig, place: Path, dtype: torch.dtype) -> PreTrainedModel:
    """A tiny model with random weights, loaded from disk."""
    torch.manual_seed(0)
    model = cls(config).eval()
    for key, parameter in model.named_parameters():
        if key.endswith("bias") or not parameter.isfinite().all():  # with non-zero biases a lost bias shows
            parameter.data.normal_(std=0.1)
    model.save_pretrained(place)
    return cls.from_pretrained(place, dtype=dtype).eval()


def _compare(
    original: PreTrainedModel, inputs: Inputs | None, record: Record, dtype: str, name: str, place: Path
) -> None:
    """Compress, save, load and turn back, and compare after each."""
    if name == WHOLE and inputs is None:
        record.whole = "no maps"
        return
    model: Any
    model, table = _compressed(original, inputs or {}, record, name)
    with torch.no_grad():
        rows = lookup(table, torch.arange(table.num_embeddings))  # as the model reads them, rounded once
    original.get_parameter(f"{record.table}.weight").data.copy_(rows)
    ids = token_ids(table.num_embeddings, model.get_submodule(record.table).padding_idx)

    def run(some: PreTrainedModel) -> Any:
        return outputs(some, inputs) if inputs else {"rows": some.get_submodule(record.table)(ids).detach()}

    expected, by_codes = run(original), run(model)
    record.inputs = sorted(inputs or {})
    compared = next((key for key in ("logits", "last_hidden_state") if key in expected), next(iter(expected)))
    record.compared = ", ".join(dict.fromkeys([*filter(None, record.compared.split(", ")), compared]))
    if (error := distance(by_codes, expected)) > TOLERANCE[dtype]:
        raise DifferenceError(f"outputs are {error:.1e} off those with the dense table of the codes")
    model.save_pretrained(place / "small")
    # Where transformers takes a parameter that stays in float32 for the model's dtype (XLNet), a save notes that.
    loaded = _load(type(model), place / "small", None if model.dtype == DTYPES[dtype] else DTYPES[dtype])
    _compare_loaded(model, loaded, run, record, dtype)
    if inputs and model.can_generate():
        _generate(original, model, loaded, inputs, record)
    if _has_base(place / "source", type(model)):
        base = AutoModel.from_pretrained(place / "small")
        if not any(isinstance(part, TokenEmbedding) for part in base.modules()):
            raise DifferenceError("the base model of the checkpoint has no compressed table")
    plain = loaded.dequantize()
    if any(isinstance(part, TokenEmbedding | CompressedLinear) for part in plain.modules()):
        raise DifferenceError("dequantize leaves compressed modules")
    if (error := distance(run(plain), by_codes)) > TOLERANCE[dtype]:
        raise DifferenceError(f"outputs after dequantize are {error:.1e} off")


def _compressed(
    original: PreTrainedModel, inputs: Inputs, record: Record, name: str
) -> tuple[PreTrainedModel, CompressedEmbedding]:
    """A compressed copy, and its table."""
    if name != WHOLE:
        model = copy.deepcopy(original)
        return model, compress_model(model, Request(METHODS[name], Budget.ratio(4))).table
    rounded(original)
    model = copy.deepcopy(original)
    table, record.maps = compress_whole(model, original, inputs)
    return model, table


def _load(loader: Any, place: Path, dtype: torch.dtype | None) -> PreTrainedModel:
    """Load a saved model whose weights must match the file exactly; None uses the dtype of the file."""
    options = {} if dtype is None else {"dtype": dtype}
    try:
        loaded, info = loader.from_pretrained(place, output_loading_info=True, **options)
    except AttributeError:  # classes with their own `from_pretrained` return no loading info
        return loader.from_pretrained(place, **options).eval()
    if any(info.values()):
        raise DifferenceError(f"loading reports { ({key: part for key, part in info.items() if part}) }")
    return loaded.eval()


def _has_base(source: Path, cls: type[PreTrainedModel]) -> bool:
    """Whether `AutoModel` loads an original checkpoint as another class with a table, and finds all weights there."""
    try:
        loader: Any = AutoModel
        base, info = loader.from_pretrained(source, output_loading_info=True)
    except REFUSALS:  # a head without a base, or one from another package
        return False
    return type(base) is not cls and has_input_table(base) and not info["missing_keys"]


def _compare_loaded(model: PreTrainedModel, loaded: PreTrainedModel, run: Any, record: Record, dtype: str) -> None:
    before, after = run(model), run(loaded)
    if not same(before, after):
        record.exact = False
        if (error := distance(after, before)) > TOLERANCE[dtype] / 10:
            raise DifferenceError(f"outputs after loading are {error:.1e} off")
    owner = loaded.get_submodule(record.table)
    heads = [name for name, module in model.named_modules() if isinstance(module, TiedHead)]
    if model.get_submodule(record.table).padding_idx != owner.padding_idx:
        raise DifferenceError("the padding index got lost")
    if any(loaded.get_submodule(head).table is not owner.table for head in heads):
        raise DifferenceError("the head no longer shares the table")


def _generate(
    original: PreTrainedModel, model: PreTrainedModel, loaded: PreTrainedModel, inputs: Inputs, record: Record
) -> None:
    """Generate four tokens greedily; skipped if the original can't generate from these inputs."""
    given = {key: part for key, part in inputs.items() if isinstance(part, torch.Tensor) and "decoder" not in key}
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}

    def generate(some: Any) -> Any:
        return some.generate(
            **{key: part.clone() for key, part in given.items()}, **options
        )  # BLIP writes into its ids

    try:
        generate(original)
    except REFUSALS:  # many need a sound or an image, or decode in their own way
        return
    first, second = generate(model), generate(loaded)
    if isinstance(first, torch.Tensor) and not torch.equal(first, second):
        raise DifferenceError("generation differs after loading")
    record.generated = True
