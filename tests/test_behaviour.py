"""What people do with a model, done with a compressed one: it behaves like the dense model with the decoded table."""

import copy
import json

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CompileConfig,
    LlamaConfig,
    LlamaModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

import tiny
from vocabpress import SVD, TCQ, Budget, FastScan, compress
from vocabpress.embeddings import Dense
from vocabpress.hf.compress import compress_model
from vocabpress.hf.modules import TiedHead, TokenEmbedding
from vocabpress.hf.request import Request

METHODS = {
    "gpt2": FastScan(rounds=1, beam=2),
    "llama": SVD("int8"),
    "llama, untied": TCQ(memory=8),
    "bert": FastScan(rounds=1, beam=2),
    "t5": TCQ(memory=8),
    "bart, scaled": SVD("int8"),
}
KINDS = [name for name in METHODS if name != "llama"]


def compressed(name):
    model = tiny.make(name)
    compress_model(model, Request(METHODS[name], Budget.ratio(4)))
    return model


def pair(name):
    """A compressed model, and the ordinary one with the decoded table."""
    model = compressed(name)
    return model, copy.deepcopy(model).dequantize()


def without_dropout(model):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.0
    return model.train()


def gradients(model):
    model.zero_grad()
    model(input_ids=tiny.batch(), labels=tiny.batch()).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("name", KINDS)
def test_gradient_checkpointing_changes_no_gradient(name):
    model = without_dropout(compressed(name))
    expected = gradients(model)
    assert any(".table." in key and bool(grad.any()) for key, grad in expected.items())
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    torch.testing.assert_close(gradients(model), expected)


def asked(**extra):
    ids = tiny.batch()
    return {"inputs": ids, "attention_mask": torch.ones_like(ids), "max_new_tokens": 6, "pad_token_id": 0} | extra


@pytest.mark.parametrize("name", [name for name in KINDS if name != "bert"])
def test_a_static_cache_and_beams_generate_what_the_dense_model_does(name):
    model, plain = pair(name)
    greedy = plain.generate(**asked(do_sample=False))
    assert torch.equal(model.generate(**asked(do_sample=False)), greedy)
    assert torch.equal(model.generate(**asked(do_sample=False, cache_implementation="static")), greedy)
    beams = asked(num_beams=3, num_return_sequences=3, return_dict_in_generate=True, output_scores=True)
    ours, dense = model.generate(**beams), plain.generate(**beams)
    assert torch.equal(ours.sequences, dense.sequences)
    torch.testing.assert_close(ours.sequences_scores, dense.sequences_scores)


