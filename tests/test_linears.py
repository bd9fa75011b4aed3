"""Linear maps as Kronecker products: which are found, what they compute, how they are saved, what they count."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    LlamaConfig,
    LlamaForCausalLM,
)

import tiny
from command import run
from vocabpress import PRESETS, SVD, Budget, VocabpressConfig, compress, preset
from vocabpress.hf.compress import compress_model
from vocabpress.hf.linears import compress_linears, count_numbers, find_linears, plan_linears
from vocabpress.hf.modules import CompressedLinear, owned_tables
from vocabpress.hf.original import Original
from vocabpress.hf.quantizer import attach
from vocabpress.hf.request import LinearShapes, Request, read_shape
from vocabpress.hf.swap import install, install_linear

BOTH = LinearShapes.read({"attention": "2x16", "ffn": "2x8"})
QUIET = {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []}


def compressed(name, shapes=BOTH, dtype=torch.float32, table=True):
    model = tiny.make(name, dtype)
    if table:
        compress_model(model, Request(SVD(), Budget.ratio(4), linears=shapes))
    else:
        attach(model, VocabpressConfig(linears=compress_linears(model, shapes)[0]))
    return model


def small_distilbert():
    return DistilBertModel(DistilBertConfig(vocab_size=tiny.VOCAB, dim=32, hidden_dim=64, n_layers=2, n_heads=2))


def small_llama(keys=1):
    config = {**tiny.LLAMA, "num_key_value_heads": keys, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(**config)).eval()


COUNTS = {  # layers x (attention maps, first maps of the ffn, last maps)
    "bert": (8, 2, 2),
    "roberta": (8, 2, 2),
    "llama": (8, 4, 2),
    "gemma3, scaled": (8, 4, 2),
    "bart, scaled": (12, 2, 2),
    "t5": (24, 4, 4),
    "gpt2": (4, 2, 2),
}


@pytest.mark.parametrize("name", COUNTS)
def test_maps_are_found_by_role(name):
    found = find_linears(tiny.make(name))
    kinds = [(info.role, info.last) for info in found]
    assert (kinds.count(("attention", False)), kinds.count(("ffn", False)), kinds.count(("ffn", True))) == COUNTS[name]
    wide = {"gpt2": 128, "bart, scaled": 32}.get(name, 64)
    assert {info.shape for info in found if info.last} == {(32, wide)}


def test_maps_of_distilbert_and_what_is_no_layer():
    found = {info.name: (info.role, info.last, info.shape) for info in find_linears(small_distilbert())}
    assert found["transformer.layer.1.attention.out_lin"] == ("attention", False, (32, 32))
    assert found["transformer.layer.1.ffn.lin2"] == ("ffn", True, (32, 64))
    assert len(found) == 12
    names = {info.name for info in find_linears(tiny.make("bert"))}
    assert not any("pooler" in name or "cls" in name for name in names)


@pytest.mark.parametrize("name", ["bert", "roberta", "llama", "gemma3, scaled", "t5", "bart, scaled"])
def test_the_model_computes_with_the_dense_weights_of_its_forms(name):
    model, plain = compressed(name, table=False), tiny.make(name)
    maps = {place: module for place, module in model.named_modules() if isinstance(module, CompressedLinear)}
    assert len(maps) == sum(COUNTS[name])
    for place, module in maps.items():
        assert not torch.allclose(plain.get_parameter(f"{place}.weight"), module.weight, atol=1e-3)
        plain.get_parameter(f"{place}.weight").data.copy_(module.weight)
    torch.testing.assert_close(tiny.logits(model, tiny.batch()), tiny.logits(plain, tiny.batch()))


def test_the_notation_by_hand():
    """A map that is a Kronecker product with a left factor of n1 x m1 is found exactly, and only so written."""
    model = tiny.make("bert")
    layer = model.bert.encoder.layer[0]
    left, right = torch.randn(16, 2), torch.randn(2, 16)  # m1 x n1 = 16 x 2
    layer.attention.self.query.weight.data.copy_(torch.kron(left, right))
    first, second = torch.randn(8, 2), torch.randn(8, 16)
    layer.intermediate.dense.weight.data.copy_(torch.kron(first, second))  # W1: 64 x 32
    layer.output.dense.weight.data.copy_(torch.kron(first, second).T)  # W2: 32 x 64
    before = {info.name: model.get_parameter(f"{info.name}.weight").detach().clone() for info in find_linears(model)}
    compress_linears(model, BOTH)
    exact = []
    for name, weight in before.items():
        module = model.get_submodule(name)
        if float((module.weight.detach() - weight).norm() / weight.norm()) < 1e-3:
            exact.append(name.removeprefix("bert.encoder.layer."))
    assert exact == ["0.attention.self.query", "0.intermediate.dense", "0.output.dense"]
    form = layer.attention.self.query.table
    assert (form.left.num_embeddings, form.left.embedding_dim) == (16, 2)
    assert (form.right.num_embeddings, form.right.embedding_dim) == (2, 16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["bert", "llama", "t5"])
def test_a_reload_changes_no_bit_and_the_file_holds_what_is_counted(name, dtype, tmp_path):
    model = compressed(name, dtype=dtype)
    model.save_pretrained(tmp_path / "a")
    loaded, info = type(model).from_pretrained(tmp_path / "a", output_loading_info=True)
    assert info == QUIET
    assert loaded.dtype == dtype
    assert torch.equal(tiny.logits(loaded, tiny.batch()), tiny.logits(model, tiny.batch()))
    loaded.save_pretrained(tmp_path / "b")
    first, second = (stored(tmp_path / folder) for folder in "ab")
    assert first == second
    sizes = {"U8": 8, "F16": 16, "F32": 32, "BF16": 16}
    for place, table in owned_tables(model).items():
        mine = [part for key, part in first.items() if key.startswith((f"{place}.table.", f"{place}.weight"))]
        assert sum(torch.Size(shape).numel() * sizes[kind] for shape, kind in mine) == table.total_bits()
        assert first[f"{place}.weight"][0] != [table.num_embeddings, table.embedding_dim]


def stored(folder):
    with safe_open(folder / "model.safetensors", "pt") as file:
        parts = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
        return {key: (part.get_shape(), part.get_dtype()) for key, part in parts.items()}


def test_a_checkpoint_with_a_head_loads_without_it_and_the_other_way_round(tmp_path):
    compressed("bert").save_pretrained(tmp_path / "mlm")
    base, masked = AutoModel.from_pretrained(tmp_path / "mlm"), AutoModelForMaskedLM.from_pretrained(tmp_path / "mlm")
    ids = tiny.batch()
    assert torch.equal(base(ids).last_hidden_state, masked.bert(ids).last_hidden_state)
    base.save_pretrained(tmp_path / "base")
    again = AutoModelForMaskedLM.from_pretrained(tmp_path / "base")
    assert torch.equal(again.bert(ids).last_hidden_state, base(ids).last_hidden_state)


@pytest.mark.parametrize("name", ["bert", "llama", "t5"])
def test_dequantize_gives_an_ordinary_model(name, tmp_path):
    model = compressed(name)
    expected = tiny.logits(model, tiny.batch())
    plain = model.dequantize()
    assert not owned_tables(plain)
    assert {type(module) for module in plain.modules()} == {type(module) for module in tiny.make(name).modules()}
    torch.testing.assert_close(tiny.logits(plain, tiny.batch()), expected)
    plain.save_pretrained(tmp_path)
    loaded, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert info == QUIET
    assert torch.equal(tiny.logits(loaded, tiny.batch()), tiny.logits(plain, tiny.batch()))


def test_compressing_at_load(tmp_path):
    tiny.make("llama").save_pretrained(tmp_path / "source")
    config = VocabpressConfig(SVD(), Budget.ratio(4), shapes=BOTH)
    model = LlamaForCausalLM.from_pretrained(tmp_path / "source", quantization_config=config)
    assert torch.equal(tiny.logits(model, tiny.batch()), tiny.logits(compressed("llama"), tiny.batch()))
    config = model.config.quantization_config
    assert config.fitted_by["linears"] == {"attention": "2x16", "ffn": "2x8", "terms": 1, "factors": "float16"}
    assert config.fitted_by["method"] == "svd"


def test_more_terms_and_fewer_bits():
    original = tiny.make("bert")
    weights = {info.name: original.get_parameter(f"{info.name}.weight").detach() for info in find_linears(original)}
    errors, numbers = [], []
    for more in ({}, {"terms": 3}, {"terms": 3, "factors": "int4"}):
        model = tiny.make("bert")
        shapes = LinearShapes.read({"attention": "4x8", "ffn": "2x8", **more})
        _, (attention, ffn) = compress_linears(model, shapes)
        assert (attention.role, attention.shape, attention.maps, ffn.maps) == ("attention", "4x8", 8, 4)
        squares = [
            (float((model.get_submodule(name).weight.detach() - weight).square().sum()), float(weight.square().sum()))
            for name, weight in weights.items()
            if "attention" in name
        ]
        expected = sum(square for square, _ in squares) / sum(size for _, size in squares)
        assert attention.relative_error == pytest.approx(expected, rel=1e-4)
        assert attention.parameters_before == 8 * 32 * 32
        errors.append(attention.relative_error)
        numbers.append((attention.parameters_after, attention.bytes_after))
    assert errors[0] > errors[2] > errors[1]
    one = 8 * (4 * 8 + 8 * 4)
    assert numbers[0] == (one, 2 * one)
    assert numbers[1] == (3 * one, 6 * one)
    assert numbers[2][0] == 3 * one
    assert numbers[2][1] < numbers[1][1]


PUBLISHED = {"kronecker-8x": (14.3e6, 14_654_216), "kronecker-20x": (5.2e6, 5_228_272)}


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_count_what_the_paper_counts_of_bert_base(name):
    """Of the encoder with its pooler, as in the paper's 109.5M of BERT-base; the paper rounds, and does not itemise."""
    with torch.device("meta"):
        model = BertModel(BertConfig())
    chosen, before = PRESETS[name], sum(p.numel() for p in model.parameters())
    assert round(before / 1e6, 1) == 109.5
    for info, form in plan_linears(model, chosen.linears).items():
        install_linear(model, info.name, form)
        assert count_numbers(form) == sum(p.numel() for p in form.parameters())
    original = Original.of(model)
    place, weight = original.name, original.weight
    (plan,) = chosen.method.plans(*weight.shape, chosen.budget)
    with torch.device("meta"):
        install(model, place, chosen.method.empty(*weight.shape, plan))
    published, ours = PUBLISHED[name]
    assert sum(p.numel() for p in model.parameters()) == ours
    assert ours == pytest.approx(published, rel=0.025)
    shapes = {(form.left.embedding_dim, form.left.num_embeddings) for form in plan_linears(
        BertModel(BertConfig(num_hidden_layers=1, vocab_size=2)), chosen.linears).values()}  # fmt: skip
    widths = {"kronecker-8x": {(384, 384), (2, 8), (8, 2)}, "kronecker-20x": {(48, 384), (2, 16), (16, 2)}}
    assert shapes == widths[name]


