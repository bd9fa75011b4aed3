"""The reader in examples/ shares no code with the package, and reads the same numbers."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForMaskedLM

import tiny
from cases import FORMS
from test_format import CHECKPOINTS, CONFIGS, GOLDEN, read_golden
from vocabpress import Budget, FastScan, NearestKronecker, compress
from vocabpress.hf.modules import owned_tables


@pytest.fixture(scope="module")
def reader():
    path = Path(__file__).resolve().parents[1] / "examples" / "read_with_numpy.py"
    spec = importlib.util.spec_from_file_location("read_with_numpy", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_imports_neither_torch_nor_vocabpress(reader):
    words = Path(reader.__file__).read_text(encoding="utf-8").split('"""', 2)[2]
    assert "torch" not in words
    assert "import vocabpress" not in words
    assert "safetensors.numpy" not in words


@pytest.mark.parametrize("form", CONFIGS)
def test_it_reads_the_golden_files(reader, form):
    config, tensors, expected = read_golden(form)
    _, read, _ = reader.read_safetensors(GOLDEN / f"{form}.safetensors")
    assert set(reader.names(config)) == set(tensors)
    np.testing.assert_allclose(reader.table(config, read), expected.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", FORMS)
def test_it_reads_every_case(reader, name, tmp_path):
    form = FORMS[name]()
    save_file(form.stored_tensors(), tmp_path / "table.safetensors")
    _, tensors, _ = reader.read_safetensors(tmp_path / "table.safetensors")
    expected = form.dense().detach().numpy()
    np.testing.assert_allclose(reader.table(form.config(), tensors), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_it_reads_whole_checkpoints(reader, name):
    model = AutoModelForMaskedLM.from_pretrained(GOLDEN / name)
    read = reader.read_folder(GOLDEN / name)
    tables = {key.removeprefix("bert."): table for key, table in owned_tables(model).items()}
    assert set(read) == set(tables)
    for key, table in tables.items():
        np.testing.assert_allclose(read[key], table.dense().detach().numpy(), rtol=1e-5, atol=1e-6)


def test_it_finds_what_was_changed(reader, tmp_path):
    source = tiny.save("bert", tmp_path / "source")
    compress(source, tmp_path / "out", method=FastScan(), budget=Budget.ratio(6), calibration="uniform", measure=False)
    reader.read_folder(tmp_path / "out")
    file = tmp_path / "out" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="is not what was saved"):
        reader.read_folder(tmp_path / "out")


def test_kronecker_maps_are_read_too(reader, tmp_path):
    source = tiny.save("bert", tmp_path / "source")
    method, shapes = NearestKronecker(), {"attention": (4, 4)}
    compress(
        source,
        tmp_path / "out",
        method=method,
        budget=Budget.ratio(6),
        linears=shapes,
        calibration="uniform",
        measure=False,
    )
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    name = "encoder.layer.0.attention.self.query"
    expected = model.get_submodule(f"bert.{name}").weight
    assert isinstance(expected, torch.Tensor)
    read = reader.read_folder(tmp_path / "out")[name]
    np.testing.assert_allclose(read, expected.detach().numpy(), rtol=1e-5, atol=1e-6)
