"""What a compression changes: the probe against the task that measures the same from the disk, and text held out."""

import json

import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, T5EncoderModel

import tiny
from measuring import LINES, LONG_LINES, measured, save_maskable, write_lines
from vocabpress import Budget, Uniform, compress
from vocabpress.embeddings import Dense
from vocabpress.hf.checkpoint import load_model, open_tokenizer
from vocabpress.hf.original import Original
from vocabpress.job.change import NotMeasurable, ask, compare
from vocabpress.job.text import JobText, open_text
from vocabpress.methods import SVD


def opened(folder):
    return Original.of(load_model(folder))


def text_of(lines):
    return JobText((), lines, "some text", len(lines))


def noisy(original, scale):
    noise = torch.randn(original.shape, generator=torch.Generator().manual_seed(1))
    return Dense.of(original.weight.detach() * (1 + scale * noise), torch.float32)


@pytest.mark.parametrize("name", ["gpt2", "bert", "t5", "bart, scaled", "gemma3, scaled"])
def test_a_model_that_reads_its_own_rows_is_unchanged_and_another_is_not(name, tmp_path):
    original = opened(save_maskable(tmp_path, name))
    kept, probe = original.weight.data_ptr(), ask(original, tmp_path, text_of(LINES))
    assert probe.kind == "predictions"
    with original.reading(noisy(original, 0)):
        same = probe.measure()
    with original.reading(noisy(original, 1)):
        changed = probe.measure()
    assert same.quality == pytest.approx(100, abs=0.01)
    assert (same.same_choice, same.perplexity_after) == (1, pytest.approx(same.perplexity_before, rel=0.01))
    assert 0 < changed.quality < 99
    assert original.weight.data_ptr() == kept


def test_the_quality_of_predictions_is_the_divergence_that_the_task_measures(tmp_path):
    source = save_maskable(tmp_path / "source", "gpt2")
    text = write_lines(tmp_path / "text.txt", LONG_LINES)
    report = compress(source, tmp_path / "small", method="svd", budget=Budget.ratio(4), text=[text])
    kl = measured("agreement", tmp_path / "small", source, text=[text]).metrics["kl"]
    assert report.change.quality == pytest.approx(100 * float(torch.tensor(-kl).exp()), rel=0.05)


def test_the_comparison_of_distributions():
    old, new = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[2.0, 1.0, 0.5]])
    kl, same, before, after = compare(old, new, torch.tensor([1]))[0].tolist()
    p, q = old.softmax(-1)[0], new.softmax(-1)[0]
    assert kl == pytest.approx(float((p * (p / q).log()).sum()), rel=1e-5)
    assert (same, before, after) == (0, pytest.approx(-float(p[1].log())), pytest.approx(-float(q[1].log())))


def encoder(folder, pooling):
    config = BertConfig(**tiny.BERT, vocab_size=tiny.VOCAB)
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    tiny.tokenizer_files(folder, pad_token="w209")
    if pooling is not None:
        (folder / "pool").mkdir()
        (folder / "pool" / "config.json").write_text(json.dumps(pooling))
        parts = [{"path": "", "type": "a.Transformer"}, {"path": "pool", "type": "a.Pooling"}]
        (folder / "modules.json").write_text(json.dumps(parts))
    return folder


@pytest.mark.parametrize(
    ("pooling", "pooled"),
    [
        (None, lambda states: states.mean(0)),
        ({"pooling_mode_mean_tokens": True}, lambda states: states.mean(0)),
        ({"pooling_mode_cls_token": True}, lambda states: states[0]),
        ({"pooling_mode": "lasttoken"}, lambda states: states[-1]),
    ],
)
def test_sentences_are_pooled_as_the_folder_says(pooling, pooled, tmp_path):
    folder = encoder(tmp_path, pooling)
    original, tokenizer = opened(folder), AutoTokenizer.from_pretrained(folder)
    probe = ask(original, folder, text_of(LINES[:5]))
    model = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        alone = [pooled(model(**tokenizer(line, return_tensors="pt")).last_hidden_state[0]) for line in LINES[:5]]
    wanted = torch.nn.functional.normalize(torch.stack(alone), dim=-1)
    order = sorted(range(5), key=lambda row: len(LINES[row].split()))
    torch.testing.assert_close(torch.cat(probe.before), wanted[order], rtol=1e-4, atol=1e-5)
    with original.reading(noisy(original, 1)):
        change = probe.measure()
        again = torch.cat([probe.answer(batch) for batch in probe.batches])
    assert change.quality == pytest.approx(100 * float((again * wanted[order]).sum(-1).mean()), rel=1e-4)
    assert (change.of, change.places) == ("sentences", 5)