def test_shares_of_the_sides_suit_grouped_queries():
    plan = plan_linears(small_llama(), PRESETS["kronecker-20x"].linears)
    shapes = {
        info.name.split(".")[-1]: (form.left.num_embeddings, form.left.embedding_dim) for info, form in plan.items()
    }
    assert shapes == {
        "q_proj": (16, 2), "k_proj": (4, 2), "v_proj": (4, 2), "o_proj": (16, 2),
        "gate_proj": (16, 2), "up_proj": (16, 2), "down_proj": (2, 16),
    }  # fmt: skip


def test_the_command_the_card_and_inspect(tmp_path, capsys):
    source = tiny.save("bert", tmp_path / "source")
    settings = ("--method", "kronecker", "--ratio", "7", "--linears", "attention=2x16", "--linears", "ffn=2x8")
    code, out, err = run(capsys, "compress", source, "-o", tmp_path / "out", *settings, "--json")
    assert code == 0, err
    report = json.loads(out.splitlines()[-1])
    assert [(part["role"], part["maps"]) for part in report["linears"]] == [("attention", 8), ("ffn", 4)]
    assert "linear maps as Kronecker products" in err
    card = (tmp_path / "out" / "README.md").read_text()
    assert "attention (8, left factors 2x16), ffn (4, left factors 2x8). All other weights are unchanged." in card
    assert f"| linear maps of ffn | {4 * 64 * 32 * 4:,} | {report['linears'][1]['bytes_after']:,} |" in card
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert len(config["linears"]) == 12
    assert config["linears"]["encoder.layer.0.attention.self.query"]["form"] == "kronecker"
    code, out, _ = run(capsys, "inspect", tmp_path / "out", "--json")
    found = json.loads(out.splitlines()[-1])
    assert code == 0
    (group,) = [group for group in found["linears"] if group["names"].endswith("query")]
    assert group == {
        "names": "encoder.layer.*.attention.self.query",
        "maps": 2,
        "shape": [32, 32],
        "bytes": 2 * 2 * (16 * 2 + 2 * 16),
        "ratio_to_float32": pytest.approx(2 * 32 * 32 * 4 / 256),
    }
    assert sum(group["bytes"] for group in found["linears"]) == sum(part["bytes_after"] for part in report["linears"])


