"""Whole models: one size for table and linear maps, what is written, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel
from transformers.models.bert.modeling_bert import BertIntermediate

import wide
from command import run
from vocabpress import VocabpressConfig, compress
from vocabpress.hf.modules import CompressedLinear, TiedHead, TokenEmbedding, owned_tables
from vocabpress.hf.report import load_report
from vocabpress.hf.sizes import data_bytes, header_bytes
from vocabpress.job.body import Body
from vocabpress.job.whole import Whole

QUIET = {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []}
RATIOS = {
    "sentences": 8,
    "bert, masked": 7,
    "bert, one layer": 7,
    "roberta, classes": 6,
    "llama": 8,
    "llama, untied": 6,
    "gpt2": 8,
    "t5": 8,
    "t5, encoder": 5,
    "bart": 5,
    "marian": 4,
    "albert": 5,
    "mpnet": 8,
}


pytestmark = pytest.mark.usefixtures("short_memory")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, plain_text):
    made = {}

    def make(name):
        if name not in made:
            made[name] = wide.Done(name, tmp_path_factory.mktemp("whole"), plain_text, model_ratio=RATIOS[name])
        return made[name]

    return make


@torch.no_grad()
def outputs(model):
    return model(**wide.inputs(model))[0]


def parts_of(file):
    """The header, whose metadata are in no order, and the data."""
    content = file.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:start]), content[start:], len(content)


@pytest.mark.parametrize("name", RATIOS)
def test_the_file_has_the_size_that_was_asked_for(name, whole):
    done = whole(name)
    before, size = (folder / "model.safetensors" for folder in (done.source, done.out))
    before, size = before.stat().st_size, size.stat().st_size
    assert 0.95 * before / RATIOS[name] < size <= before / RATIOS[name]
    assert (done.report.model_bytes_before, done.report.model_bytes_after) == (before, size)
    state, _ = done.model.hf_quantizer.get_state_dict_and_metadata(done.model)
    assert size <= header_bytes(done.model, state, size) + data_bytes(done.model, state) <= 1.02 * size


@pytest.mark.parametrize("name", RATIOS)
def test_it_loads_in_every_dtype_and_computes_what_was_in_memory(name, whole):
    done = whole(name)
    expected = outputs(done.model)
    size = float(expected.abs().max())
    assert not torch.allclose(expected, outputs(wide.make("bert" if name == "sentences" else name)), atol=1e-4 * size)
    for dtype, share in ((torch.float32, 0.01), (torch.bfloat16, 0.1), (torch.float16, 0.02)):
        model = done.load(dtype=dtype)
        assert model.dtype == dtype
        assert float((outputs(model).float() - expected).norm() / expected.norm()) < share, dtype
    model = done.load()
    assert model.config.quantization_config.rest == "float16"
    linears = [place for place, each in model.named_modules() if type(each) is CompressedLinear]
    tables = [place for place, each in model.named_modules() if isinstance(each, TokenEmbedding) and each.owns_table]
    assert len(linears) + len(tables) - 1 == done.report.linears[0].maps
    assert set(model.config.quantization_config.tables) == {place.removeprefix(prefix(model)) for place in tables}


def prefix(model):
    return "" if model.base_model is model else f"{model.base_model_prefix}."


@pytest.mark.parametrize("name", RATIOS)
def test_what_is_not_coded_is_float16_in_the_file_and_a_save_changes_no_byte(name, whole, tmp_path):
    done = whole(name)
    kinds = wide.entries(done.file)
    assert set(kinds.values()) == {"U8", "F16"}
    model = done.load(dtype="float32")
    model.save_pretrained(tmp_path)
    assert parts_of(tmp_path / "model.safetensors") == parts_of(done.file)
    assert (
        json.loads((tmp_path / "config.json").read_text())["quantization_config"]
        == (json.loads((done.out / "config.json").read_text())["quantization_config"])
    )


@pytest.mark.parametrize("name", RATIOS)
def test_dequantize_gives_an_ordinary_model(name, whole, tmp_path):
    done = whole(name)
    model = done.load(dtype="float32")
    expected, plain = outputs(model), model.dequantize()
    assert not owned_tables(plain)
    original = wide.make("bert" if name == "sentences" else name)
    assert [type(each) for each in plain.modules()] == [type(each) for each in original.modules()]
    torch.testing.assert_close(outputs(plain), expected, rtol=1e-3, atol=1e-3)
    plain.save_pretrained(tmp_path)
    loaded, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert info == QUIET
    assert torch.equal(outputs(loaded.eval()), outputs(plain))


def test_what_is_written_about_it(whole):
    done = whole("llama")
    assert load_report(done.out) == done.report
    (body,) = done.report.linears
    assert (body.role, body.maps, body.shape[-5:]) == ("body", 14, " bits")
    assert body.parameters_before == 2 * (4 * 64 * 64 + 3 * 64 * 128)
    assert body.bytes_before == 4 * body.parameters_before
    own = [table for place, table in owned_tables(done.model).items() if "embed" not in place]
    assert body.bytes_after == sum(table.total_bits() for table in own) // 8
    assert 0 < body.relative_error < 0.5
    assert done.report.change.quality > 50
    assert "--model-ratio 8" in done.report.command
    assert done.report.linears[0].idle == []
    assert whole("sentences").report.linears[0].idle == ["pooler.dense"]
    assert "--body" not in done.report.command
    page = (done.out / "README.md").read_text(encoding="utf-8")
    assert f"stored as trellis codes, {body.shape} a weight. All other weights are stored in 16 bits." in page
    assert f"linear maps of body | {body.bytes_before:,} | {body.bytes_after:,}" in page


def test_maps_at_one_rate_from_the_command_line(plain_text, tmp_path, capsys):
    source = wide.save("gpt2", tmp_path / "in")
    command = ("compress", source, "-o", tmp_path / "out", "--ratio", "6", "--set", "memory=8", "--text", plain_text)
    code, out, err = run(capsys, *command, "--body", "trellis", "--body-bits", "2", "--json")
    assert code == 0, err
    report = json.loads(out)
    (body,) = report["linears"]
    assert body["shape"] == "2.001 bits"
    assert "--body trellis --body-bits 2" in report["command"]
    assert report["model_bytes_after"] == (tmp_path / "out" / "model.safetensors").stat().st_size
    assert "linear maps of body" in err
    assert "linear maps in trellis codes" in err
    code, out, err = run(capsys, "inspect", tmp_path / "out", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert sum(each["maps"] for each in found["linears"]) + len(found["tables"]) - 1 == body["maps"]
    code, out, err = run(capsys, *command[:3], tmp_path / "b", *command[4:], "--model-size", "95kB", "--json")
    assert (code, out) == (2, "")
    assert "leave out that of the table" in err
    code, out, err = run(capsys, *command[:3], tmp_path / "b", *command[6:], "--model-size", "95kB", "--json")
    assert code == 0, err
    assert 90_000 < json.loads(out)["model_bytes_after"] <= 95_000


def test_a_sixteen_bit_original_stays_in_its_dtype(plain_text, tmp_path):
    source = wide.save("llama", tmp_path / "in", torch.bfloat16)
    compress(source, tmp_path / "out", method=wide.FAST, text=[plain_text], model_ratio=3)
    kinds = wide.entries(tmp_path / "out" / "model.safetensors")
    assert kinds["model.norm.weight"] == "BF16"
    assert (tmp_path / "out" / "model.safetensors").stat().st_size <= (source / "model.safetensors").stat().st_size / 3
    assert AutoModel.from_pretrained(tmp_path / "out").dtype == torch.bfloat16


def test_a_job_is_repeated_to_the_byte(whole, plain_text, tmp_path):
    again = wide.Done("sentences", tmp_path, plain_text, model_ratio=RATIOS["sentences"])
    assert parts_of(again.file) == parts_of(whole("sentences").file)


def test_tied_tensors_stay_one_in_sixteen_bits(whole):
    done = whole("bert, masked")
    kinds = wide.entries(done.file)
    assert "cls.predictions.bias" in kinds
    assert "cls.predictions.decoder.bias" not in kinds
    model = done.load()
    assert model.cls.predictions.decoder.bias is model.cls.predictions.bias
    assert isinstance(model.cls.predictions.decoder, TiedHead)


def test_less_is_lost_where_more_is_allowed(whole, plain_text, tmp_path):
    gentle = wide.Done("llama", tmp_path, plain_text, model_ratio=5)
    assert gentle.report.change.quality > whole("llama").report.change.quality
    assert gentle.report.linears[0].relative_error < whole("llama").report.linears[0].relative_error


@pytest.mark.parametrize("name", ["sentences", "llama"])
def test_the_smallest_file_of_a_quality_is_found(name, plain_text, tmp_path, monkeypatch):
    bits = []
    real = Whole._fit
    monkeypatch.setattr(Whole, "_fit", lambda own, limit: bits.append(limit) or real(own, limit))
    done = wide.Done(name, tmp_path, plain_text, model_quality=95)
    assert 2 <= len(bits) <= 3
    assert done.report.change.quality >= 95
    assert done.report.model_bytes_after <= max(bits)
    assert (done.report.asked_quality, done.report.fits) == (95, len(bits))


def test_the_rates_of_a_second_fit_are_those_of_the_original(plain_text, tmp_path, monkeypatch):
    """Not those of the maps as the first fit left them."""
    measured = []
    real = Body.pieces
    monkeypatch.setattr(Body, "pieces", lambda own: measured.append(real(own)) or measured[-1])
    done = wide.Done("sentences", tmp_path, plain_text, model_quality=95)
    assert done.report.fits > 1
    assert len(measured) == 1


def test_a_quality_that_nothing_reaches(plain_text, tmp_path, monkeypatch):
    monkeypatch.setattr("vocabpress.job.whole.MOST_BITS", 2)
    with pytest.raises(ValueError, match=r"no file of 2 bits .* has the quality 99.9; the best reached is \d"):
        wide.Done("sentences", tmp_path, plain_text, model_quality=99.9)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["sentences", "llama"])
def test_recovery_of_a_whole_model_keeps_to_its_size(name, plain_text, tmp_path):
    source = wide.save(name, tmp_path / "in")
    size = (source / "model.safetensors").stat().st_size
    report = compress(source, tmp_path / "out", method=wide.FAST, text=[plain_text], model_ratio=6, recover=0.02)
    assert report.model_bytes_after <= size / 6
    kinds = wide.entries(tmp_path / "out" / "model.safetensors")  # scales are what is trained
    assert sum(key.endswith(".table.columns") for key in kinds) == report.linears[0].maps
    assert set(kinds.values()) == {"U8", "F16"}
    AutoModel.from_pretrained(tmp_path / "out")


def test_weights_that_are_read_without_a_call_stay_as_they_are(plain_text, tmp_path, monkeypatch):
    """As where a fused operator takes the weights of modules that are never run."""

    def forward(self, hidden_states):
        states = torch.nn.functional.linear(hidden_states, self.dense.weight, self.dense.bias)
        return self.intermediate_act_fn(states)

    monkeypatch.setattr(BertIntermediate, "forward", forward)
    done = wide.Done("bert, one layer", tmp_path, plain_text, model_ratio=4)
    kinds = wide.entries(done.file)
    assert kinds["encoder.layer.0.intermediate.dense.weight"] == "F16"
    assert kinds["encoder.layer.0.output.dense.weight"] == "U8"
    assert done.report.linears[0].maps == 7
    original, stored = load_file(done.source / "model.safetensors"), load_file(done.file)
    name = "encoder.layer.0.intermediate.dense.weight"
    assert torch.equal(stored[name], original[name].half())


def test_only_whole_models_are_shortened():
    assert VocabpressConfig().rest is None
    assert "rest" not in VocabpressConfig().to_dict()
    assert VocabpressConfig(rest="float16").to_dict()["rest"] == "float16"
    with pytest.raises(ValueError, match="rest in quantization_config is float16 or null, got 1"):
        VocabpressConfig.from_dict({"quant_method": "vocabpress", "format_version": 1, "rest": 1})
