"""Added tokens: exact rows after the compressed ones, in every reader of the table."""

import pytest
import torch
from transformers import AutoConfig

import tiny
from vocabpress import SVD, Budget
from vocabpress.hf.compress import compress_model
from vocabpress.hf.request import Request

ADDED = 5


def compressed(name, dtype=torch.float32):
    model = tiny.make(name, dtype)
    compress_model(model, Request(SVD(), Budget.ratio(3)))
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", tiny.MODELS)
def test_added_rows_are_exact_and_the_others_stay(name, dtype, tmp_path):
    model, ids = compressed(name, dtype), tiny.batch()
    before = tiny.logits(model, ids)
    found = model.resize_token_embeddings(tiny.VOCAB + ADDED)
    assert found is model.get_input_embeddings()
    assert found.num_embeddings == model.config.get_text_config().vocab_size == tiny.VOCAB + ADDED
    after = tiny.logits(model, ids)
    assert after.shape[-1] == tiny.VOCAB + ADDED
    torch.testing.assert_close(after[..., : tiny.VOCAB], before)

    rows = torch.randn(ADDED, found.embedding_dim, generator=torch.Generator().manual_seed(2)).to(dtype)
    found.table.blocks[-1].rows.data.copy_(rows)
    torch.testing.assert_close(found.weight[tiny.VOCAB :], rows, rtol=0, atol=0)
    new = torch.cat([ids, torch.full((len(ids), 1), tiny.VOCAB + 1)], 1)
    expected = tiny.logits(model, new)
    model.save_pretrained(tmp_path / "grown")
    loaded, info = type(model).from_pretrained(tmp_path / "grown", dtype=dtype, output_loading_info=True)
    assert not any(info.values())
    # BART's buffer of biases is float32 in the model that was made here, and of the model's dtype after a load.
    torch.testing.assert_close(tiny.logits(loaded.eval(), new), expected, rtol=0, atol=0, check_dtype=False)
    assert AutoConfig.from_pretrained(tmp_path / "grown").get_text_config().vocab_size == tiny.VOCAB + ADDED


@pytest.mark.parametrize("name", ["gpt2", "bert", "bart, scaled"])
def test_growing_twice_by_a_multiple_after_a_reload(name, tmp_path):
    compressed(name).save_pretrained(tmp_path / "small")
    model = type(tiny.make(name)).from_pretrained(tmp_path / "small").eval()
    before = tiny.logits(model, tiny.batch())
    assert model.resize_token_embeddings(tiny.VOCAB + 1).num_embeddings == tiny.VOCAB + 1
    assert model.resize_token_embeddings(pad_to_multiple_of=64).num_embeddings == 256
    assert model.resize_token_embeddings().num_embeddings == 256
    torch.testing.assert_close(tiny.logits(model, tiny.batch())[..., : tiny.VOCAB], before)


def test_added_rows_train_and_start_as_the_mean():
    model = compressed("gpt2")
    mean = model.get_input_embeddings().weight.detach().mean(0)
    added = model.resize_token_embeddings(tiny.VOCAB + 2).table.blocks[-1].rows
    torch.testing.assert_close(added.detach(), mean.expand(2, -1))
    ids = torch.tensor([[3, tiny.VOCAB, 4]])
    model(input_ids=ids, labels=ids).loss.backward()
    assert added.grad[0].abs().sum() > 0


def test_an_ordinary_model_again_resizes_as_ever():
    model = compressed("bert")
    model.resize_token_embeddings(tiny.VOCAB + 2)
    before = tiny.logits(model, tiny.batch())
    model.dequantize()
    torch.testing.assert_close(tiny.logits(model, tiny.batch()), before)
    assert isinstance(model.resize_token_embeddings(tiny.VOCAB), torch.nn.Embedding)


def test_tokens_are_not_taken_away():
    with pytest.raises(ValueError, match=r"of 211 tokens can't shrink to 200; trim the original"):
        compressed("gpt2").resize_token_embeddings(200)
