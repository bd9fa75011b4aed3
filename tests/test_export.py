"""ONNX: what onnxruntime says is what torch says, and the file is no larger than the checkpoint."""

import json

import onnx
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

import tiny
from command import run
from vocabpress import TCQ, Budget, FastScan, GroupReduce, LightToken, Method, Product, Uniform, compress
from vocabpress.embeddings import Scalar, Trellis
from vocabpress.export import export
from vocabpress.export.gathered import GatheredScalar, gather_uniform
from vocabpress.export.onnx import run_onnx, to_onnx
from vocabpress.methods.ldlq import LDLQ

METHODS: dict[str, Method] = {"tcq": TCQ(memory=8, blocks=2)}
SLOWER: dict[str, Method] = {
    "fastscan": FastScan(),
    "lighttoken": LightToken(),
    "product": Product(),
    "uniform": Uniform(),
    "groupreduce": GroupReduce(),
}
TEXT = "\n".join(" ".join(f"w{(7 * i + j) % 200}" for j in range(3 + i)) for i in range(4))


def small(name, folder, method):
    source = tiny.save(name, folder / "source")
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.pad_token = "[UNK]"
    tokenizer.save_pretrained(source)
    compress(source, folder / "small", method=method, budget=Budget.ratio(3), measure=False)
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    return folder / "small"


def holds(method, name, folder):
    source = small(name, folder, method)
    report = export(source, folder / "out", text=[folder / "text.txt"])
    assert report.largest_difference < 1e-4 * report.largest_value
    assert report.onnx_bytes == (folder / "out" / "onnx" / "model.onnx").stat().st_size
    return report


@pytest.mark.parametrize("method", METHODS)
def test_onnxruntime_says_what_torch_says(method, tmp_path):
    assert holds(METHODS[method], "bert", tmp_path).result == "logits"


@pytest.mark.slow
@pytest.mark.parametrize("method", SLOWER)
def test_onnxruntime_says_what_torch_says_of_other_forms(method, tmp_path):
    holds(SLOWER[method], "bert", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "llama", "llama, untied", "roberta", "gemma3, scaled"])
def test_other_architectures(name, tmp_path):
    holds(TCQ(memory=8, blocks=2), name, tmp_path)


def test_the_folder_runs_at_other_shapes_and_names_no_files_of_ours(tmp_path):
    source = small("bert", tmp_path, TCQ(memory=8, blocks=2))
    # A base model, without the head that it was saved with.
    AutoModel.from_pretrained(source).save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(source).save_pretrained(tmp_path / "base")
    report = export(tmp_path / "base", tmp_path / "out")
    assert report.result == "last_hidden_state"
    model, tokenizer = AutoModel.from_pretrained(tmp_path / "base").eval(), AutoTokenizer.from_pretrained(source)
    for lines in (["w5"], [TEXT.splitlines()[3]] * 7):
        feed = dict(tokenizer(lines, return_tensors="pt"))
        (found,) = run_onnx(tmp_path / "out" / "onnx" / "model.onnx", [feed])
        with torch.no_grad():
            torch.testing.assert_close(found, model(**feed).last_hidden_state, rtol=1e-4, atol=1e-5)
    graph = onnx.load(tmp_path / "out" / "onnx" / "model.onnx")
    assert str(tmp_path).encode() not in graph.SerializeToString()
    assert b"site-packages" not in graph.SerializeToString()
    kept = [list(each.dims) for each in graph.graph.initializer if each.data_type == onnx.TensorProto.UINT8]
    blocks = [module for module in model.modules() if isinstance(module, Trellis)]
    assert all(list(block.codes.shape) in kept for block in blocks)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "quantization_config" not in config
    assert (tmp_path / "out" / "tokenizer.json").is_file()


class Rows(torch.nn.Module):
    """Rows of a table, by ids of two axes."""

    def __init__(self, table):
        super().__init__()
        self.table = table

    def forward(self, *inputs):
        return self.table.lookup(inputs[0])


class Maps(torch.nn.Module):
    """Linear maps one after the other."""

    def __init__(self, maps):
        super().__init__()
        self.maps = torch.nn.ModuleList(maps)

    def forward(self, *inputs):
        hidden = inputs[0]
        for each in self.maps:
            hidden = each.logits(hidden).tanh()
        return hidden


