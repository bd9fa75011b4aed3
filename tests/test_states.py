"""State dicts: a saved file restores a model, by every way that libraries load one; exchanged modules are saved."""

import copy
import json
import warnings

import pytest
import torch
from safetensors.torch import load_file, load_model, save_file
from torch import nn
from transformers import AutoModel, BertModel, LlamaForCausalLM, Trainer, TrainingArguments

import tiny
from cases import FORMS
from test_hf import METHODS, QUIET, compressed
from vocabpress import SVD, Budget, Uniform, VocabpressConfig
from vocabpress.hf.compress import compress_model
from vocabpress.hf.modules import TokenEmbedding
from vocabpress.hf.request import Request
from vocabpress.hf.states import SIGN, anchor, with_stored


class Model(nn.Module):
    def __init__(self, table):
        super().__init__()
        self.words = TokenEmbedding(table, nn.Embedding(table.num_embeddings, table.embedding_dim))


def other_numbers(form):
    other = copy.deepcopy(form)
    for parameter in other.parameters():
        parameter.data.mul_(0.5)
    for name, buffer in other.named_buffers():
        if not name.endswith("block_of"):
            buffer.copy_(buffer.flip(0))
    return other


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("name", FORMS)
def test_every_form_takes_its_tensors_by_either_names(name, assign):
    table = FORMS[name]()
    model, other = Model(table), Model(other_numbers(table))
    expected = other.words.table.dense().detach().clone()
    assert name.startswith("dense") or not torch.equal(model.words.table.dense(), expected)
    for state in (with_stored(other.state_dict(), {"words": other.words.table}), other.state_dict()):
        fresh = Model(FORMS[name]())
        assert str(fresh.load_state_dict(state, assign=assign)) == "<All keys matched successfully>"
        assert torch.equal(fresh.words.table.float().dense(), expected)


def test_files_name_the_way_to_read_them():
    table = FORMS["low rank"]()
    stored = with_stored(Model(table).state_dict(), {"words": table})
    assert stored["words.weight"].shape == (53, 3)
    assert {"words.import vocabpress", "words.table.bias"} <= stored.keys()
    assert stored[f"words.{SIGN}"].nbytes == 0
    assert f"words.table.{anchor(table)}" not in stored


def test_a_dense_table_does_not_fit_a_compressed_one():
    model = Model(FORMS["low rank"]())
    for strict in (True, False):
        with pytest.raises(RuntimeError, match=r"words.weight is a dense table, and this model's is compressed"):
            model.load_state_dict({"words.weight": torch.zeros(53, 12)}, strict=strict)


@pytest.fixture(params=METHODS)
def two(request, tmp_path):
    """A compressed causal model in a file, and what is to take its numbers: the same layout, other numbers."""
    model = compressed("llama", request.param)
    model.save_pretrained(tmp_path / "file")
    fresh = type(model).from_pretrained(tmp_path / "file")
    for parameter in fresh.parameters():
        parameter.data.mul_(0.3)
    for name, buffer in fresh.named_buffers():
        if name.endswith("codes"):
            buffer.copy_(buffer.flip(0))
    saved = type(model).from_pretrained(tmp_path / "file")
    assert not torch.allclose(tiny.logits(fresh, tiny.batch()), tiny.logits(saved, tiny.batch()))
    return fresh.eval(), saved.eval(), tmp_path / "file" / "model.safetensors"


def by_load_state_dict(fresh, saved, file, folder):
    found = fresh.load_state_dict(load_file(file), strict=False)
    # What a tied head reads has no key of its own, in a dense model's file either.
    assert set(found.missing_keys) | set(found.unexpected_keys) <= {"lm_head.weight"}


def by_torch_load(fresh, saved, file, folder):
    torch.save(saved.state_dict(), folder / "state.pt")
    fresh.load_state_dict(torch.load(folder / "state.pt", weights_only=True))


def by_safetensors(fresh, saved, file, folder):
    assert load_model(fresh, file) == (set(), [])


def by_accelerate(fresh, saved, file, folder):
    accelerate = pytest.importorskip("accelerate", reason="accelerate is in the `train` extra")
    accelerator = accelerate.Accelerator(cpu=True)
    accelerator.prepare(saved)
    accelerator.save_state(folder / "state")
    accelerator._models.clear()
    accelerator.prepare(fresh)
    accelerator.load_state(folder / "state")


def by_accelerate_from_the_file(fresh, saved, file, folder):
    accelerate = pytest.importorskip("accelerate", reason="accelerate is in the `train` extra")
    accelerate.load_checkpoint_in_model(fresh, str(file))


@pytest.mark.parametrize(
    "way", [by_load_state_dict, by_torch_load, by_safetensors, by_accelerate, by_accelerate_from_the_file]
)
def test_a_saved_state_restores_everything(two, way, tmp_path):
    fresh, saved, file = two
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        way(fresh, saved, file, tmp_path)
    assert torch.equal(tiny.logits(fresh, tiny.batch()), tiny.logits(saved, tiny.batch()))


def test_a_model_is_made_of_a_config_and_a_state(two):
    _, saved, file = two
    for state in (saved.state_dict(), load_file(file)):
        made, info = type(saved).from_pretrained(None, config=saved.config, state_dict=state, output_loading_info=True)
        assert info == QUIET
        assert torch.equal(tiny.logits(made.eval(), tiny.batch()), tiny.logits(saved, tiny.batch()))
    assert made.hf_quantizer.quantization_config is not saved.hf_quantizer.quantization_config