def test_presets_by_command_and_from_python(tmp_path, capsys):
    source = tiny.save("bert", tmp_path / "source")
    code, _, err = run(
        capsys, "compress", source, "-o", tmp_path / "a", "--preset", "kronecker-8x", "--set", "factors=int8"
    )
    assert code == 0, err
    report = compress(source, tmp_path / "b", **preset("kronecker-8x", factors="int8"))
    first, second = (load_file(tmp_path / folder / "model.safetensors") for folder in "ab")
    assert all(torch.equal(first[key], second[key]) for key in first.keys() | second.keys())
    assert report.settings == {"width": 8, "rows": 1, "terms": 1, "factors": "int8"}
    assert report.linears[0].bytes_after < 8 * 2 * (16 * 16 + 2 * 2)
    plain = compress(source, tmp_path / "c", method=SVD(), budget=Budget.ratio(4), linears={"attention": (16, 16)})
    assert [part.role for part in plain.linears] == ["attention"]


def test_without_linear_maps_nothing_is_said_of_them(tmp_path):
    source = tiny.save("bert", tmp_path / "source")
    compress(source, tmp_path / "out", method=SVD(), budget=Budget.ratio(4))
    assert "linears" not in json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert "inear maps" not in (tmp_path / "out" / "README.md").read_text()


