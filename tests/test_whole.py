"""Whole models: one size for table and linear maps, what is written, and what is refused."""

import json
import warnings
from functools import partial

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModel, BertConfig, BertModel
from transformers.models.bert.modeling_bert import BertIntermediate

import tiny
import wide
from command import run
from measuring import LINES, LONG_LINES, write_lines
from vocabpress import TCQ, Budget, VocabpressConfig, compress
from vocabpress.hf.filesize import data_bytes, header_bytes
from vocabpress.hf.inner import body_config
from vocabpress.hf.modules import CompressedLinear, TiedHead, TokenEmbedding, owned_tables
from vocabpress.hf.report import load_report
from vocabpress.job import wholly, write
from vocabpress.methods.ldlq import LDLQ

QUIET = {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []}
PARTS = [
    {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
    for number, (path, kind) in enumerate((("", "Transformer"), ("1_Pooling", "Pooling")))
]
RATIOS = {
    "sentences": 8,
    "bert, masked": 7,
    "bert, one layer": 7,
    "roberta, classes": 6,
    "llama": 8,
    "llama, untied": 6,
    "gpt2": 8,
    "t5": 8,
    "bart": 5,
    "albert": 5,
    "mpnet": 8,
}
FAST = TCQ(memory=8)


@pytest.fixture(scope="module", autouse=True)
def _fast():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wholly, "LDLQ", partial(LDLQ, memory=8))
        yield


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_lines(tmp_path_factory.mktemp("text") / "words.txt", [*LONG_LINES, *LINES])


def save(name, folder, dtype=torch.float32):
    """A checkpoint; "sentences" is one that sentence-transformers knows."""
    wide.save("bert" if name == "sentences" else name, folder, dtype)
    if name == "sentences":
        pooling = {"word_embedding_dimension": 64, "pooling_mode_mean_tokens": True}
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
        (folder / "modules.json").write_text(json.dumps(PARTS))
    return folder


class Done:
    """A model that was compressed: its folders, the report, and what was in memory when it was saved."""

    def __init__(self, name, base, text, **asked):
        self.source, self.out, models = save(name, base / "in"), base / "out", []
        saved = lambda model, folder: models.append(model) or model.save_pretrained(folder)  # noqa: E731
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(action="ignore"):
            patch.setattr(write, "save", saved)
            self.report = compress(self.source, self.out, method=FAST, text=[text], **asked)
        self.model = models[0].eval()

    @property
    def file(self):
        return self.out / "model.safetensors"

    def load(self, **how):
        with warnings.catch_warnings(action="error"):
            model, info = type(self.model).from_pretrained(self.out, output_loading_info=True, **how)
        assert info == QUIET
        return model.eval()


@pytest.fixture(scope="module")
def whole(tmp_path_factory, text):
    made = {}

    def make(name):
        if name not in made:
            made[name] = Done(name, tmp_path_factory.mktemp("whole"), text, model_ratio=RATIOS[name])
        return made[name]

    return make


@torch.no_grad()
def outputs(model):
    return model(**wide.inputs(model))[0]


def entries(file):
    with safe_open(file, "pt") as opened:
        return {key: opened.get_slice(key).get_dtype() for key in opened.keys()}  # noqa: SIM118


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
    assert model.config.quantization_config.short
    linears = [place for place, each in model.named_modules() if type(each) is CompressedLinear]
    tables = [place for place, each in model.named_modules() if isinstance(each, TokenEmbedding) and each.owns_table]
    assert len(linears) + len(tables) - 1 == done.report.linears[0].maps
    assert set(model.config.quantization_config.tables) == {place.removeprefix(prefix(model)) for place in tables}


def prefix(model):
    return "" if model.base_model is model else f"{model.base_model_prefix}."


@pytest.mark.parametrize("name", RATIOS)
def test_what_is_not_coded_is_float16_in_the_file_and_a_save_changes_no_byte(name, whole, tmp_path):
    done = whole(name)
    kinds = entries(done.file)
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
    assert "--body" not in done.report.command
    page = (done.out / "README.md").read_text(encoding="utf-8")
    assert f"stored as trellis codes, {body.shape} a weight. All other weights are stored in 16 bits." in page
    assert f"linear maps of body | {body.bytes_before:,} | {body.bytes_after:,}" in page


def test_maps_at_one_rate_from_the_command_line(text, tmp_path, capsys):
    source = save("gpt2", tmp_path / "in")
    command = ("compress", source, "-o", tmp_path / "out", "--ratio", "6", "--set", "memory=8", "--text", text)
    code, out, err = run(capsys, *command, "--body", "trellis", "--body-bits", "2", "--json")
    assert code == 0, err
    report = json.loads(out)
    (body,) = report["linears"]
    assert body["shape"] == "2.001 bits"
    assert "--body trellis --body-bits 2" in report["command"]
    assert report["model_bytes_after"] == (tmp_path / "out" / "model.safetensors").stat().st_size
    assert "linear maps of body" in err
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


