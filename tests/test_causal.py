"""Perplexity of the next word, against brute force."""

import math

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import tiny
from measuring import LONG_LINES, measured, pair, save_maskable, untied
from vocabpress.evaluate.causal import first_token, overlapping_windows
from vocabpress.hf.modules import TiedHead

ALIKE = {"kl": 0.0, "top1_agreement": 1.0}


def stream():
    return [int(word[1:]) for line in LONG_LINES for word in line.split()]


def strided_loss(model, ids, window):
    """As transformers' documentation does it: targets that were scored before are set to -100."""
    total, count, previous = 0.0, 0, 0
    for begin in range(0, len(ids), window // 2):
        end = min(begin + window, len(ids))
        inputs = torch.tensor([ids[begin:end]])
        labels = inputs.clone()
        labels[:, : len(labels[0]) - (end - previous)] = -100
        with torch.no_grad():
            loss = model(inputs, labels=labels).loss
        scored = int((labels[:, 1:] != -100).sum())
        total, count, previous = total + float(loss) * scored, count + scored, end
        if end == len(ids):
            return total / count, count
    raise AssertionError


@pytest.mark.parametrize("name", ["gpt2", "llama, untied", "gemma3, scaled"])
def test_strided_perplexity_by_brute_force(name, tmp_path, long_text):
    source, small = pair(name, tmp_path)
    metrics = measured("clm", small, source, {"window": 50, "batch_size": 3}, text=[long_text]).metrics
    compressed, original = (AutoModelForCausalLM.from_pretrained(place).eval() for place in (small, source))
    loss, count = strided_loss(compressed, stream(), 50)
    assert count == len(stream()) - 1 == metrics["tokens"]
    assert metrics["nll_per_token"] == pytest.approx(loss, rel=1e-4)
    assert metrics["perplexity"] == pytest.approx(math.exp(loss), rel=1e-4)
    assert metrics["perplexity_original"] == pytest.approx(math.exp(strided_loss(original, stream(), 50)[0]), rel=1e-4)
    if "untied" in name:
        assert metrics["perplexity_head_original"] == metrics["perplexity"]
    else:
        other = strided_loss(untied(small, source, AutoModelForCausalLM), stream(), 50)[0]
        assert isinstance(compressed.get_output_embeddings(), TiedHead)
        assert metrics["perplexity_head_original"] == pytest.approx(math.exp(other), rel=1e-4)
        assert metrics["perplexity_head_original"] != pytest.approx(metrics["perplexity"], rel=1e-3)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_predictions_are_compared_where_tokens_are_scored(batch_size, tmp_path, long_text):
    """One window that holds the text, by torch's own divergence."""
    source, small = pair("gpt2", tmp_path)
    settings = {"window": 1000, "subset": 9, "batch_size": batch_size}
    found = measured("clm", small, source, settings, text=[long_text])
    ids = torch.tensor([stream()[: int(found.metrics["tokens"]) + 1]])
    models = (AutoModelForCausalLM.from_pretrained(place).eval() for place in (small, source))
    after, before = (tiny.logits(model, ids)[0, :-1].log_softmax(-1) for model in models)
    kl = torch.nn.functional.kl_div(after, before, log_target=True, reduction="batchmean")
    assert found.metrics["kl"] == pytest.approx(float(kl), rel=1e-4)
    assert found.metrics["top1_agreement"] == pytest.approx(
        float((after.argmax(-1) == before.argmax(-1)).double().mean())
    )
    assert 0 < found.metrics["top1_agreement"] < 1
    deciles = [tenth for tenth in found.details["nll_deciles"] if tenth["tokens"]]
    total = sum(tenth["tokens"] * tenth["kl"] for tenth in deciles) / sum(tenth["tokens"] for tenth in deciles)
    assert total == pytest.approx(found.metrics["kl"])


def test_a_model_compared_with_itself_or_a_copy_predicts_the_same(tmp_path, long_text):
    source = save_maskable(tmp_path / "source", "gpt2")
    copy = save_maskable(tmp_path / "copy", "gpt2")
    for folder in (source, copy):
        metrics = measured("clm", folder, source, text=[long_text]).metrics
        assert {name: metrics[name] for name in ALIKE} == ALIKE
        assert metrics["perplexity_original"] == metrics["perplexity"] == metrics["perplexity_head_original"]


def test_a_text_of_one_window_has_the_loss_of_its_full_context(tmp_path, long_text):
    source = tiny.save("gpt2", tmp_path / "model")
    metrics = measured("clm", source, settings={"window": 1000, "subset": 9}, text=[long_text]).metrics
    ids = torch.tensor([[int(word[1:]) for line in LONG_LINES[:9] for word in line.split()]])
    with torch.no_grad():
        loss = AutoModelForCausalLM.from_pretrained(source).eval()(ids, labels=ids).loss
    assert metrics["tokens"] == ids.numel() - 1
    assert metrics["nll_per_token"] == pytest.approx(float(loss), rel=1e-5)
    assert metrics.keys() == {"perplexity", "nll_per_token", "bits_per_byte", "tokens"}


def test_windows_by_hand():
    without = overlapping_windows(range(10, 20), None, 4)
    assert [(window.inputs, window.targets) for window in without] == [
        ([10, 11, 12, 13], [11, 12, 13]),
        ([12, 13, 14, 15], [14, 15]),
        ([14, 15, 16, 17], [16, 17]),
        ([16, 17, 18, 19], [18, 19]),
    ]
    led = overlapping_windows(range(10, 17), 0, 5)
    assert [(window.inputs, window.targets) for window in led] == [
        ([0, 10, 11, 12, 13], [10, 11, 12, 13]),
        ([0, 12, 13, 14, 15], [14, 15]),
        ([0, 14, 15, 16], [16]),
    ]
    for windows, first in ((without, 11), (led, 10)):
        scored = [token for window in windows for token in window.targets]
        assert scored == list(range(first, first + len(scored)))
        for window in windows:
            assert [window.inputs[place + 1] for place in window.places] == window.targets


def test_a_token_that_begins_texts_begins_every_window(tmp_path, long_text):
    source = tiny.save("gpt2", tmp_path / "model")
    plain = PreTrainedTokenizerFast.from_pretrained(source)
    assert first_token(plain) is None
    raw = Tokenizer.from_file(str(source / "tokenizer.json"))
    raw.post_processor = TemplateProcessing(single="w207 $A", special_tokens=[("w207", 207)])
    led = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]", bos_token="w207")
    assert first_token(led) == 207
    led.save_pretrained(source)
    metrics = measured("clm", source, settings={"window": 1001}, text=[long_text]).metrics
    ids = torch.tensor([[207, *stream()]])
    with torch.no_grad():
        loss = AutoModelForCausalLM.from_pretrained(source).eval()(ids, labels=ids).loss
    assert metrics["tokens"] == len(stream())
    assert metrics["nll_per_token"] == pytest.approx(float(loss), rel=1e-5)


def quiet(model):
    """All logits 0."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embedding" in name or "wte" in name or name.endswith("predictions.bias") or "decoder" in name:
                parameter.zero_()
    return model


def test_uniform_logits_have_the_perplexity_of_the_vocabulary(tmp_path, long_text):
    source = save_maskable(tmp_path / "bert")
    quiet(tiny.make("bert")).save_pretrained(source)
    metrics = measured("mlm", source, settings={"min_tokens": 5}, text=[long_text]).metrics
    assert metrics["perplexity_head_compressed"] == pytest.approx(tiny.VOCAB, rel=1e-5)
    other = tiny.save("gpt2", tmp_path / "gpt2")
    quiet(tiny.make("gpt2")).save_pretrained(other)
    metrics = measured("clm", other, text=[long_text]).metrics
    assert metrics["perplexity"] == pytest.approx(tiny.VOCAB, rel=1e-5)
    size = len("\n".join(LONG_LINES))
    assert metrics["bits_per_byte"] == pytest.approx(metrics["tokens"] * math.log2(tiny.VOCAB) / size, rel=1e-5)
    assert metrics["nll_per_token"] == pytest.approx(math.log(tiny.VOCAB), rel=1e-5)
