"""Files of format 1, one for each form, that every later version must read: the same tensors, the same rows.

They were written once, by `python tests/test_format.py`, and are never written again; a new format gets new files.
"""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from vocabpress import EMBEDDINGS, build

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
}


def test_every_form_has_a_golden_file():
    assert set(CONFIGS) == set(EMBEDDINGS)


@pytest.mark.parametrize("form", CONFIGS)
def test_golden_files_read_the_same_for_ever(form):
    with safe_open(GOLDEN / f"{form}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        config = json.loads(file.metadata()["config"])
    expected = tensors.pop("expected_rows")
    embedding = build(config)
    embedding.load_state_dict(tensors, strict=True)
    assert embedding.config() == config
    torch.testing.assert_close(embedding.dense(), expected)
    assert embedding.total_bits() == sum(tensor.numel() * tensor.itemsize * 8 for tensor in tensors.values())


def write() -> None:
    """Write the files that are not there yet."""
    from cases import FORMS

    for form, name in CONFIGS.items():
        path = GOLDEN / f"{form}.safetensors"
        if not path.exists():
            embedding = FORMS[name]()
            tensors = embedding.stored_tensors() | {"expected_rows": embedding.dense().detach()}
            save_file(tensors, path, metadata={"config": json.dumps(embedding.config())})


if __name__ == "__main__":
    sys.exit(write())
