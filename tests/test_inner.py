"""Bodies that another library has quantised: loaded in one call, saved again, and refused where that can't be."""

import json
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, BitsAndBytesConfig
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING

import tiny
from vocabpress import SVD, Budget, LinearShapes, Uniform, VocabpressConfig, compress
from vocabpress.evaluate.run import provenance
from vocabpress.export.run import export
from vocabpress.hf.checkpoint import load_model
from vocabpress.hf.compress import compress_model
from vocabpress.hf.inner import body_config, stored_bytes
from vocabpress.hf.inspect import inspect
from vocabpress.hf.modules import TokenEmbedding, owned_tables
from vocabpress.hf.quantizer import VocabpressQuantizer
from vocabpress.hf.request import Request
from vocabpress.recover import Recovery, recover

NAMES = ["llama", "llama, untied", "bert", "t5"]
BUDGET = Budget.ratio(6)
QUIET = {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []}


def quantised(name, folder, config=None):
    """A checkpoint whose body transformers has quantised, its table left as it was."""
    plain = tiny.save(name, folder / "plain")
    model = type(tiny.make(name)).from_pretrained(plain, quantization_config=config or body_config("int8"))
    model.save_pretrained(folder / "quantised")
    return folder / "quantised"


@pytest.fixture
def torchao():
    return pytest.importorskip("torchao", reason="bodies in int8 are torchao's")


