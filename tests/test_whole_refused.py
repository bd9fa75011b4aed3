"""Whole models: what is refused, before the work where that is possible, and that nothing is left behind."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, BertConfig, BertModel

import tiny
import wide
from command import run
from vocabpress import Budget, compress
from vocabpress.hf.inner import body_config
from vocabpress.job import whole_request
from vocabpress.methods.ldlq import LDLQ

pytestmark = pytest.mark.usefixtures("short_memory")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return wide.save("sentences", tmp_path_factory.mktemp("whole") / "in")


EXCLUDED = {
    "--model-size 1MB --model-ratio 4": "model_size and model_ratio each say how small the file is; give one",
    "--model-ratio 4 --model-quality 97": "model_ratio and model_quality each say how small the file is; give one",
    "--model-quality 100": "a quality is over 0 and below 100, got 100",
    "--model-quality 97 --no-measure": "a quality must be measured; leave out --no-measure",
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
def test_what_excludes_a_size_of_the_model(more, source, plain_text, tmp_path, capsys):
    code, out, err = run(capsys, "compress", source, "-o", tmp_path / "out", "--text", plain_text, *more.split())
    assert (code, out) == (2, ""), err
    assert EXCLUDED[more] in err
    assert err.splitlines()[-1].startswith("vocabpress: error: ")
    assert not list(tmp_path.iterdir())


def test_the_least_size_that_an_error_names_can_be_had(source, plain_text, tmp_path):
    words = r"takes [\d,]+ bytes at the least, .* for what is not coded.*; got 9,000"
    with pytest.raises(ValueError, match=words) as refused:
        compress(source, tmp_path / "out", method=wide.FAST, text=[plain_text], model_size=9000)
    least = int(str(refused.value).split()[4].replace(",", ""))
    report = compress(source, tmp_path / "out", method=wide.FAST, text=[plain_text], model_size=least)
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
def test_numbers_that_cant_be_stored_are_found_before_the_work(change, plain_text, tmp_path, capsys, monkeypatch):
    source = damaged(tmp_path / "in", change)
    monkeypatch.setattr(LDLQ, "fit", None)
    monkeypatch.setattr("vocabpress.job.run.ask", None)
    command = ("compress", source, "-o", tmp_path / "out", "--text", plain_text)
    measured = ("--no-measure",) if change is nan_norm else ()
    for more in (("--model-ratio", "5", *measured), ("--body", "trellis", "--ratio", "5", *measured)):
        code, out, err = run(capsys, *command, *more)
        assert (code, out) == (2, ""), err
        assert BROKEN[change] in err
    assert [file.name for file in tmp_path.iterdir()] == ["in"]


def test_a_model_that_scales_its_weights_when_it_runs_is_not_measured_and_stays_as_it_is(plain_text, tmp_path):
    source = wide.save("rwkv", tmp_path / "in")
    before = load_file(source / "model.safetensors")
    with pytest.raises(ValueError, match=r"RwkvForCausalLM writes to its weights when it runs .*give --no-measure"):
        compress(source, tmp_path / "out", text=[plain_text], budget=Budget.ratio(4))
    assert [file.name for file in tmp_path.iterdir()] == ["in"]
    given = {"method": wide.FAST, "text": [plain_text], "measure": False}
    parts = ("attention.output", "feed_forward.value")  # divided by 1 in the first two layers, by 2 in the others
    scaled = {f"rwkv.blocks.{layer}.{part}" for layer in range(4) for part in parts}
    with pytest.warns(UserWarning, match="no metric was measured"):
        compress(source, tmp_path / "table", budget=Budget.ratio(4), **given)
    report = compress(source, tmp_path / "whole", model_ratio=3, **given)
    assert report.linears[0].maps == 4 * 7 - len(scaled)
    for name in ("table", "whole"):
        after = load_file(tmp_path / name / "model.safetensors")
        for key in scaled:
            expected = before[f"{key}.weight"]
            torch.testing.assert_close(after[f"{key}.weight"].float(), expected, rtol=1e-3, atol=1e-6)


def test_a_number_that_grew_too_large_leaves_nothing(plain_text, tmp_path, monkeypatch):
    source = damaged(tmp_path / "in", large_norm)
    monkeypatch.setattr(whole_request.WholeRequest, "check_original", lambda *_: None)
    with pytest.raises(ValueError, match=r"LayerNorm\.weight reaches 1e\+06, too large for float16"):
        compress(source, tmp_path / "out", method=wide.FAST, text=[plain_text], model_ratio=5)
    assert [file.name for file in tmp_path.iterdir()] == ["in"]


def test_an_interrupted_run_leaves_nothing(source, plain_text, tmp_path, monkeypatch):
    calls = []

    def fit(self, *arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return plain(self, *arguments)

    plain = LDLQ.fit
    monkeypatch.setattr(LDLQ, "fit", fit)
    with pytest.raises(KeyboardInterrupt):
        compress(source, tmp_path / "out", method=wide.FAST, text=[plain_text], model_ratio=5)
    assert not list(tmp_path.iterdir())


def test_a_body_that_is_quantised_or_has_no_maps(plain_text, tmp_path):
    pytest.importorskip("torchao.quantization")
    source = wide.save("bert", tmp_path / "in")
    compress(source, tmp_path / "int8", method="svd", budget=Budget.ratio(4), measure=False, body="int8")
    with pytest.raises(ValueError, match="is compressed or quantised already; start from the original"):
        compress(tmp_path / "int8", tmp_path / "out", text=[plain_text], model_ratio=5)
    model = AutoModel.from_pretrained(source, quantization_config=body_config("int8"))
    model.save_pretrained(tmp_path / "body")
    tiny.tokenizer_files(tmp_path / "body")
    with pytest.raises(ValueError, match="the body is quantised by torchao already, so its maps can't be coded"):
        compress(tmp_path / "body", tmp_path / "out", text=[plain_text], body="trellis")
    BertModel(BertConfig(**tiny.BERT, vocab_size=tiny.VOCAB, max_position_embeddings=64)).save_pretrained(
        tmp_path / "s"
    )
    tiny.tokenizer_files(tmp_path / "s", pad_token="w209")
    with pytest.raises(ValueError, match="BertModel has no linear maps that can be coded; compress its table alone"):
        compress(tmp_path / "s", tmp_path / "out", text=[plain_text], model_ratio=3)
    assert not (tmp_path / "out").exists()


def test_a_model_without_a_tokenizer_says_what_it_lacks(tmp_path, plain_text):
    wide.make("bert").save_pretrained(tmp_path / "in")
    with (
        pytest.warns(UserWarning, match="not measured"),
        pytest.raises(ValueError, match="a calibration reads text; give --text"),
    ):
        compress(tmp_path / "in", tmp_path / "out", body="trellis", budget=Budget.ratio(5))
