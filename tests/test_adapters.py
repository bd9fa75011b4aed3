"""What trains on top of a pressed checkpoint: adapters of PEFT, and transformers' Trainer; and pruned bodies."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, Trainer, TrainingArguments

import tiny
from vocabpress import SVD, Budget, Uniform, compress

TARGETS = {"llama": ["q_proj", "v_proj"], "llama, untied": ["q_proj", "v_proj"], "bert": ["query", "value"]}
EMBEDDING = {"llama": "embed_tokens", "llama, untied": "embed_tokens", "bert": "word_embeddings"}


@pytest.fixture
def peft():
    return pytest.importorskip("peft", reason="adapters are PEFT's")


def pressed(name, folder, body=None, method=None):
    """A loader of a pressed checkpoint, afresh each time."""
    compress(
        tiny.save(name, folder / "in"), folder / "out", method=method or SVD("int8"), budget=Budget.ratio(4), body=body
    )
    return lambda: type(tiny.make(name)).from_pretrained(folder / "out")


def codes(model):
    return {key: value.clone() for key, value in model.state_dict().items() if value.dtype == torch.uint8}


def train(model, steps=12):
    """The losses."""
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser, ids = torch.optim.Adam(wanted, lr=2e-2), tiny.batch()
    model.train()
    losses = []
    for _ in range(steps):
        torch.manual_seed(0)  # the same dropout in each step
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
    model.eval()
    return losses


def adapted(peft, model, name, **more):
    return peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=TARGETS[name], **more))


@pytest.mark.parametrize("body", [None, "int8"])
@pytest.mark.parametrize("name", TARGETS)
def test_lora_trains_on_top_and_merges(name, body, tmp_path, peft):
    if body is not None:
        pytest.importorskip("torchao", reason="bodies in int8 are torchao's")
    fresh = pressed(name, tmp_path, body)
    base = fresh()
    before, kept = codes(base), dict(base.get_input_embeddings().table.state_dict())
    model = adapted(peft, base, name)
    losses = train(model)
    assert losses[-1] < losses[0]
    assert len(before) > 0
    assert all(torch.equal(codes(base)[key], value) for key, value in before.items())
    expected = tiny.logits(model, tiny.batch())
    model.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(fresh(), tmp_path / "adapter").eval()
    assert torch.equal(tiny.logits(again, tiny.batch()), expected)
    merged = again.merge_and_unload()
    after = tiny.logits(merged, tiny.batch())
    # A body in int8 is rounded again when an adapter is added to it.
    assert float((after - expected).norm() / expected.norm()) < (1e-6 if body is None else 1e-2)
    merged.save_pretrained(tmp_path / "merged")
    loaded, info = type(merged).from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert torch.equal(tiny.logits(loaded, tiny.batch()), after)
    assert all(torch.equal(value, kept[key]) for key, value in loaded.get_input_embeddings().table.state_dict().items())
    sizes = [(tmp_path / part / "model.safetensors").stat().st_size for part in ("out", "merged")]
    assert abs(sizes[0] - sizes[1]) < 1000  # the same tensors; headers differ


def test_a_trained_copy_of_the_table_merges_without_a_tie(tmp_path, peft):
    name = "llama, untied"
    fresh = pressed(name, tmp_path)
    model = adapted(peft, fresh(), name, modules_to_save=[EMBEDDING[name]])
    train(model)
    expected = tiny.logits(model, tiny.batch())
    model.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(fresh(), tmp_path / "adapter").eval()
    assert torch.equal(tiny.logits(again, tiny.batch()), expected)
    merged = again.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    loaded = type(merged).from_pretrained(tmp_path / "merged")
    assert not torch.equal(tiny.logits(loaded, tiny.batch()), tiny.logits(fresh(), tiny.batch()))
    off = float((tiny.logits(loaded, tiny.batch()) - expected).norm() / expected.norm())
    assert off < 1e-2  # float16 on disk


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_a_trained_copy_of_the_table_is_refused_beside_a_tied_head(name, tmp_path, peft):
    model = adapted(peft, pressed(name, tmp_path)(), name, modules_to_save=[EMBEDDING[name]])
    train(model, 2)
    with pytest.raises(ValueError, match="tied to a table that is no longer in the model") as error:
        model.merge_and_unload().save_pretrained(tmp_path / "merged")
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "merged").glob("*.safetensors"))


def test_adapters_of_the_embedding_itself_are_refused_by_peft(tmp_path, peft):
    fresh = pressed("llama", tmp_path)
    with pytest.raises(ValueError, match="Target module TokenEmbedding"):
        peft.get_peft_model(fresh(), peft.LoraConfig(target_modules=["embed_tokens"]))
    with pytest.warns(UserWarning, match="TokenEmbedding"):
        tokens = adapted(peft, fresh(), "llama", trainable_token_indices=[3, 5])
    with pytest.raises(ValueError, match="unknown layer type"):
        tokens(input_ids=tiny.batch())


def rows(count=8):
    ids = tiny.batch()
    return [{"input_ids": ids[place % 2], "labels": ids[place % 2]} for place in range(count)]


def settings(folder, steps=8):
    return TrainingArguments(
        folder, max_steps=steps, save_steps=steps, learning_rate=1e-2, per_device_train_batch_size=8, logging_steps=1,
        report_to="none", use_cpu=True, disable_tqdm=True,
    )  # fmt: skip


@pytest.mark.parametrize("method", [SVD("int8"), Uniform()])
@pytest.mark.parametrize("name", ["llama", "bert"])
def test_trainer_trains_the_continuous_parts(name, method, tmp_path):
    pytest.importorskip("accelerate", reason="transformers' Trainer needs it")
    model = pressed(name, tmp_path, method=method)()
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(".table." in key)
    before, after = dict(model.state_dict()), model.state_dict()
    before = {key: value.clone() for key, value in before.items()}
    trainer = Trainer(model, settings(tmp_path / "run"), train_dataset=rows())
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
    changed = {key for key, value in after.items() if not torch.equal(value, before[key])}
    trained = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert changed == trained
    assert trained
    loaded = type(model).from_pretrained(tmp_path / "run" / "checkpoint-8")
    expected = tiny.logits(model.eval(), tiny.batch())
    off = float((tiny.logits(loaded, tiny.batch()) - expected).norm() / expected.norm())
    assert off < 1e-2  # float16 on disk
    for key, parameter in loaded.named_parameters():
        parameter.requires_grad_(".table." in key)
    resumed = Trainer(loaded, settings(tmp_path / "run", 10), train_dataset=rows())
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-8"))
    assert resumed.state.global_step == 10


def test_trainer_wants_adapters_on_a_quantised_body(tmp_path):
    pytest.importorskip("torchao", reason="bodies in int8 are torchao's")
    pytest.importorskip("accelerate", reason="transformers' Trainer needs it")
    model = pressed("llama", tmp_path, "int8")()
    with pytest.raises(ValueError, match="purely quantized"):
        Trainer(model, settings(tmp_path / "run"), train_dataset=rows())


def test_a_pruned_body_is_just_a_body(tmp_path):
    model = tiny.make("bert")
    del model.bert.encoder.layer[1:]
    model.config.num_hidden_layers = 1
    model.save_pretrained(tmp_path / "pruned")
    tiny.save("bert", tmp_path / "whole")
    for file in (tmp_path / "whole").glob("tokenizer*"):
        file.rename(tmp_path / "pruned" / file.name)
    compress(
        tmp_path / "pruned",
        tmp_path / "out",
        method=Uniform(),
        budget=Budget.ratio(4),
        calibration="uniform",
        measure=False,
    )
    loaded, info = AutoModelForMaskedLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert (info["missing_keys"], info["unexpected_keys"]) == (set(), set())
    assert len(loaded.bert.encoder.layer) == 1
    source, pruned = (
        load_file(tmp_path / "pruned" / "model.safetensors"),
        load_file(tmp_path / "out" / "model.safetensors"),
    )
    body = [key for key in source if "encoder.layer" in key]
    assert body
    assert all(torch.equal(source[key], pruned[key]) for key in body)
    del loaded.bert.encoder.layer[:]  # a pressed one can be cut as well
    loaded.config.num_hidden_layers = 0
    expected = tiny.logits(loaded, tiny.batch())
    loaded.save_pretrained(tmp_path / "cut")
    cut = AutoModelForMaskedLM.from_pretrained(tmp_path / "cut")
    assert torch.equal(tiny.logits(cut, tiny.batch()), expected)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    off = (tiny.logits(loaded, tiny.batch()) - tiny.logits(model, tiny.batch())).norm()
    assert float(off / tiny.logits(model, tiny.batch()).norm()) < 0.05