BAD = {
    "does not divide": (
        ("--linears", "attention=5x16"),
        "5 does not divide 32, the inputs of bert.encoder.layer.0.attention.self.query (attention is n1 x m1); "
        "the nearest that does is 4 or 8",
    ),
    "does not divide, transposed": (("--linears", "ffn=2x24"), "24 does not divide 64, the outputs of bert.enc"),
    "no whole share": (("--linears", "attention=1/3x1/2"), "1/3 of the 32 inputs of bert.encoder.layer.0.attention"),
    "no shape": (("--linears", "attention=48"), "the shape of attention is n1 x m1"),
    "zero": (("--linears", "ffn=0x2"), "the shape of ffn is n1 x m1"),
    "above one, no number": (("--linears", "ffn=3/2x2"), "write it like 48x384, or 1/16x1/2"),
    "unknown role": (("--linears", "pooler=2x2"), "unknown linear maps 'pooler'; choose from attention, ffn, terms"),
    "no role": (("--linears", "terms=2"), "no linear maps are chosen; give a shape to one of attention, ffn"),
    "terms": (("--linears", "ffn=2x8", "--linears", "terms=none"), "terms takes a number such as 1, got 'none'"),
    "too many terms": (
        ("--linears", "ffn=2x8", "--linears", "terms=17"),
        "16 terms with these factors represent bert.",
    ),
    "no terms": (("--linears", "ffn=2x8", "--linears", "terms=0"), "terms must be at least 1, got 0"),
    "factors": (("--linears", "ffn=2x8", "--linears", "factors=int3"), "unknown factors 'int3'"),
    "no equals": (("--linears", "ffn"), "--linears takes field=value, got 'ffn'; for example --linears attention=48"),
    "unknown preset": (("--preset", "kronecker-9x"), "unknown preset 'kronecker-9x'; choose from kronecker-8x"),
    "preset and method": (("--preset", "kronecker-8x", "--method", "svd"), "sets method, size and linear maps"),
    "preset and ratio": (("--preset", "kronecker-8x", "--ratio", "8"), "sets method, size and linear maps"),
    "preset and reference": (("--preset", "kronecker-8x", "--reference", "bfloat16"), "sets method, size and linear"),
    "size and reference": (("--size", "9kB", "--reference", "bfloat16"), "leave it out beside --size"),
    "preset and another field": (("--preset", "kronecker-8x", "--set", "rank=8"), "has no field 'rank'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name, tmp_path, capsys):
    source = tiny.save("bert", tmp_path / "source")
    arguments, words = BAD[name]
    code, out, err = run(capsys, "compress", source, "-o", tmp_path / "out", *arguments)
    assert (code, out) == (2, "")
    (line,) = [line for line in err.replace("\r", "\n").splitlines() if line.startswith("vocabpress: ")]
    assert words in line
    assert not (tmp_path / "out").exists()


def test_what_can_not_be_a_kronecker_product_is_refused():
    with pytest.raises(ValueError, match=r"h\.0\.attn\.c_attn is a Conv1D; only plain linear maps"):
        plan_linears(tiny.make("gpt2"), BOTH)
    with pytest.raises(ValueError, match="is a CompressedLinear; only plain linear maps"):
        plan_linears(compressed("bert"), BOTH)
    with pytest.raises(ValueError, match="Sequential has no attention maps"):
        plan_linears(torch.nn.Sequential(torch.nn.Linear(2, 2)), BOTH)

    class Odd(torch.nn.Linear):
        def forward(self, hidden):
            return 2 * super().forward(hidden)

    model = tiny.make("bert")
    model.bert.encoder.layer[0].output.dense.__class__ = Odd
    with pytest.raises(ValueError, match=r"bert\.encoder\.layer\.0\.output\.dense is a Odd; only plain linear maps"):
        compress_linears(model, BOTH)
    assert not owned_tables(model)
    model.bert.encoder.layer[0].output.dense.__class__ = torch.nn.Linear
    model.bert.encoder.layer[1].output.dense.weight.data.fill_(1e20)
    with pytest.raises(ValueError, match="a fitted factor is too large for float16"):
        compress_linears(model, LinearShapes.read({"ffn": "2x8"}))


def test_shapes_as_text():
    assert read_shape("ffn", "2X16") == (2, 16)
    assert read_shape("ffn", [2, 16]) == (2, 16)
    shapes = LinearShapes.read({"attention": "1/16x1/2", "terms": "2"})
    assert shapes.to_dict() == {"attention": "1/16x1/2", "terms": 2, "factors": "float16"}
    assert LinearShapes.read(shapes.to_dict()) == shapes
