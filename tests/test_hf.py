import copy
import json
import subprocess
import sys

import huggingface_hub
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

import tiny
from vocabpress import (
    SVD,
    TCQ,
    Autoencoder,
    Budget,
    FastScan,
    LightToken,
    Product,
    Residual,
    VocabpressConfig,
    compress,
    find_tables,
)
from vocabpress.hf.compress import compress_model
from vocabpress.hf.modules import TiedHead, TokenEmbedding
from vocabpress.hf.request import Request

METHODS = {
    "svd": SVD("int8"),
    "svd, float16": SVD(),  # its largest tensor is of floats: the one that takes the original key
    "autoencoder": Autoencoder(epochs=2),
    "lighttoken": LightToken(epochs=2, polish=2),
    "tcq": TCQ(memory=8),
    "fastscan": FastScan(),
    "product": Product(rotation="none"),
    "residual, rotated": Residual(bits=4, rotation="pca", rounds=1),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
QUIET = {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []}


def compressed(name, method="svd", dtype=torch.float32):
    model = tiny.make(name, dtype)
    compress_model(model, Request(METHODS[method], Budget.ratio(6)))
    return model


@pytest.mark.parametrize(("name", "unbiased"), [("gpt2", True), ("llama, untied", False), ("t5", True), ("bert", True)])
def test_the_default_method_is_chosen_by_the_tie(name, unbiased):
    model = tiny.make(name)
    compress_model(model, Request(budget=Budget.ratio(4)))
    fitted_by = model.config.quantization_config.fitted_by
    assert (fitted_by["method"], fitted_by["settings"]["unbiased"]) == ("tcq", unbiased)


def stored_keys(folder):
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", tiny.MODELS)
def test_a_reload_gives_the_logits_of_the_model_in_memory(name, dtype, tmp_path):
    model = compressed(name, dtype=DTYPES[dtype])
    model.save_pretrained(tmp_path / "a")
    loaded, info = type(model).from_pretrained(tmp_path / "a", output_loading_info=True)
    assert info == QUIET
    assert loaded.dtype == DTYPES[dtype]
    assert torch.equal(tiny.logits(loaded, tiny.batch()), tiny.logits(model, tiny.batch()))
    loaded.save_pretrained(tmp_path / "b")
    again = type(model).from_pretrained(tmp_path / "b")
    assert torch.equal(tiny.logits(again, tiny.batch()), tiny.logits(model, tiny.batch()))
    first, second = (
        {key: (part.get_shape(), part.get_dtype()) for key, part in stored_keys(tmp_path / folder).items()}
        for folder in "ab"
    )
    assert first.keys() == second.keys()
    assert all(first[key] == second[key] for key in first if ".table." in key)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["gpt2", "bert", "t5"])
def test_every_method_goes_through(name, method, tmp_path):
    model = compressed(name, method)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert torch.equal(tiny.logits(loaded, tiny.batch()), tiny.logits(model, tiny.batch()))


@pytest.mark.parametrize("name", tiny.MODELS)
def test_the_model_computes_with_the_dense_table_of_its_form(name):
    """Scale, padding index, head bias: the compressed model equals the original with its table replaced."""
    model, original = compressed(name), tiny.make(name)
    place = find_tables(original)[0].name
    table = model.get_submodule(place).table
    original.get_submodule(place).weight.data.copy_(table.dense())
    torch.testing.assert_close(tiny.logits(model, tiny.batch()), tiny.logits(original, tiny.batch()))
    assert model.get_submodule(place).padding_idx == original.get_submodule(place).padding_idx


@pytest.mark.parametrize("name", tiny.TIED)
def test_tied_modules_keep_one_copy_of_the_codes(name, tmp_path):
    model = compressed(name)
    owners = [module for module in model.modules() if isinstance(module, TokenEmbedding | TiedHead)]
    assert len(owners) >= 2
    assert len({id(module.table) for module in owners}) == 1
    model.save_pretrained(tmp_path)
    place = find_tables(tiny.make(name))[0].name
    stored = {key: part for key, part in stored_keys(tmp_path).items() if key.startswith(f"{place}.")}
    sizes = {"U8": 8, "F16": 16, "F32": 32}
    bits = sum(torch.Size(part.get_shape()).numel() * sizes[part.get_dtype()] for part in stored.values())
    assert bits == owners[0].table.total_bits()
    everything = sum(torch.Size(part.get_shape()).numel() for part in stored_keys(tmp_path).values())
    assert everything < sum(parameter.numel() for parameter in tiny.make(name).parameters())
    assert stored[f"{place}.weight"].get_shape() != [tiny.VOCAB, 32]


