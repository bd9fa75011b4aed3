"""A checkpoint's body stays in its files: what a job holds in memory is the table and a fixed working set."""

import hashlib
import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import LlamaConfig, LlamaForCausalLM

import tiny
from vocabpress import SVD, Budget, chunks, compress
from vocabpress.embeddings import Dense
from vocabpress.hf.checkpoint import load_model
from vocabpress.hf.compress import compress_model
from vocabpress.hf.request import Request
from vocabpress.hf.stored import digest
from vocabpress.neighbours import nearest_rows
from vocabpress.reconstruction import reconstruction, row_errors
from vocabpress.spectrum import singular_values

GAUGE = Path(__file__).resolve().parents[1] / "benchmarks" / "gauge.py"
ROWS, WIDTH, LAYERS = 8192, 256, 144  # a table of 4 MB, a body of 300 MB
KINDS = {"one file": "50GB", "shards": "60MB"}

BEGIN = """
import sys
from pathlib import Path
import torch, vocabpress
from transformers import AutoModelForCausalLM
from vocabpress.hf import inspect
from vocabpress.hf.checkpoint import load_model
torch.set_num_threads(1)
source, out, place = sys.argv[1:]
sys.path.insert(0, place)
from gauge import anonymous
before = anonymous()
"""
WHOLE_WAY = """
inspect.would_store = lambda *shape: []  # reads no table, and takes ten seconds
inspect.inspect(source)
vocabpress.compress(source, out, method="svd", budget=vocabpress.Budget.ratio(25))
model = AutoModelForCausalLM.from_pretrained(out)
"""
LOAD = """
model = load_model(Path(source))
"""
END = """
print(before)
"""


@pytest.fixture(scope="module")
def gauge():
    if not Path("/proc/self/status").exists():
        pytest.skip("this system does not tell how much memory is anonymous")
    spec = importlib.util.spec_from_file_location("gauge", GAUGE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def source(request, tmp_path_factory):
    """A model in bfloat16 whose body is several times its table."""
    config = LlamaConfig(
        vocab_size=ROWS,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.data.random_(-128, 128).mul_(2**-12)
    model.tie_weights()
    folder = tmp_path_factory.mktemp("large") / "source"
    model.save_pretrained(folder, max_shard_size=KINDS[request.param])
    assert (len(list(folder.glob("*.safetensors"))) > 1) == (request.param == "shards")
    return folder


def growth(gauge, job, source, out):
    """Bytes of anonymous memory that a process comes to hold by a job."""
    command = [sys.executable, "-W", "ignore", "-c", BEGIN + job + END, str(source), str(out), str(GAUGE.parent)]
    used = gauge.watch(command)
    return used.anonymous - int(used.output.splitlines()[-1])


def body_of(source):
    return sum(file.stat().st_size for file in source.glob("*.safetensors")) - ROWS * WIDTH * 2


@pytest.mark.parametrize("source", [pytest.param("one file", marks=pytest.mark.slow), "shards"], indirect=True)
def test_the_body_is_not_held(source, gauge, tmp_path):
    """Inspecting, compressing and loading the result: a body held once, in whatever step, would be too much."""
    body = body_of(source)
    assert body > 70 * ROWS * WIDTH * 2
    assert growth(gauge, WHOLE_WAY, source, tmp_path / "out") < body * 2 / 3
    assert [file.name for file in (tmp_path / "out").glob("*.safetensors*")] == ["model.safetensors"]


@pytest.mark.slow
@pytest.mark.parametrize("source", ["shards"], indirect=True)
def test_the_gauge_sees_a_body_that_is_held(source, gauge, tmp_path):
    """A config that says another dtype than the files' makes transformers convert, so copy, all numbers."""
    copied = tmp_path / "copied"
    copied.mkdir()
    for file in source.glob("*.safetensors*"):
        (copied / file.name).symlink_to(file)
    config = json.loads((source / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"dtype": "float32"}))
    assert growth(gauge, LOAD, copied, tmp_path / "out") > 2 * body_of(source)


@pytest.mark.parametrize("kind", ["one file", "shards"])
@pytest.mark.parametrize("name", tiny.MODELS)
def test_the_result_is_that_of_a_model_held_in_memory(name, kind, tmp_path):
    tiny.make(name, torch.bfloat16).save_pretrained(
        tmp_path / "source", max_shard_size="50GB" if kind == "one file" else "8kB"
    )
    compress(tmp_path / "source", tmp_path / "out", method="svd", budget=Budget.ratio(6), calibration="uniform")
    held = load_model(tmp_path / "source")
    with torch.no_grad():
        for parameter in held.parameters():
            parameter.data = parameter.data.clone()
    compress_model(held, Request(SVD(), Budget.ratio(6)))
    held.save_pretrained(tmp_path / "held")
    out, expected = (stored(tmp_path / folder / "model.safetensors") for folder in ("out", "held"))
    assert out == expected
    assert (tmp_path / "out" / "config.json").read_bytes() == (tmp_path / "held" / "config.json").read_bytes()


def stored(file):
    """Metadata, and each tensor's dtype, shape and bytes. The order of the metadata is another in each file."""
    with safe_open(file, "pt") as opened:
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        return opened.metadata(), {key: (t.dtype, t.shape, digest(t)) for key, t in tensors.items()}


def test_chunks_are_all_rows_in_order():
    assert list(chunks.chunks(0, 4)) == []
    parts = list(chunks.chunks(1000, 3 * 2**16, itemsize=4))
    assert parts[0] == slice(0, 10)
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(1000))
    assert list(chunks.chunks(2, 2**40)) == [slice(0, 1), slice(1, 2)]  # a row is never cut


def test_what_is_computed_by_chunks_is_what_it_is_at_once(monkeypatch):
    """Tables of any dtype; the cuts fall where they will."""
    table = torch.randn(101, 12).bfloat16()
    form = Dense.of(table.float() + 0.1 * torch.randn(101, 12))
    counts, ids, excluded = torch.rand(101), torch.tensor([0, 7, 50, 100]), torch.tensor([3, 99])

    def everything():
        errors = row_errors(table, form)
        values = (
            errors.squared_error,
            errors.cosine,
            errors.norm_ratio,
            singular_values(table),
        )
        tally = reconstruction(table, form, counts)
        return [*values, torch.tensor([tally.relative_error, tally.mean_cosine]), nearest_rows(table, ids, 5, excluded)]

    whole = everything()
    for limit in (1, 5 * 12 * 8, 33 * 12 * 8):
        monkeypatch.setattr(chunks, "CHUNK_BYTES", limit)
        for found, expected in zip(everything(), whole, strict=True):
            torch.testing.assert_close(found, expected)


def test_digests_are_those_of_the_bytes_that_are_stored(monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 64)
    tensors = [torch.tensor(3.0), torch.zeros(0, 3), torch.zeros(3, 0), torch.randn(50, 7), torch.randn(50, 7).T]
    tensors += [torch.randn(5, 6, 7).bfloat16(), torch.arange(200, dtype=torch.uint8)]
    for tensor in tensors:
        stored = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        assert digest(tensor) == hashlib.sha256(stored).hexdigest()