def test_a_sixteen_bit_original_stays_in_its_dtype(text, tmp_path):
    source = save("llama", tmp_path / "in", torch.bfloat16)
    compress(source, tmp_path / "out", method=FAST, text=[text], model_ratio=3)
    kinds = entries(tmp_path / "out" / "model.safetensors")
    assert kinds["model.norm.weight"] == "BF16"
    assert (tmp_path / "out" / "model.safetensors").stat().st_size <= (source / "model.safetensors").stat().st_size / 3
    assert AutoModel.from_pretrained(tmp_path / "out").dtype == torch.bfloat16


def test_a_job_is_repeated_to_the_byte(whole, text, tmp_path):
    again = Done("sentences", tmp_path, text, model_ratio=RATIOS["sentences"])
    assert parts_of(again.file) == parts_of(whole("sentences").file)


def test_tied_tensors_stay_one_in_sixteen_bits(whole):
    done = whole("bert, masked")
    kinds = entries(done.file)
    assert "cls.predictions.bias" in kinds
    assert "cls.predictions.decoder.bias" not in kinds
    model = done.load()
    assert model.cls.predictions.decoder.bias is model.cls.predictions.bias
    assert isinstance(model.cls.predictions.decoder, TiedHead)


def test_less_is_lost_where_more_is_allowed(whole, text, tmp_path):
    gentle = Done("llama", tmp_path, text, model_ratio=5)
    assert gentle.report.change.quality > whole("llama").report.change.quality
    assert gentle.report.linears[0].relative_error < whole("llama").report.linears[0].relative_error


def test_recovery_of_a_whole_model_keeps_to_its_size(text, tmp_path):
    source = save("sentences", tmp_path / "in")
    size = (source / "model.safetensors").stat().st_size
    report = compress(source, tmp_path / "out", method=FAST, text=[text], model_ratio=7, recover=0.02)
    assert report.model_bytes_after <= size / 7
    kinds = entries(tmp_path / "out" / "model.safetensors")  # scales are what is trained
    assert sum(key.endswith(".table.columns") for key in kinds) == report.linears[0].maps
    assert set(kinds.values()) == {"U8", "F16"}
    AutoModel.from_pretrained(tmp_path / "out")


EXCLUDED = {
    "--model-size 1MB --model-ratio 4": "model_size and model_ratio both say how small the file is; give one",
    "--model-size 1MB --ratio 5": "the size of the model is shared out over the table, too; leave out that",
    "--model-ratio 4 --quality 99": "leave out that of the table",
    "--model-ratio 4 --linears ffn=2x16": "a body of trellis codes has all linear maps; leave out linears",
    "--body trellis --linears ffn=2x16 --ratio 5": "a body of trellis codes has all linear maps; leave out linears",
    "--model-ratio 4 --body int8": "a size of the model is reached with a body of trellis codes, got 'int8'",
    "--model-ratio 4 --body-bits 2": "body_bits are for body='trellis' without a size of the model",
    "--model-ratio 1": "a ratio of the model is above 1, got 1; try 20",
    "--model-ratio nan": "a ratio of the model is above 1, got nan; try 20",
    "--model-size much": "much",
    "--body-bits 2": "body_bits are for body='trellis' without a size of the model; give --body trellis",
    "--body-bits 2 --body int8": "body_bits are for body='trellis'",
    "--body-bits 7 --body trellis": "body_bits are one of 1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 8, got 7",
    "--model-ratio 400": "the weight file takes ",
}


@pytest.mark.parametrize("more", EXCLUDED)
def test_what_excludes_a_size_of_the_model(more, whole, text, tmp_path, capsys):
    code, out, err = run(
        capsys, "compress", whole("sentences").source, "-o", tmp_path / "out", "--text", text, *more.split()
    )
    assert (code, out) == (2, ""), err
    assert EXCLUDED[more] in err
    assert err.splitlines()[-1].startswith("vocabpress: error: ")
    assert not list(tmp_path.iterdir())


def test_the_least_size_that_an_error_names_can_be_had(whole, text, tmp_path):
    source = whole("sentences").source
    words = r"takes [\d,]+ bytes at the least, .* for what is not coded.*; got 9,000"
    with pytest.raises(ValueError, match=words) as refused:
        compress(source, tmp_path / "out", method=FAST, text=[text], model_size=9000)
    least = int(str(refused.value).split()[4].replace(",", ""))
    report = compress(source, tmp_path / "out", method=FAST, text=[text], model_size=least)
    assert 0.85 * least < report.model_bytes_after <= least


def damaged(folder, change):
    model = wide.make("bert")
    change(model)
    model.save_pretrained(folder)
    tiny.tokenizer_files(folder, pad_token="w209", mask_token="w205")
    return folder


def nan(model):
    model.encoder.layer[1].output.dense.weight.data[3, 4] = torch.nan


def large(model):
    model.encoder.layer[0].output.dense.weight.data *= 1e7


def large_norm(model):
    model.encoder.layer[1].output.LayerNorm.weight.data[0] = 1e6


def nan_norm(model):
    model.encoder.layer[0].output.LayerNorm.bias.data[0] = torch.nan