def test_coded_maps_of_a_graph_share_the_words_of_their_codes(tmp_path):
    draw = torch.Generator().manual_seed(0)
    forms = [LDLQ().fit(torch.randn(48, 48, generator=draw), torch.eye(48), None, bits) for bits in (2, 2, 2, 3)]
    model, hidden = Maps(forms).requires_grad_(False), torch.randn(3, 48, generator=draw)
    sizes = []
    for count in (1, 3):
        file = tmp_path / f"{count}.onnx"
        to_onnx(Maps(forms[:count]), {"hidden": hidden}, "result", {"hidden": ("batch",)}, file)
        sizes.append(file.stat().st_size)
    assert sizes[1] - sizes[0] < 2 * 4 * 2**12  # two more maps without words of their own
    file = tmp_path / "all.onnx"
    to_onnx(model, {"hidden": hidden}, "result", {"hidden": ("batch",)}, file)
    (found,) = run_onnx(file, [{"hidden": hidden}])
    torch.testing.assert_close(found, model(hidden), rtol=1e-4, atol=1e-4)


def uniform_codes(bits, axis, group, width):
    """A form with every code, the smallest and the largest included."""
    codes = torch.arange(40 * width).reshape(40, width) % 2**bits
    count = {"row": (40, 1), "column": (1, width), "none": ()}.get(axis, (40, -(-width // (group or 1))))
    return Scalar.of(codes, torch.rand(count) + 0.5, bits, axis, group_size=group)


def operators(file):
    graph = onnx.load(file).graph
    return [node.op_type for node in graph.node if node.domain == "com.microsoft"]


@pytest.mark.parametrize(
    ("bits", "axis", "group", "width"),
    [(8, "row", None, 33), (4, "row", None, 10), (4, "group", 16, 40), (8, "group", 32, 48)],
)
def test_uniform_codes_are_read_by_the_runtimes_own_operator(bits, axis, group, width, tmp_path):
    form = uniform_codes(bits, axis, group, width)
    model, ids, file = Rows(form).requires_grad_(False), torch.randint(0, 40, (3, 5)), tmp_path / "rows.onnx"
    gather_uniform(model)
    assert to_onnx(model, {"ids": ids}, "rows", {"ids": ("batch", "sequence")}, file) == 1
    assert operators(file) == ["GatherBlockQuantized"]
    (found,) = run_onnx(file, [{"ids": ids[:2]}])
    for rows, wanted in ((found, ids[:2]), (model(ids), ids)):
        torch.testing.assert_close(rows, form.lookup(wanted).detach(), rtol=0, atol=1e-6)
    hidden = torch.randn(2, width)
    torch.testing.assert_close(model.table.logits(hidden), form.logits(hidden))
    torch.testing.assert_close(model.table.dense(), form.dense())


@pytest.mark.parametrize(
    ("bits", "axis", "group", "width"),
    [(3, "row", None, 16), (8, "column", None, 16), (8, "group", 24, 48), (8, "group", 8, 16), (4, "row", None, 9),
     (8, "none", None, 16)],
)  # fmt: skip
def test_other_uniform_codes_are_left_to_standard_operators(bits, axis, group, width):
    model = Rows(uniform_codes(bits, axis, group, width))
    form = model.table
    gather_uniform(model)
    assert model.table is form
    with pytest.raises(ValueError, match="onnxruntime has no operator that gathers"):
        GatheredScalar(form)


def test_a_tied_table_of_uniform_codes_is_in_the_file_once(tmp_path):
    source = small("bert", tmp_path, Uniform(bits=4, group_size=16))
    own = export(source, tmp_path / "own", text=[tmp_path / "text.txt"])
    standard = export(source, tmp_path / "standard", text=[tmp_path / "text.txt"], operators="standard")
    assert (own.runtime_nodes, standard.runtime_nodes) == (1, 0)
    assert operators(tmp_path / "own" / "onnx" / "model.onnx") == ["GatherBlockQuantized"]
    graph = onnx.load(tmp_path / "own" / "onnx" / "model.onnx").graph
    codes = [list(each.dims) for each in graph.initializer if each.data_type == onnx.TensorProto.UINT8]
    assert codes == [[tiny.VOCAB, 16]]
    assert {each.domain for each in onnx.load(tmp_path / "standard" / "onnx" / "model.onnx").opset_import} == {""}
    for report in (own, standard):
        assert report.largest_difference < 1e-4 * report.largest_value


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("bert", ["--to", "tflite"], "can't export to 'tflite'; choose from onnx"),
        ("t5", [], "is an encoder with a decoder, which can't be exported yet"),
        ("bert", ["--operators", "tensorrt"], "unknown operators 'tensorrt'; choose from onnxruntime, standard"),
        ("bert", ["--text", "none.txt"], "no such text file: none.txt"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(name, arguments, message, tmp_path, capsys):
    source = tiny.save(name, tmp_path / "source")
    code, _, said = run(capsys, "export", source, "-o", tmp_path / "out", *arguments)
    assert code == 2
    assert message in said
    assert not (tmp_path / "out").exists()
