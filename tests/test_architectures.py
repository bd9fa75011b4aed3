"""Architectures of transformers, tiny: a representative few here, every one of them in `make test-slow`."""

import json
import sys
from pathlib import Path

import pytest
import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    CLIPConfig,
    CLIPModel,
    CLIPTextModel,
    CLIPVisionModel,
    SpeechT5Config,
    SpeechT5ForSpeechToText,
    SpeechT5Model,
    T5ForConditionalGeneration,
)
from transformers.models.idefics.modeling_idefics import IdeficsDecoupledEmbedding
from transformers.models.inkling.modeling_inkling import InklingNormedEmbedding
from transformers.models.t5gemma2.modeling_t5gemma2 import T5Gemma2TextScaledWordEmbedding

import tiny
from command import run
from vocabpress import SVD, Budget, compress, find_tables
from vocabpress.hf.compress import compress_model
from vocabpress.hf.modules import TokenEmbedding
from vocabpress.hf.request import Request
from vocabpress.results import read_results

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))

from conformance import check as checks  # noqa: E402
from conformance.catalogue import architecture, model_types  # noqa: E402
from conformance.shrink import VOCAB, tiny_config  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "architectures.json"
SOME = (
    "albert",  # factorised
    "opt",  # projections around the table
    "bart",  # shared, scaled
    "t5gemma2",  # scaled, with a row of its own for the end of an image
    "gemma3n_text",  # scaled, a table for every layer besides
    "idefics",  # more tokens than the table has rows
    "inkling_text",  # normed
    "clip",  # does not say which embedding is its input
    "whisper",  # hears
    "llama4_text",  # its base model stands under another prefix
    "molmo2_text",  # stored in two pieces
    "xlstm",  # recurrent
    "luke",  # has ties, none of them to the table
    "chinese_clip_text_model",  # its class writes to rows of padding while it loads
    "rwkv",  # divides weights in a forward pass
)


@pytest.mark.parametrize("model_type", SOME)
def test_an_architecture_from_end_to_end(model_type):
    record = checks.check(model_type, turn=SOME.index(model_type))
    assert (record.outcome, record.cause) == ("works", "")
    assert record.whole in ("works", "no maps")
    assert record.compared != "rows" or model_type == "idefics"  # which wants an image for its text
    assert ("factorised" in record.kinds) == (model_type in ("albert", "opt"))
    assert len(record.methods) == 2 * len(record.ties)


@pytest.mark.parametrize("model_type", ["vit", "resnet", "encodec"])
def test_models_without_a_token_table_are_refused_in_a_line(model_type):
    record = checks.check(model_type)
    assert record.outcome == "no table"
    assert "has no token table to compress" in record.cause
    assert "\n" not in record.cause


def test_every_architecture_has_a_result():
    rows = {row.variant: row for row in read_results(RESULTS)}
    if transformers.__version__ != next(iter(rows.values())).environment["versions"]["transformers"]:
        pytest.skip("the results are of another version of transformers")
    assert rows.keys() == set(model_types())
    for name, row in rows.items():
        outcome, cause = row.details["outcome"], row.details["cause"]
        assert outcome in ("works", "fails", "not built", "no table", "part")
        assert (outcome == "works") == (cause == ""), name


@pytest.mark.slow
@pytest.mark.parametrize("row", read_results(RESULTS), ids=lambda row: row.variant)
def test_all_that_worked_works(row):
    if row.variant not in model_types():
        pytest.skip("not in this version of transformers")
    assert checks.check(row.variant).outcome == row.details["outcome"]


def test_what_can_not_be_built_is_told_with_its_cause(monkeypatch):
    monkeypatch.setattr(checks, "tiny_config", lambda _: 1 / 0)
    record = checks.check("bert")
    assert (record.outcome, record.cause) == ("not built", "division by zero")


def test_a_difference_is_found(monkeypatch):
    """The comparison is not vacuous: a lookup that is off by a little fails it."""
    lookup = TokenEmbedding.forward
    monkeypatch.setattr(TokenEmbedding, "forward", lambda self, ids: lookup(self, ids) * 1.01)
    record = checks.check("bert", quick=True)
    assert record.outcome == "fails"
    assert "off those with the dense table" in record.cause


def test_tiny_models_are_tiny():
    config = tiny_config(architecture("llama").config_class)
    assert (config.vocab_size, config.hidden_size, config.num_hidden_layers) == (VOCAB, 32, 2)
    nested = tiny_config(architecture("llava").config_class)
    assert nested.text_config.vocab_size == VOCAB
    assert nested.image_token_id < VOCAB


def compressed(model):
    return compress_model(model, Request(SVD("int8"), Budget.ratio(4))).table


