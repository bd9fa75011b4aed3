"""The weight of a compressed embedding: frozen, cast and looked at as a dense one; never written to unseen."""

import pytest
import torch
from torch import nn

import tiny
from test_hf import compressed
from vocabpress.hf.dense_weight import WeightReading


@pytest.fixture
def model():
    return compressed("llama", "fastscan")


@pytest.fixture
def weight(model):
    return model.get_input_embeddings().weight


def trained(model):
    return {parameter.requires_grad for parameter in model.get_input_embeddings().table.parameters()}


def test_an_embedding_is_frozen_by_its_weight(model):
    embedding = model.get_input_embeddings()
    assert embedding.weight.requires_grad
    embedding.weight.requires_grad = False
    assert trained(model) == {False}
    assert not embedding.weight.requires_grad
    embedding.weight.requires_grad_(True)
    assert trained(model) == {True}
    model.get_output_embeddings().weight.requires_grad_(False)  # tied: the same numbers
    assert trained(model) == {False}


WRITES = {
    "an item": lambda w: w.__setitem__(3, 0.0),
    "items": lambda w: w.__setitem__((slice(3, 5), 0), 1.0),
    "data": lambda w: w.data.__setitem__(3, 0.0),
    "all data": lambda w: setattr(w, "data", torch.zeros(tiny.VOCAB, 32)),
    "a row": lambda w: w[3].zero_(),
    "copy": lambda w: w.copy_(torch.zeros(tiny.VOCAB, 32)),
    "detached": lambda w: w.detach().mul_(2),
    "a view": lambda w: w.view(-1)[5:9].fill_(1),
    "augmented": lambda w: w.detach().__iadd__(1),
    "init": lambda w: nn.init.normal_(w),
    "out": lambda w: torch.zeros(tiny.VOCAB, 32, out=w),
    "foreach": lambda w: torch._foreach_mul_([w.detach()], 2.0),
    "scatter": lambda w: w.index_fill_(0, torch.tensor([1]), 0.0),
    "split": lambda w: w.split(100)[1].zero_(),
    "numpy": lambda w: w.detach().numpy().__setitem__(3, 0.0),
}


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("way", WRITES)
def test_no_write_is_lost_unseen(way, grad, model):
    with torch.set_grad_enabled(grad):
        before = model.get_input_embeddings().weight.detach().clone()
        expected = "read-only" if way == "numpy" else "is a reading, and what is written to it would be lost"
        with pytest.raises(ValueError, match=expected) as error:
            WRITES[way](model.get_input_embeddings().weight)
        assert "\n" not in str(error.value)
        assert torch.equal(model.get_input_embeddings().weight, before)


def test_what_is_computed_of_a_weight_is_ordinary(weight, model):
    assert isinstance(weight, WeightReading)
    assert type(weight.detach()[3:5]) is WeightReading
    for made in (weight.clone(), weight + 1, weight.mean(0), weight @ torch.randn(32, 3), weight.to(torch.float64)):
        assert type(made) is torch.Tensor
    copied = weight.detach().clone()
    copied[3] = 0
    torch.nn.functional.linear(torch.randn(2, 32), weight).sum().backward()
    assert all(parameter.grad is not None for parameter in model.get_input_embeddings().table.parameters())
    assert not isinstance(weight, nn.Parameter)


def test_none_takes_the_place_of_a_weight(model):
    for other in (torch.zeros(tiny.VOCAB, 32), nn.Parameter(torch.zeros(tiny.VOCAB, 32))):
        with pytest.raises(KeyError, match="already exists: it is a reading"):
            model.get_input_embeddings().weight = other


def test_a_model_is_cast_as_a_dense_one(model):
    for cast, dtype in ((model.half, torch.float16), (model.float, torch.float32), (model.bfloat16, torch.bfloat16)):
        assert cast() is model
        assert model.dtype == dtype
        assert model.get_input_embeddings().table.dense().dtype == dtype
        assert tiny.logits(model, tiny.batch()).dtype == dtype
    plain = model.dequantize()
    plain.float()
    assert plain.dtype == torch.float32
    assert "half" not in vars(plain)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("init", ["RANDOM", "SAMPLE_VOCAB"])
@pytest.mark.parametrize("method", ["svd", "tcq"])
def test_prompts_are_tuned_on_a_compressed_model(name, init, method):
    peft = pytest.importorskip("peft", reason="prompt tuning is PEFT's")
    model = compressed(name, method)
    config = peft.PromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=4, prompt_tuning_init=init, token_dim=32, num_layers=2,
        num_attention_heads=2, num_transformer_submodules=1,
    )  # fmt: skip
    tuned = peft.get_peft_model(model, config)
    assert tuned.word_embeddings is model.get_input_embeddings()
    ids = tiny.batch()
    tuned(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss.backward()
    assert any(parameter.grad is not None for parameter in tuned.prompt_encoder.parameters())
