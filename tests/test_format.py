"""Files of format 1, one for each form, that every later version must read: the same tensors, the same rows.

They were written once, by `python tests/test_format.py`, and are never written again; a new format gets new files.
"""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM

from vocabpress import (
    EMBEDDINGS,
    TCQ,
    Budget,
    FastScan,
    LightToken,
    LinearShapes,
    NearestKronecker,
    build,
)
from vocabpress.hf.compress import compress_model
from vocabpress.hf.request import Request

GOLDEN = Path(__file__).with_name("golden")
CONFIGS = {
    "dense": "dense bfloat16",
    "scalar": "scalar 3 bit, column",
    "projected": "two-layer decoder",
    "codebooks": "codebooks, staged segments, shared",
    "kronecker": "kronecker, a row too many",
    "trellis": "trellis, rates of all kinds",
    "sum": "sum",
    "columns": "columns",
    "rows": "rows, mapped",
    "binary": "scalar 1 bit, no scale",
    "groups": "scalar 4 bit, groups of 5",
    "contiguous": "rows, contiguous",
    "elu": "elu at the end",
    "tiles": "tiles of integers",
    "rotated": "rotated tiles of a trellis",
    "scaled": "scaled, rotated tiles of a trellis",
    "scales": "scaled, rows alone",
}
"""File -> the case that it was written from: every form, and the variants that a form's config tells apart."""

METHODS = {"tcq": TCQ(memory=8), "fastscan": FastScan(), "lighttoken": LightToken(epochs=1, polish=1)}
CHECKPOINTS = (*METHODS, "kronecker-linears")


def read_golden(name):
    """Config, tensors, and the rows that they are."""
    path = GOLDEN / f"{name}.safetensors"
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
    tensors = load_file(path)
    return config, tensors, tensors.pop("expected_rows")


def test_every_form_has_a_golden_file():
    assert set(EMBEDDINGS) <= set(CONFIGS)
    assert {read_golden(name)[0]["form"] for name in CONFIGS} == set(EMBEDDINGS)
    assert all(file.stat().st_size < 32_000 for file in GOLDEN.rglob("*") if file.is_file())


@pytest.mark.parametrize("name", CONFIGS)
def test_golden_files_read_the_same_for_ever(name):
    config, tensors, expected = read_golden(name)
    embedding = build(config)
    embedding.load_state_dict(tensors, strict=True)
    embedding.check_numbers()
    assert embedding.config() == config
    torch.testing.assert_close(embedding.dense(), expected)
    assert embedding.total_bits() == sum(tensor.numel() * tensor.itemsize * 8 for tensor in tensors.values())


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_golden_checkpoints_read_the_same_for_ever(name):
    expected = load_file(GOLDEN / f"{name}.expected.safetensors")
    model, info = AutoModelForMaskedLM.from_pretrained(GOLDEN / name, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    with torch.no_grad():
        logits = model(input_ids=expected["input_ids"]).logits
    torch.testing.assert_close(logits, expected["logits"])


def checkpoint(name, folder):
    """A tiny BERT, compressed, in a folder; its logits for some ids."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    config = BertConfig(**sizes, vocab_size=97, max_position_embeddings=8, type_vocab_size=1)
    model = BertForMaskedLM(config).eval()
    for parameter in model.parameters():
        parameter.data.normal_().mul_(0.5)
    shapes = LinearShapes((4, 4)) if name == "kronecker-linears" else None
    compress_model(model, Request(METHODS.get(name, NearestKronecker()), Budget.ratio(2), linears=shapes))
    model.save_pretrained(folder)
    ids = torch.arange(12).view(2, 6) * 8
    with torch.no_grad():
        return {"input_ids": ids, "logits": model(input_ids=ids).logits}


def write() -> None:
    """Write the files that are not there yet."""
    from cases import FORMS

    for file, name in CONFIGS.items():
        path = GOLDEN / f"{file}.safetensors"
        if not path.exists():
            embedding = FORMS[name]()
            tensors = embedding.stored_tensors() | {"expected_rows": embedding.dense().detach().contiguous()}
            save_file(tensors, path, metadata={"config": json.dumps(embedding.config())})
    for name in CHECKPOINTS:
        if not (GOLDEN / name).exists():
            save_file(checkpoint(name, GOLDEN / name), GOLDEN / f"{name}.expected.safetensors")


if __name__ == "__main__":
    sys.exit(write())