@pytest.mark.parametrize(
    ("make", "ids"),
    [
        (lambda: IdeficsDecoupledEmbedding(50, 3, 16), [0, 49, 50, 52, 7]),
        (lambda: InklingNormedEmbedding(50, 16, 0, 1e-6), [0, 49, 7]),
        (lambda: T5Gemma2TextScaledWordEmbedding(50, 16, 0, 4.0, eoi_token_index=7), [0, 49, 7]),
    ],
    ids=["idefics", "inkling", "t5gemma2"],
)
def test_embeddings_that_add_to_the_lookup_give_the_same(make, ids):
    original = make()
    for parameter in original.parameters():
        parameter.data.normal_()
    table = SVD().fit(original.weight.detach(), budget=Budget.ratio(2))
    ours = TokenEmbedding(table, original)
    original.weight.data.copy_(table.dense())
    torch.testing.assert_close(ours(torch.tensor([ids])), original(torch.tensor([ids])))
    stored = {name for name in ours.state_dict() if not name.startswith("table.")}
    assert stored == {name for name in original.state_dict() if name != "weight"}


def test_a_head_of_t5_that_stands_apart_stays_apart(tmp_path):
    """As in T5 1.1 and mT5, whose config ties the head whatever it is told."""
    model = tiny.make("t5")
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    model.config.tie_word_embeddings = False
    model.save_pretrained(tmp_path / "source")
    compress(tmp_path / "source", tmp_path / "out", method=SVD("int8"), budget=Budget.ratio(6), measure=False)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["separate"] == ["lm_head"]
    loaded, info = T5ForConditionalGeneration.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values())
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
    assert loaded.encoder.embed_tokens.table is loaded.decoder.embed_tokens.table
    expected = tiny.logits(loaded, tiny.batch())
    loaded.save_pretrained(tmp_path / "again")
    again = T5ForConditionalGeneration.from_pretrained(tmp_path / "again")
    assert torch.equal(tiny.logits(again, tiny.batch()), expected)
    plain = again.dequantize()
    assert torch.equal(plain.lm_head.weight, model.lm_head.weight)
    assert plain.encoder.embed_tokens.weight is plain.shared.weight
    torch.testing.assert_close(tiny.logits(plain, tiny.batch()), expected)


def test_parts_of_a_model_from_the_checkpoint_of_the_whole(tmp_path):
    model = CLIPModel(tiny_config(CLIPConfig)).eval()
    assert find_tables(model)[0].name == "text_model.embeddings.token_embedding"
    compressed(model)
    model.save_pretrained(tmp_path)
    text, ids = CLIPTextModel.from_pretrained(tmp_path), torch.randint(3, 160, (2, 8))
    assert isinstance(text.get_input_embeddings(), TokenEmbedding)
    assert torch.equal(text(ids).last_hidden_state, model.text_model(ids).last_hidden_state)
    vision = CLIPVisionModel.from_pretrained(tmp_path)
    pixels = torch.randn(1, 3, 224, 224)
    assert torch.equal(vision(pixels).last_hidden_state, model.vision_model(pixels).last_hidden_state)


def test_a_base_model_without_the_table_loads_without_it(tmp_path):
    model = SpeechT5ForSpeechToText(tiny_config(SpeechT5Config)).eval()
    compressed(model)
    model.save_pretrained(tmp_path)
    base = SpeechT5Model.from_pretrained(tmp_path)
    assert not any(isinstance(module, TokenEmbedding) for module in base.modules())


def test_several_tables_of_which_none_is_the_input_are_refused():
    record = checks.check("clvp")
    assert record.outcome == "fails"
    assert "has several token tables" in record.cause


CODE = """
from transformers import LlamaConfig, LlamaForCausalLM


class OwnConfig(LlamaConfig):
    model_type = "own-llama"


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


def test_code_beside_the_weights_runs_only_if_asked_for(tmp_path, monkeypatch, capsys):
    source = tmp_path / "source"
    tiny.make("llama").save_pretrained(source)
    (source / "modeling_own.py").write_text(CODE, encoding="utf-8")
    config = json.loads((source / "config.json").read_text())
    classes = {"AutoConfig": "OwnConfig", "AutoModelForCausalLM": "OwnForCausalLM"}
    config |= {"model_type": "own-llama", "architectures": ["OwnForCausalLM"]}
    config["auto_map"] = {auto: f"modeling_own.{name}" for auto, name in classes.items()}
    (source / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    with pytest.raises(ValueError, match="needs code that lies beside its weights; read it, then allow it"):
        compress(source, tmp_path / "no", method=SVD(), budget=Budget.ratio(6), measure=False)
    assert not (tmp_path / "no").exists()
    capsys.readouterr()
    code, _, err = run(capsys, "inspect", source)
    assert (code, len(err.strip().splitlines())) == (2, 1)
    assert "--trust-remote-code (in vocabpress compress and inspect)" in err
    code, out, _ = run(capsys, "inspect", source, "--trust-remote-code", "--json")
    assert (code, json.loads(out.splitlines()[-1])["architecture"]) == (0, "OwnForCausalLM")
    report = compress(
        source, tmp_path / "out", method=SVD(), budget=Budget.ratio(6), trust_remote_code=True, measure=False
    )
    assert report.architecture == "OwnForCausalLM"
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert type(loaded).__name__ == "OwnForCausalLM"
    assert isinstance(loaded.get_input_embeddings(), TokenEmbedding)