BROKEN = {
    nan: "encoder.layer.1.output.dense can't be coded: its weight holds NaN or infinite values; repair the checkpoint",
    large: "encoder.layer.0.output.dense can't be coded: its weight reaches",
    large_norm: "encoder.layer.1.output.LayerNorm.weight reaches 1e+06, too large for float16; leave the body as it is",
    nan_norm: "are NaN or infinite for some text, so it can't be calibrated",
}


@pytest.mark.parametrize("change", BROKEN)
def test_numbers_that_cant_be_stored_are_found_before_the_work(change, text, tmp_path, capsys, monkeypatch):
    source = damaged(tmp_path / "in", change)
    monkeypatch.setattr(LDLQ, "fit", None)
    monkeypatch.setattr("vocabpress.job.compress.ask", None)
    command = ("compress", source, "-o", tmp_path / "out", "--text", text)
    measured = ("--no-measure",) if change is nan_norm else ()
    for more in (("--model-ratio", "5", *measured), ("--body", "trellis", "--ratio", "5", *measured)):
        code, out, err = run(capsys, *command, *more)
        assert (code, out) == (2, ""), err
        assert BROKEN[change] in err
    assert [file.name for file in tmp_path.iterdir()] == ["in"]


def test_a_number_that_grew_too_large_leaves_nothing(text, tmp_path, monkeypatch):
    source = damaged(tmp_path / "in", large_norm)
    monkeypatch.setattr(wholly.Wholly, "check_original", lambda *_: None)
    with pytest.raises(ValueError, match=r"LayerNorm\.weight reaches 1e\+06, too large for float16"):
        compress(source, tmp_path / "out", method=FAST, text=[text], model_ratio=5)
    assert [file.name for file in tmp_path.iterdir()] == ["in"]


def test_an_interrupted_run_leaves_nothing(whole, text, tmp_path, monkeypatch):
    calls = []

    def fit(self, *arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return plain(self, *arguments)

    plain = LDLQ.fit
    monkeypatch.setattr(LDLQ, "fit", fit)
    with pytest.raises(KeyboardInterrupt):
        compress(whole("sentences").source, tmp_path / "out", method=FAST, text=[text], model_ratio=5)
    assert not list(tmp_path.iterdir())


def test_a_body_that_is_quantised_or_has_no_maps(text, tmp_path):
    pytest.importorskip("torchao.quantization")
    source = save("bert", tmp_path / "in")
    compress(source, tmp_path / "int8", method="svd", budget=Budget.ratio(4), measure=False, body="int8")
    with pytest.raises(ValueError, match="is compressed or quantised already; start from the original"):
        compress(tmp_path / "int8", tmp_path / "out", text=[text], model_ratio=5)
    model = AutoModel.from_pretrained(source, quantization_config=body_config("int8"))
    model.save_pretrained(tmp_path / "body")
    tiny.tokenizer_files(tmp_path / "body")
    with pytest.raises(ValueError, match="the body is quantised by torchao already, so its maps can't be coded"):
        compress(tmp_path / "body", tmp_path / "out", text=[text], body="trellis")
    BertModel(BertConfig(**tiny.BERT, vocab_size=tiny.VOCAB, max_position_embeddings=64)).save_pretrained(
        tmp_path / "s"
    )
    tiny.tokenizer_files(tmp_path / "s", pad_token="w209")
    with pytest.raises(ValueError, match="BertModel has no linear maps that can be coded; compress its table alone"):
        compress(tmp_path / "s", tmp_path / "out", text=[text], model_ratio=3)
    assert not (tmp_path / "out").exists()


def test_a_model_without_a_tokenizer_says_what_it_lacks(tmp_path, text):
    wide.make("bert").save_pretrained(tmp_path / "in")
    with (
        pytest.warns(UserWarning, match="not measured"),
        pytest.raises(ValueError, match="a calibration reads text; give --text"),
    ):
        compress(tmp_path / "in", tmp_path / "out", body="trellis", budget=Budget.ratio(5))


def test_weights_that_are_read_without_a_call_stay_as_they_are(text, tmp_path, monkeypatch):
    """As where a fused operator takes the weights of modules that are never run."""

    def forward(self, hidden_states):
        states = torch.nn.functional.linear(hidden_states, self.dense.weight, self.dense.bias)
        return self.intermediate_act_fn(states)

    monkeypatch.setattr(BertIntermediate, "forward", forward)
    done = Done("bert, one layer", tmp_path, text, model_ratio=4)
    kinds = entries(done.file)
    assert kinds["encoder.layer.0.intermediate.dense.weight"] == "F16"
    assert kinds["encoder.layer.0.output.dense.weight"] == "U8"
    assert done.report.linears[0].maps == 7
    original, stored = load_file(done.source / "model.safetensors"), load_file(done.file)
    name = "encoder.layer.0.intermediate.dense.weight"
    assert torch.equal(stored[name], original[name].half())


def test_only_whole_models_are_shortened():
    assert not VocabpressConfig().short
    assert "short" not in VocabpressConfig().to_dict()
    assert VocabpressConfig(short=True).to_dict()["short"]
    with pytest.raises(ValueError, match="short in quantization_config is a bool, got 1"):
        VocabpressConfig.from_dict({"quant_method": "vocabpress", "format_version": 1, "short": 1})