def test_an_original_whose_outputs_are_nan_is_refused(tmp_path):
    model = tiny.make("gpt2")
    model.transformer.ln_f.weight.data[0] = torch.nan
    model.save_pretrained(tmp_path / "in")
    tiny.tokenizer_files(tmp_path / "in")
    text = write_lines(tmp_path / "text.txt", LINES)
    with pytest.raises(ValueError, match="outputs of GPT2LMHeadModel are NaN before its table is compressed"):
        compress(tmp_path / "in", tmp_path / "out", budget=Budget.ratio(4), method="svd", text=[text])
    assert not (tmp_path / "out").exists()


def test_half_precision_may_be_to_blame(tmp_path):
    model = tiny.make("gpt2", torch.float16)
    model.transformer.ln_f.weight.data[0] = torch.nan
    model.save_pretrained(tmp_path)
    tiny.tokenizer_files(tmp_path)
    with pytest.raises(NotMeasurable, match="float16"):
        ask(opened(tmp_path), tmp_path, text_of(LINES))


def test_a_model_that_needs_more_than_text_is_not_measured(tmp_path, monkeypatch):
    folder = encoder(tmp_path / "in", None)
    text = write_lines(tmp_path / "text.txt", LINES)

    def forward(self, pixel_values, **_):
        raise AssertionError

    monkeypatch.setattr(BertModel, "forward", forward)
    with pytest.warns(UserWarning, match="not measured, so the table gets ratio 25 to float32: .*pixel_values"):
        report = compress(folder, tmp_path / "out", method=SVD("int4"), text=[text])
    assert report.change is None
    assert report.budget == Budget.ratio(25)
    assert ("quality", "not measured") in report.measured()
    assert "| quality | not measured |" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match=r"a quality can't be measured: .*pixel_values.*; give a size"):
        compress(folder, tmp_path / "other", method="svd", text=[text], quality=90)


def test_lines_that_measure_do_not_calibrate(tmp_path):
    folder = encoder(tmp_path / "in", None)
    text = write_lines(tmp_path / "text.txt", [*LINES, *LINES])
    with open_text([text], [text], folder) as found:
        rest = [line for file in found.files for line in file.read_text(encoding="utf-8").splitlines()]
    assert 4 <= len(found.held_out) <= 8
    assert not set(found.held_out) & set(rest)
    assert {*found.held_out, *rest} == set(LINES)
    assert (found.name, found.lines) == ("text.txt", 80)


def test_text_of_one_line_calibrates_and_does_not_measure(tmp_path):
    folder = encoder(tmp_path / "in", None)
    text = write_lines(tmp_path / "text.txt", [LINES[0]] * 50)
    with open_text([text], [text], folder) as found:
        assert (list(found.files), list(found.held_out)) == ([text], [])
    with pytest.warns(UserWarning, match="is not measured: the text has too few different lines"):
        report = compress(folder, tmp_path / "out", method=Uniform(), budget=Budget.ratio(4), text=[text])
    assert report.change is None
    assert report.weighted_by == "text"


def test_text_of_another_language_is_refused_before_the_fit(tmp_path):
    folder = encoder(tmp_path / "in", None)
    text = write_lines(tmp_path / "text.txt", ["nothing of this is known here"] * 30)
    with pytest.raises(ValueError, match="does not know 100% of the tokens of the text; give text in a language"):
        compress(folder, tmp_path / "out", budget=Budget.ratio(4), text=[text])
    (tmp_path / "empty.txt").write_text("\n\n", encoding="utf-8")
    with pytest.raises(ValueError, match="holds no text"):
        compress(folder, tmp_path / "out", budget=Budget.ratio(4), text=[tmp_path / "empty.txt"])


def test_encoders_of_encoder_decoders_are_read_alone(tmp_path):
    T5EncoderModel(tiny.make("t5").config).save_pretrained(tmp_path)
    tiny.tokenizer_files(tmp_path)
    assert open_tokenizer(tmp_path) is not None
    assert ask(opened(tmp_path), tmp_path, text_of(LINES)).kind == "sentences"