@pytest.mark.parametrize("name", NAMES)
def test_a_quantised_body_keeps_its_config_and_its_codes(name, tmp_path, torchao):
    source = quantised(name, tmp_path)
    report = compress(source, tmp_path / "out", method=SVD("int8"), budget=BUDGET, calibration="uniform")
    assert report.body == "torchao"
    stored = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert stored["inner"] == json.loads((source / "config.json").read_text())["quantization_config"]
    before, after = load_file(source / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    body = [key for key in before if "_weight_" in key]
    assert len(body) > 10
    assert all(torch.equal(before[key], after[key]) for key in body)
    # What the library quantises itself, on the way, is the same checkpoint.
    compress(
        tmp_path / "plain", tmp_path / "both", method=SVD("int8"), budget=BUDGET, calibration="uniform", body="int8"
    )
    both = load_file(tmp_path / "both" / "model.safetensors")
    assert both.keys() == after.keys()
    assert all(torch.equal(both[key], after[key]) for key in after)
    assert "quantised by torchao" in (tmp_path / "both" / "README.md").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_it_loads_in_one_call_bit_for_bit(name, tmp_path, torchao):
    cls = type(tiny.make(name))
    model = cls.from_pretrained(quantised(name, tmp_path))
    compress_model(model, Request(Uniform(), Budget.ratio(4)))
    expected = tiny.logits(model, tiny.batch())
    model.save_pretrained(tmp_path / "out")
    loaded, info = cls.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert {key: info[key] for key in QUIET} == QUIET
    assert torch.equal(tiny.logits(loaded, tiny.batch()), expected)
    loaded.save_pretrained(tmp_path / "again")
    assert torch.equal(tiny.logits(cls.from_pretrained(tmp_path / "again"), tiny.batch()), expected)
    if loaded.can_generate():
        made = [each.generate(tiny.batch(), max_new_tokens=4, do_sample=False) for each in (model, loaded)]
        assert torch.equal(*made)


def test_table_and_body_at_load(tmp_path, torchao):
    plain, out = tiny.save("llama", tmp_path / "plain"), tmp_path / "out"
    cls = type(tiny.make("llama"))
    model = cls.from_pretrained(plain, quantization_config=VocabpressConfig(SVD(), BUDGET, inner=body_config("int8")))
    assert isinstance(model.get_input_embeddings(), TokenEmbedding)
    assert type(model.model.layers[0].mlp.up_proj.weight).__name__ == "Int8Tensor"
    model.save_pretrained(out)
    loaded = cls.from_pretrained(out)
    assert torch.equal(tiny.logits(loaded, tiny.batch()), tiny.logits(model, tiny.batch()))
    assert loaded.config.quantization_config.inner["quant_method"] == "torchao"
    assert (out / "model.safetensors").stat().st_size < (plain / "model.safetensors").stat().st_size / 2


def test_nothing_of_a_table_is_quantised_a_second_time(tmp_path, torchao):
    source = quantised("llama", tmp_path)
    compress(source, tmp_path / "out", method=SVD(), budget=BUDGET)
    loaded = type(tiny.make("llama")).from_pretrained(tmp_path / "out")
    (table,) = owned_tables(loaded).values()
    kinds = {type(tensor.data) for tensor in (*table.parameters(), *table.buffers())}
    assert kinds == {torch.Tensor}
    assert loaded.lm_head.table is table


def test_flags_are_those_of_both(tmp_path, torchao):
    source = quantised("llama", tmp_path)
    compress(source, tmp_path / "out", method=SVD(), budget=BUDGET)
    of_both = type(tiny.make("llama")).from_pretrained(tmp_path / "out").hf_quantizer
    assert isinstance(of_both, VocabpressQuantizer)
    assert (of_both.is_serializable(), of_both.is_trainable, of_both.is_compileable) == (True, True, True)
    assert of_both.is_qat_trainable is False  # torchao's weights don't train
    assert VocabpressQuantizer(VocabpressConfig()).is_qat_trainable is True


def test_plain_transformers_refuses(tmp_path, torchao, monkeypatch):
    compress(quantised("llama", tmp_path), tmp_path / "out", method=SVD("int8"), budget=BUDGET)
    for mapping in (AUTO_QUANTIZER_MAPPING, AUTO_QUANTIZATION_CONFIG_MAPPING):
        monkeypatch.delitem(mapping, "vocabpress")
    with pytest.raises(RuntimeError, match="mismatch"):
        type(tiny.make("llama")).from_pretrained(tmp_path / "out")


def test_inspect_counts_what_a_body_stores(tmp_path, torchao):
    source = quantised("llama", tmp_path)
    model, plain = load_model(source, quantised=True), tiny.make("llama")
    linear = sum(p.numel() for n, p in plain.named_parameters() if "proj" in n)
    before, after = (sum(map(stored_bytes, each.parameters())) for each in (plain, model))
    saved = before - after
    assert 0 < 3 * linear - saved < 0.2 * linear  # three of four bytes, but for a scale a row
    table = inspect(source).tables[0]
    assert table.share == pytest.approx(table.bytes / after)


REFUSED = {
    "twice": ({"body": "int8"}, "quantised by torchao already"),
    "linears": ({"linears": LinearShapes.read({"ffn": "2x4"})}, "is quantised; a Kronecker product"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_not_be_pressed_is_refused(case, tmp_path, torchao):
    arguments, words = REFUSED[case]
    source = quantised("llama", tmp_path)
    with pytest.raises(ValueError, match=words) as error:
        compress(source, tmp_path / "out", method=SVD(), budget=BUDGET, **arguments)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_table_that_is_quantised_itself_is_refused(torchao):
    model = tiny.make("llama, untied")
    torchao.quantize_(model, body_config("int8").quant_type, lambda module, _: isinstance(module, torch.nn.Embedding))
    with pytest.raises(ValueError, match=r"the table model\.embed_tokens is quantised itself"):
        compress_model(model, Request(SVD(), BUDGET))


def test_what_else_is_said_of_a_quantised_body(tmp_path, torchao):
    compress(tiny.save("bert", tmp_path / "in"), tmp_path / "out", method=SVD("int8"), budget=BUDGET, body="int8")
    assert provenance(tmp_path / "out")["body"] == "torchao"
    assert "body" not in provenance(tmp_path / "in")
    with pytest.raises(ValueError, match="is quantised, which can't be exported yet"):
        export(tmp_path / "out", tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


def test_recovery_trains_the_table_beside_a_quantised_body(tmp_path, torchao):
    original, out, text = tiny.save("bert", tmp_path / "in"), tmp_path / "out", tmp_path / "text.txt"
    compress(original, out, method=SVD("int8"), budget=BUDGET, body="int8")
    text.write_text(
        "\n".join(" ".join(f"w{i * j % 200}" for j in range(1, 12)) for i in range(1, 60)), encoding="utf-8"
    )
    few = {"steps": 4, "held_out": 16, "evaluate_every": 2, "batch_size": 8, "attention": 0.0}
    whole = Recovery(mode="model", **few)
    with pytest.raises(ValueError, match="quantised, and its codes don't train"):
        recover(out, tmp_path / "whole", teacher=original, text=[text], settings=whole)
    report = recover(out, tmp_path / "table", teacher=original, text=[text], settings=Recovery(**few))
    assert report.held_out_after < report.held_out_before
    before, after = (load_file(folder / "model.safetensors") for folder in (out, tmp_path / "table"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before if "_weight_" in key)


def test_a_body_without_linear_maps_is_not_passed_over(tmp_path, torchao):
    with pytest.raises(ValueError, match="torchao finds nothing to quantise in GPT2LMHeadModel"):
        compress(tiny.save("gpt2", tmp_path / "in"), tmp_path / "out", method=SVD(), budget=BUDGET, body="int8")


def test_a_missing_package_is_one_line(tmp_path, monkeypatch):
    source = tiny.save("bert", tmp_path / "in")
    compress(source, tmp_path / "out", method=SVD(), budget=BUDGET)
    file = tmp_path / "out" / "config.json"
    config = json.loads(file.read_text())
    config["quantization_config"]["inner"] = {"quant_method": "torchao", "quant_type": {"default": {}}}
    file.write_text(json.dumps(config))
    for package in ("torchao", "torchao.core.config", "torchao.quantization"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match="quantised by torchao, and a package for that is missing") as error:
        type(tiny.make("bert")).from_pretrained(tmp_path / "out")
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="pip install torchao"):
        compress(source, tmp_path / "other", body="int8")


@pytest.mark.parametrize(
    ("inner", "words"),
    [
        ({"quant_method": "vocabpress"}, "name another method"),
        ({"quant_method": "gptq"}, "but its settings are incomplete"),
    ],
)
def test_an_inner_config_that_says_nothing(inner, words):
    with pytest.raises(ValueError, match=words):
        VocabpressQuantizer(VocabpressConfig(inner=inner))


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_bitsandbytes(name, tmp_path):
    pytest.importorskip("bitsandbytes", reason="too large for the development tools")
    source, cls = quantised(name, tmp_path, BitsAndBytesConfig(load_in_8bit=True)), type(tiny.make(name))
    compress(source, tmp_path / "out", method=SVD("int8"), budget=BUDGET)
    model = cls.from_pretrained(tmp_path / "out")
    assert model.config.quantization_config.inner["load_in_8bit"] is True
    expected = tiny.logits(model, tiny.batch())
    model.save_pretrained(tmp_path / "again")
    assert torch.equal(tiny.logits(cls.from_pretrained(tmp_path / "again"), tiny.batch()), expected)
    back = model.dequantize()
    assert not hasattr(back.config, "quantization_config")
    assert isinstance(back.get_input_embeddings(), torch.nn.Embedding)
    assert float((tiny.logits(back, tiny.batch()) - expected).norm() / expected.norm()) < 0.05


def packed(folder):
    """A checkpoint whose linear maps compressed-tensors has packed, 8 bits and a scale for each row."""
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config

    scheme = {"targets": ["Linear"], "weights": {"num_bits": 8, "symmetric": True, "strategy": "channel"}}
    config = QuantizationConfig(
        config_groups={"all": scheme}, ignore=["lm_head"], format="pack-quantized", quantization_status="compressed"
    )
    tiny.save("llama", folder)
    model = tiny.make("llama")
    apply_quantization_config(model, config)
    for module in model.modules():
        if hasattr(module, "weight_scale"):
            module.weight_scale.data = (module.weight.abs().amax(1, keepdim=True) / 127).clone()
    ModelCompressor(quantization_config=config).compress_model(model)
    state = {key: value.contiguous() for key, value in model.state_dict().items() if key != "lm_head.weight"}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    file = folder / "config.json"
    body = {**json.loads(config.model_dump_json()), "quant_method": "compressed-tensors"}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": body}))
    return folder


def test_compressed_tensors_before_and_after_they_unpack(tmp_path):
    pytest.importorskip("compressed_tensors", reason="not among the development tools")
    compress(packed(tmp_path / "in"), tmp_path / "out", method=SVD("int8"), budget=BUDGET)
    before, after = (load_file(tmp_path / part / "model.safetensors") for part in ("in", "out"))
    codes = [key for key in before if key.endswith("weight_packed")]
    assert len(codes) == 14
    assert all(torch.equal(before[key], after[key]) for key in codes)
    cls = type(tiny.make("llama"))
    model = cls.from_pretrained(tmp_path / "out")
    model.save_pretrained(tmp_path / "packed")
    expected = tiny.logits(model, tiny.batch())  # the first run unpacks the body
    model.save_pretrained(tmp_path / "unpacked")
    for part in ("packed", "unpacked"):
        loaded, info = cls.from_pretrained(tmp_path / part, output_loading_info=True)
        assert not info["missing_keys"]
        assert torch.equal(tiny.logits(loaded, tiny.batch()), expected)


def in_float8(folder):
    """Turn the linear maps of a checkpoint's layers to float8, with a scale for each block."""
    file, path = folder / "config.json", folder / "model.safetensors"
    config, tensors = json.loads(file.read_text()), load_file(path)
    body = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [32, 32]}
    if "quantization_config" in config:
        config["quantization_config"]["inner"] = body
    else:
        config["quantization_config"] = body
    file.write_text(json.dumps(config))
    for key in [key for key in tensors if key.endswith("_proj.weight")]:
        rows, width = tensors[key].shape
        tensors[key] = tensors[key].to(torch.float8_e4m3fn)
        tensors[f"{key}_scale_inv"] = torch.full((rows // 32, width // 32), 2.0)
    save_file(tensors, path, {"format": "pt"})
    return tensors


@pytest.mark.skipif(torch.cuda.is_available(), reason="stays packed where a GPU runs it")
def test_a_body_that_transformers_unpacks_is_a_plain_one(tmp_path):
    source, cls = tiny.save("llama", tmp_path / "in"), type(tiny.make("llama"))
    compress(source, tmp_path / "out", method=SVD(), budget=BUDGET)
    tensors = in_float8(tmp_path / "out")
    loaded = cls.from_pretrained(tmp_path / "out")
    key = "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(loaded.get_parameter(key), tensors[key].float() * 2)
    assert loaded.config.quantization_config.inner is None
    loaded.save_pretrained(tmp_path / "again")
    assert "inner" not in AutoConfig.from_pretrained(tmp_path / "again").quantization_config
    assert torch.equal(
        tiny.logits(cls.from_pretrained(tmp_path / "again"), tiny.batch()), tiny.logits(loaded, tiny.batch())
    )
    in_float8(source)
    with pytest.raises(ValueError, match="can't load a body quantised by fp8 as it is"):
        compress(source, tmp_path / "other", method=SVD(), budget=BUDGET)