@pytest.mark.parametrize("name", tiny.GENERATIVE)
def test_generation(name, tmp_path):
    model = compressed(name)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    ids = tiny.batch()
    asked = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 5, "pad_token_id": 0}
    for extra in ({"do_sample": False}, {"num_beams": 2, "do_sample": False}):
        expected = model.generate(ids, **asked, **extra)
        assert torch.equal(loaded.generate(ids, **asked, **extra), expected)


def test_a_checkpoint_with_a_head_loads_without_it_and_the_other_way_round(tmp_path):
    compressed("bert").save_pretrained(tmp_path / "mlm")
    base = AutoModel.from_pretrained(tmp_path / "mlm")
    masked = AutoModelForMaskedLM.from_pretrained(tmp_path / "mlm")
    ids = tiny.batch()
    assert torch.equal(base(ids).last_hidden_state, masked.bert(ids).last_hidden_state)
    base.save_pretrained(tmp_path / "base")
    again = AutoModelForMaskedLM.from_pretrained(tmp_path / "base")  # its head is new but for the tied table
    assert torch.equal(again.bert(ids).last_hidden_state, base(ids).last_hidden_state)
    assert isinstance(again.cls.predictions.decoder, TiedHead)


@pytest.mark.parametrize("name", tiny.MODELS)
def test_dequantize_gives_an_ordinary_model(name, tmp_path):
    model = compressed(name)
    expected = tiny.logits(model, tiny.batch())
    plain = model.dequantize()
    assert not any(isinstance(module, TokenEmbedding | TiedHead) for module in plain.modules())
    torch.testing.assert_close(tiny.logits(plain, tiny.batch()), expected)
    plain.save_pretrained(tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    loaded, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert info == QUIET
    assert torch.equal(tiny.logits(loaded, tiny.batch()), tiny.logits(plain, tiny.batch()))


@pytest.mark.parametrize("name", ["gpt2", "t5", "gemma3, scaled"])
def test_compressing_at_load(name, tmp_path):
    tiny.make(name).save_pretrained(tmp_path / "source")
    config = VocabpressConfig(METHODS["svd"], Budget.ratio(6))
    model = type(tiny.make(name)).from_pretrained(tmp_path / "source", quantization_config=config)
    assert torch.equal(tiny.logits(model, tiny.batch()), tiny.logits(compressed(name), tiny.batch()))
    model.save_pretrained(tmp_path / "out")
    loaded = type(model).from_pretrained(tmp_path / "out")
    assert torch.equal(tiny.logits(loaded, tiny.batch()), tiny.logits(model, tiny.batch()))


LOAD_ALL = """
import json, sys
from transformers import AutoModel
found = {}
for folder in sys.argv[1:]:
    try:
        AutoModel.from_pretrained(folder)
        found[folder] = "loaded"
    except Exception as error:
        found[folder] = str(error)
print(json.dumps(found))
"""


FRESH = [*(("bert", method) for method in METHODS), ("llama", "svd"), ("llama", "tcq")]


@pytest.fixture(scope="module")
def fresh_processes(tmp_path_factory):
    """What a process without vocabpress says of checkpoints by all methods, and what one with it says."""
    folders = {case: tmp_path_factory.mktemp("fresh") for case in FRESH}
    for (name, method), folder in folders.items():
        compressed(name, method).save_pretrained(folder)
    said = []
    for code in (LOAD_ALL, f"import vocabpress\n{LOAD_ALL}"):
        command = [sys.executable, "-c", code, *map(str, folders.values())]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        said.append(json.loads(done.stdout.splitlines()[-1]))
    return {case: [outcome[str(folder)] for outcome in said] for case, folder in folders.items()}


@pytest.mark.parametrize(("name", "method"), FRESH)
def test_without_the_import_transformers_refuses(name, method, fresh_processes):
    without, with_it = fresh_processes[name, method]
    assert "mismatched" in without.lower() or "size mismatch" in without
    assert with_it == "loaded"


def test_continuous_parts_train_and_codes_stay(tmp_path):
    model = compressed("gpt2", "lighttoken")
    table = model.get_input_embeddings().table
    before = {name: tensor.clone() for name, tensor in table.stored_tensors().items()}
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    ids = tiny.batch()
    model(input_ids=ids, labels=ids).loss.backward()
    optimiser.step()
    changed = {name for name, tensor in table.stored_tensors().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all(before[name].dtype == torch.float16 for name in changed)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    trained, reloaded = tiny.logits(model, ids), tiny.logits(loaded, ids)
    assert float((reloaded - trained).norm() / trained.norm()) < 1e-2  # float16 on disk


def test_copies_dtypes_and_compiled_graphs():
    model, ids = compressed("gpt2"), tiny.batch()
    twin = copy.deepcopy(model)
    assert twin.lm_head.table is twin.transformer.wte.table
    assert twin.lm_head.table is not model.lm_head.table
    assert torch.equal(tiny.logits(twin, ids), tiny.logits(model, ids))
    low = twin.to(torch.bfloat16)
    assert low.dtype == torch.bfloat16
    assert low.transformer.wte.table.inner.codes.dtype == torch.uint8
    torch._dynamo.reset()
    whole = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(tiny.logits(whole, ids), tiny.logits(model, ids))


def test_tables_are_found():
    (table,) = find_tables(tiny.make("bert"))
    assert table.name == "bert.embeddings.word_embeddings"
    assert table.tied == ("cls.predictions.decoder",)
    assert (table.shape, table.dtype, table.bytes) == ((tiny.VOCAB, 32), "float32", tiny.VOCAB * 32 * 4)
    assert table.share == table.bytes / sum(p.numel() * 4 for p in tiny.make("bert").parameters())
    assert find_tables(tiny.make("t5"))[0].tied == ("decoder.embed_tokens", "encoder.embed_tokens", "lm_head")
    roles = [(table.name, table.role) for table in find_tables(tiny.make("llama, untied"))]
    assert roles == [("model.embed_tokens", "input"), ("lm_head", "output")]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_head_that_differs_from_the_table_its_config_ties_it_to_stays_apart(name, tmp_path):
    model = tiny.make(name)
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    model.config.tie_word_embeddings = False
    model.save_pretrained(tmp_path / "source")
    config = json.loads((tmp_path / "source" / "config.json").read_text())
    (tmp_path / "source" / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    compress(tmp_path / "source", tmp_path / "out", method=SVD("int8"), budget=Budget.ratio(6))
    loaded, info = type(model).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert info == QUIET
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)


def test_an_unknown_format_is_refused(tmp_path):
    compressed("gpt2").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"]["format_version"] = 99
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="format version 99, this vocabpress reads 1"):
        AutoModel.from_pretrained(tmp_path)


def test_what_can_not_be_compressed_is_refused():
    with pytest.raises(ValueError, match="compressed already"):
        compress_model(compressed("gpt2"), Request(SVD()))
    with pytest.raises(ValueError, match="compressed already"):
        find_tables(compressed("gpt2"))
    model = tiny.make("gpt2")

    class Odd(torch.nn.Embedding):
        def forward(self, ids):
            return torch.tanh(super().forward(ids))

    model.transformer.wte.__class__ = Odd
    with pytest.raises(ValueError, match="Odd does more than look up"):
        compress_model(model, Request(SVD()))
    assert type(model.transformer.wte) is Odd  # nothing was swapped
    with pytest.raises(ValueError, match="unknown fields \\['sparkle'\\]"):
        VocabpressConfig(sparkle=1)


def test_three_lines_of_python(tmp_path):
    source = tiny.save("bert", tmp_path / "source")
    (tmp_path / "text.txt").write_text("w5 w6 w5\n" * 50, encoding="utf-8")
    report = compress(
        source, tmp_path / "out", method=SVD(), budget=Budget.ratio(6), text=[tmp_path / "text.txt"], seed=3
    )
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert config["quant_method"] == "vocabpress"
    assert config["format_version"] == 1
    assert list(config["tables"]) == ["embeddings.word_embeddings"]
    assert config["fitted_by"]["settings"] == {"factors": "float16"}
    assert config["fitted_by"]["token_weights"] == "text"
    assert report.table_bytes_before == tiny.VOCAB * 32 * 4
    assert report.model_bytes_after == (tmp_path / "out" / "model.safetensors").stat().st_size
    assert report.ratio_to_float32 >= 6
    unweighted = compress(source, tmp_path / "plain", method=SVD(), budget=Budget.ratio(6), calibration="uniform")
    assert unweighted.weighted_mean_cosine is None
    assert report.weighted_mean_cosine is not None
    assert report.weighted_mean_cosine > unweighted.mean_cosine  # two tokens of 211 have most of the weight
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"{report.table_bytes_after:,}" in card
    assert {"tokenizer.json", "tokenizer_config.json"} <= {file.name for file in (tmp_path / "out").iterdir()}
    assert not list(tmp_path.glob(".out*"))


def test_a_hub_id_is_downloaded_and_named_on_the_card(tmp_path, monkeypatch):
    asked = []

    def snapshot(name, **options):
        asked.append((name, options["ignore_patterns"]))
        return str(tiny.save("bert", tmp_path / "cache"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    report = compress("some-org/tiny-bert", tmp_path / "out", method=SVD(), budget=Budget.ratio(6))
    assert asked[0][0] == "some-org/tiny-bert"
    assert "onnx/*" in asked[0][1]
    assert report.source_name == "tiny-bert"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "base_model: some-org/tiny-bert" in card
    assert "base_model_relation: quantized" in card
