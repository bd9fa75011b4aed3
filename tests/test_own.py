"""Text that a causal language model writes to be calibrated on."""

import pytest
import torch

import tiny
from vocabpress.calibrate import calibrate, own
from vocabpress.calibrate.own import own_text, writes

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save("llama", tmp_path_factory.mktemp("own") / "llama")


def test_it_writes_lines_that_follow_the_seed_alone(folder, monkeypatch):
    monkeypatch.setattr(own, "LENGTH", 10)
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    first, other = (own_text(folder, 40, seed, CPU, False) for seed in (0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert len(first) == 4
    assert all(len(line.split()) <= 10 for line in first)
    assert first != other
    torch.manual_seed(8)
    assert own_text(folder, 40, 0, CPU, False) == first


def test_a_model_too_large_to_wait_for_writes_nothing(folder, monkeypatch):
    monkeypatch.setattr(own, "MOST_PARAMETERS", 10)
    assert own_text(folder, 40, 0, CPU, False) == []


def test_without_text_a_causal_model_is_calibrated_on_its_own(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(own, "TOKENS", 60)
    monkeypatch.setattr(own, "LENGTH", 20)
    found = calibrate(folder, metric=True)
    assert (found.source, found.exponent, found.metric_strength, found.metric_head) == ("predictions", 0.5, 1.0, True)
    assert found.metric_tokens <= 60  # the tiny tokenizer knows no language of the Declaration
    assert float(found.predicted.sum()) == pytest.approx(1)
    assert not writes(tiny.save("bert", tmp_path / "bert"))


def test_a_model_of_nan_is_an_error_of_one_line(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(own, "LENGTH", 10)
    model = tiny.make("llama")
    model.lm_head.weight.data.fill_(torch.nan)
    tiny.save("llama", tmp_path / "nan")
    model.save_pretrained(tmp_path / "nan")
    with pytest.raises(ValueError, match="can't write text to calibrate on"):
        own_text(tmp_path / "nan", 20, 0, CPU, False)