@pytest.mark.slow
def test_static_cache_generation_compiles_without_a_break():
    model, graphs = compressed("llama"), []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    config = CompileConfig(fullgraph=True, backend=backend, mode=None)
    config._compile_all_devices = True  # transformers compiles on accelerators alone
    found = model.generate(**asked(do_sample=False, cache_implementation="static", compile_config=config))
    assert graphs
    assert torch.equal(found, model.generate(**asked(do_sample=False)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", KINDS)
def test_autocast_gives_the_dtypes_of_the_dense_model_and_is_near_float32(name, dtype):
    model, plain = pair(name)
    exact = tiny.logits(model, tiny.batch())
    with torch.autocast("cpu", dtype):
        found, dense = tiny.logits(model, tiny.batch()), tiny.logits(plain, tiny.batch())
        rows = model.get_input_embeddings()(tiny.batch())
    assert found.dtype == dense.dtype
    assert torch.equal(rows, model.get_input_embeddings()(tiny.batch()))  # a lookup is not rounded
    error = float((found.float() - exact).norm() / exact.norm())
    assert error < 8 * torch.finfo(dtype).eps  # not finite is not near


@pytest.mark.parametrize("name", KINDS)
def test_who_reads_the_weight_gets_the_dense_table_and_its_gradients(name):
    model, plain = pair(name)
    readers = [model.get_input_embeddings(), model.get_output_embeddings()]
    for reader, dense in zip(readers, [plain.get_input_embeddings(), plain.get_output_embeddings()], strict=True):
        assert reader.weight.shape == (tiny.VOCAB, 32)
        assert (reader.weight.dtype, reader.weight.device) == (model.dtype, model.device)
        torch.testing.assert_close(reader.weight.detach(), dense.weight.detach())
    embedding, direction = model.get_input_embeddings(), torch.randn(tiny.VOCAB, 32)
    found = torch.autograd.grad((embedding.weight * direction).sum(), list(embedding.table.parameters()))
    rows = embedding.table.lookup(torch.arange(tiny.VOCAB))
    expected = torch.autograd.grad((rows * direction).sum(), list(embedding.table.parameters()))
    torch.testing.assert_close(found, expected)
    assert all(bool(grad.any()) for grad in found)
    assert model.to(torch.bfloat16).get_input_embeddings().weight.dtype == torch.bfloat16
    with pytest.raises(KeyError, match="already exists"):  # it is a reading: no parameter can take its place
        embedding.weight = torch.nn.Parameter(direction)


def place(model, table, rest):
    """A device map that names every tensor's module."""
    owner = next(name for name, module in model.named_modules() if isinstance(module, TokenEmbedding))
    modules = {key.rpartition(".")[0] or key: rest for key in model.state_dict() if not key.startswith(f"{owner}.")}
    return modules | {owner: table}


@pytest.mark.parametrize("name", ["gpt2", "t5"])
@pytest.mark.parametrize(("table", "rest"), [("disk", "cpu"), ("cpu", "disk"), ("disk", "disk")])
def test_a_table_put_off_to_disk_or_apart_from_the_rest(table, rest, name, tmp_path):
    pytest.importorskip("accelerate", reason="device maps are accelerate's")
    model = compressed(name)
    model.save_pretrained(tmp_path / "a")
    where = place(model, table, rest)
    loaded, info = type(model).from_pretrained(
        tmp_path / "a", device_map=where, offload_folder=tmp_path / "off", output_loading_info=True
    )
    assert not any(info.values())
    assert any(parameter.is_meta for parameter in loaded.parameters()) == (rest == "disk")
    assert torch.equal(tiny.logits(loaded, tiny.batch()), tiny.logits(model, tiny.batch()))
    loaded.save_pretrained(tmp_path / "b")
    again = type(model).from_pretrained(tmp_path / "b", device_map="auto")
    assert torch.equal(tiny.logits(again, tiny.batch()), tiny.logits(model, tiny.batch()))


def test_all_on_disk_with_a_bias_that_is_tied(tmp_path):
    """The bias of BERT's head is tied, and tying looks at the head's weight before the table is there."""
    pytest.importorskip("accelerate", reason="device maps are accelerate's")
    model = compressed("bert")
    model.save_pretrained(tmp_path / "a")
    loaded, info = type(model).from_pretrained(
        tmp_path / "a", device_map={"": "disk"}, offload_folder=tmp_path / "off", output_loading_info=True
    )
    assert not any(info.values())
    assert torch.equal(tiny.logits(loaded, tiny.batch()), tiny.logits(model, tiny.batch()))


class Table(Dense):
    """Rows by `embedding`: an index would ask for the real device."""

    def lookup(self, ids):
        return torch.nn.functional.embedding(ids, self.rows)


def test_a_table_on_another_device_than_its_readers():
    """Devices that are not here are played by torch's fake tensors, which refuse to mix as the real ones do."""
    with FakeTensorMode(), torch.no_grad():
        with torch.device("cuda:0"):
            table = Table(tiny.VOCAB, 32)
        head, further = TiedHead(table), TokenEmbedding(table, torch.nn.Embedding(tiny.VOCAB, 32), owner=False)
        second = torch.device("cuda:1")
        hidden, ids = torch.empty(2, 9, 32, device=second), torch.zeros(2, 9, dtype=torch.long, device=second)
        with pytest.raises(RuntimeError, match="devices"):
            table.logits(hidden)
        assert (head(hidden).device, head(hidden).shape) == (second, (2, 9, tiny.VOCAB))
        assert (further(ids).device, further(ids).shape) == (second, (2, 9, 32))
        assert table.device == torch.device("cuda:0")


SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
IMAGES = {"image_size": 16, "patch_size": 8}


@pytest.mark.parametrize("part", [CLIPTextModel, CLIPTextModelWithProjection])
def test_the_text_part_of_a_compressed_whole_loads_by_its_own_class(part, tmp_path):
    tokens = {"vocab_size": tiny.VOCAB, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    text = SMALL | tokens | {"projection_dim": 16}
    whole = CLIPModel(CLIPConfig(text_config=text, vision_config=SMALL | IMAGES, projection_dim=16)).eval()
    whole.save_pretrained(tmp_path / "source")
    compress(tmp_path / "source", tmp_path / "out", method=SVD(), budget=Budget.ratio(3), measure=False)
    loaded = CLIPModel.from_pretrained(tmp_path / "out")
    expected = loaded.text_model(tiny.batch()).last_hidden_state
    for place in ("out", "again"):
        alone, info = part.from_pretrained(tmp_path / place, output_loading_info=True)
        assert not info["missing_keys"]
        assert isinstance(alone.get_input_embeddings(), TokenEmbedding)
        assert torch.equal(alone(tiny.batch()).last_hidden_state, expected)
        alone.save_pretrained(tmp_path / "again")
    plain = loaded.dequantize()
    plain.save_pretrained(tmp_path / "plain")
    config = json.loads((tmp_path / "plain" / "config.json").read_text())
    assert "quantization_config" not in config
    assert "quantization_config" not in config["text_config"]


def test_a_part_whose_table_has_another_name_in_the_checkpoint_is_refused(tmp_path):
    """Transformers finds none of the keys either; of a dense checkpoint it would make a random model."""
    text, images = LlamaConfig(**SMALL, vocab_size=tiny.VOCAB), CLIPVisionConfig(**SMALL, **IMAGES)
    whole = LlavaForConditionalGeneration(LlavaConfig(text_config=text, vision_config=images))
    whole.save_pretrained(tmp_path / "source")
    compress(tmp_path / "source", tmp_path / "out", method=SVD(), budget=Budget.ratio(3), measure=False)
    with pytest.raises(ValueError, match="no numbers for embed_tokens of LlamaModel under a name that fits"):
        LlamaModel.from_pretrained(tmp_path / "out")
