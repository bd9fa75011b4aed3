"""What two models have in common, against one line after another."""

import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM

import tiny
from measuring import LINES, measured


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5"])
def test_a_model_agrees_with_itself(name, tmp_path, text):
    folder = tiny.save(name, tmp_path / "model")
    metrics = measured("agreement", folder, folder, text=[text]).metrics
    assert metrics["hidden_cosine"] == pytest.approx(1)
    assert metrics["tokens"] == sum(len(line.split()) for line in LINES)
    if name == "t5":  # the encoder alone is compared
        assert "kl" not in metrics
    else:
        assert (metrics["kl"], metrics["top1_agreement"]) == (0, 1)


@pytest.mark.parametrize("batch_size", [1, 16])
def test_agreement_is_that_of_single_lines(source, small, text, batch_size):
    folder, _ = small
    found = measured(
        "agreement", folder, source, {"batch_size": batch_size, "subset": 12, "max_length": 6}, text=[text]
    )
    models = [AutoModelForMaskedLM.from_pretrained(place).eval() for place in (source, folder)]
    cosines, divergences, agreed = [], [], []
    for line in LINES[:12]:
        ids = torch.tensor([[int(word[1:]) for word in line.split()][:6]])
        with torch.no_grad():
            out = [model(ids, output_hidden_states=True) for model in models]
        hidden = [each.hidden_states[-1][0] for each in out]
        logs = [each.logits[0].log_softmax(-1) for each in out]
        cosines += torch.nn.functional.cosine_similarity(*hidden, dim=-1).tolist()
        divergences += torch.nn.functional.kl_div(logs[1], logs[0], log_target=True, reduction="none").sum(-1).tolist()
        agreed += (logs[0].argmax(-1) == logs[1].argmax(-1)).float().tolist()
    assert found.metrics["tokens"] == len(cosines)
    assert found.metrics["hidden_cosine"] == pytest.approx(sum(cosines) / len(cosines), rel=1e-4)
    assert found.metrics["kl"] == pytest.approx(sum(divergences) / len(cosines), rel=1e-3)
    assert found.metrics["top1_agreement"] == pytest.approx(sum(agreed) / len(cosines))
    assert 0 < found.metrics["hidden_cosine"] < 1


def test_a_base_model_agrees_by_its_hidden_states(source, tmp_path, text):
    AutoModel.from_pretrained(source).save_pretrained(tmp_path / "base")
    for file in source.glob("tokenizer*"):
        (tmp_path / "base" / file.name).write_bytes(file.read_bytes())
    metrics = measured("agreement", tmp_path / "base", source, text=[text]).metrics
    assert metrics.keys() == {"hidden_cosine", "tokens"}
    assert metrics["hidden_cosine"] == pytest.approx(1)