def test_a_config_given_at_load_serves_again(tmp_path):
    tiny.make("llama").save_pretrained(tmp_path)
    config = VocabpressConfig(SVD(), Budget.ratio(4))
    for _ in range(2):
        model = LlamaForCausalLM.from_pretrained(tmp_path, quantization_config=config)
        assert isinstance(model.get_input_embeddings(), TokenEmbedding)


@pytest.mark.parametrize("method", [SVD(), Uniform()])
def test_trainer_goes_back_to_the_best_model_and_resumes_a_fresh_one(method, tmp_path, caplog):
    pytest.importorskip("accelerate", reason="transformers' Trainer needs it")
    model = tiny.make("llama")
    compress_model(model, Request(method, Budget.ratio(4)))
    model.save_pretrained(tmp_path / "small")
    rows = [{"input_ids": ids, "labels": ids} for ids in torch.randint(2, 40, (16, 12))]
    others = [{"input_ids": ids, "labels": ids} for ids in torch.randint(100, 200, (16, 12))]
    common = {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "max_steps": 6}
    asked = TrainingArguments(
        tmp_path / "run", save_steps=2, eval_steps=2, eval_strategy="steps", learning_rate=3e-2, **common,
        load_best_model_at_end=True, metric_for_best_model="eval_loss",
    )  # fmt: skip
    trainer = Trainer(model, asked, train_dataset=rows, eval_dataset=others)
    trainer.train()
    best, last = trainer.state.best_model_checkpoint, tmp_path / "run" / "checkpoint-6"
    assert best != str(last)
    loaded = LlamaForCausalLM.from_pretrained(best)
    assert torch.equal(tiny.logits(model.eval(), tiny.batch()), tiny.logits(loaded, tiny.batch()))
    fresh = LlamaForCausalLM.from_pretrained(tmp_path / "small")
    still = TrainingArguments(tmp_path / "other", learning_rate=0.0, **common)
    Trainer(fresh, still, train_dataset=rows).train(resume_from_checkpoint=str(last))
    loaded = LlamaForCausalLM.from_pretrained(last)
    assert torch.equal(tiny.logits(fresh.eval(), tiny.batch()), tiny.logits(loaded, tiny.batch()))
    assert not [record for record in caplog.records if "keys" in record.getMessage()]


def encoder(folder):
    tiny.make("bert").base_model.save_pretrained(folder / "plain")
    return BertModel.from_pretrained(
        folder / "plain", quantization_config=VocabpressConfig(SVD("int8"), Budget.ratio(4))
    )


def test_an_ordinary_embedding_in_a_compressed_model_is_saved_as_that(tmp_path):
    model = encoder(tmp_path)
    old = model.get_input_embeddings()
    model.set_input_embeddings(nn.Embedding(tiny.VOCAB, 32))
    model.save_pretrained(tmp_path / "changed")
    assert "quantization_config" not in json.loads((tmp_path / "changed" / "config.json").read_text())
    loaded, info = BertModel.from_pretrained(tmp_path / "changed", output_loading_info=True)
    assert info == QUIET
    ids = tiny.batch()
    assert torch.equal(loaded(ids).last_hidden_state, model.eval()(ids).last_hidden_state)
    model.set_input_embeddings(old)  # and back
    model.save_pretrained(tmp_path / "back")
    again = AutoModel.from_pretrained(tmp_path / "back")
    assert isinstance(again.get_input_embeddings(), TokenEmbedding)
    assert torch.equal(again(ids).last_hidden_state, model(ids).last_hidden_state)


def test_the_embedding_of_another_compressed_model_is_saved(tmp_path):
    model, other = encoder(tmp_path), tiny.make("bert").base_model
    compress_model(other, Request(Uniform(), Budget.ratio(6)))
    model.set_input_embeddings(other.get_input_embeddings())
    model.save_pretrained(tmp_path / "changed")
    loaded = BertModel.from_pretrained(tmp_path / "changed")
    ids = tiny.batch()
    assert torch.equal(loaded(ids).last_hidden_state, model.eval()(ids).last_hidden_state)


def test_a_head_of_its_own_beside_a_compressed_embedding_is_saved(tmp_path):
    model = compressed("llama")
    head = nn.Linear(32, tiny.VOCAB, bias=False)
    model.set_output_embeddings(head)
    model.save_pretrained(tmp_path)
    loaded, info = LlamaForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert info == QUIET
    assert torch.equal(loaded.get_output_embeddings().weight, head.weight)
    assert torch.equal(tiny.logits(loaded, tiny.batch()), tiny.logits(model, tiny.batch()))


def test_an_exchanged_embedding_beside_a_tied_head_is_refused_in_a_line(tmp_path):
    model = compressed("llama")
    model.set_input_embeddings(nn.Embedding(tiny.VOCAB, 32))
    with pytest.raises(ValueError, match=r"lm_head is tied to a table that is no longer .* after model.dequantize\(\)"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))


def test_files_of_before_the_sign_load_without_a_warning(tmp_path):
    model = compressed("llama")
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors[f"model.embed_tokens.{SIGN}"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt", "vocabpress_format_version": "1"})
    _, info = LlamaForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert info == QUIET
