"""Checkpoints in other layouts than today's, and what a model is called."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM

import tiny
from command import run
from vocabpress import Budget, compress, hub
from vocabpress.hf.folders import find_folder, weight_files
from vocabpress.hf.modules import TiedHead, TokenEmbedding
from vocabpress.hf.report import as_command
from vocabpress.hub import hub_id, model_name
from vocabpress.methods import TCQ

SMALL = {"method": "svd", "budget": Budget.ratio(4)}


def old_layout(folder):
    """A SentenceTransformer as its first versions wrote it."""
    tiny.make("bert").base_model.save_pretrained(folder / "0_Transformer")
    tiny.tokenizer_files(folder / "0_Transformer", pad_token="w0")
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    kinds = [("0_Transformer", "Transformer"), ("1_Pooling", "Pooling")]
    listed = [
        {"idx": i, "name": str(i), "path": p, "type": f"sentence_transformers.models.{k}"}
        for i, (p, k) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "README.md").write_text("# Old\n\nIts card.\n")
    return folder


def test_the_first_layout_of_sentence_transformers(tmp_path):
    st = pytest.importorskip("sentence_transformers", reason="sentence-transformers is in the extra st")
    source = old_layout(tmp_path / "old")
    report = compress(source, tmp_path / "out", **SMALL)
    assert report.source_name == "old"
    small = st.SentenceTransformer(str(tmp_path / "out"), device="cpu")
    assert isinstance(small[0].auto_model.get_input_embeddings(), TokenEmbedding)
    before, after = st.SentenceTransformer(str(source), device="cpu").encode("w1 w2"), small.encode("w1 w2")
    assert before.shape == after.shape == (32,)
    assert (tmp_path / "out" / "1_Pooling" / "config.json").is_file()
    assert "Its card." in (tmp_path / "out" / "README.md").read_text()
    assert sorted(path.name for path in source.iterdir()) == ["0_Transformer", "1_Pooling", "README.md", "modules.json"]


@pytest.mark.parametrize("shards", [False, True])
def test_weights_of_a_variant_alone(shards, tmp_path):
    model = tiny.make("bert").base_model.half()
    model.save_pretrained(tmp_path / "in", variant="fp16", max_shard_size="10kB" if shards else "5GB")
    assert not (tmp_path / "in" / "model.safetensors").exists()
    compress(tmp_path / "in", tmp_path / "out", **SMALL)
    loaded = AutoModel.from_pretrained(tmp_path / "out")
    assert loaded.dtype == torch.float16
    layer = "encoder.layer.0.attention.self.query.weight"
    assert torch.equal(loaded.get_parameter(layer), model.get_parameter(layer))


def test_a_variant_beside_the_weights_is_not_counted(tmp_path):
    source = tiny.save("bert", tmp_path / "in")
    shutil.copy(source / "model.safetensors", source / "model.fp16.safetensors")
    report = compress(source, tmp_path / "out", **SMALL)
    assert report.model_bytes_before == (source / "model.safetensors").stat().st_size
    assert [file.name for file in weight_files(source)] == ["model.safetensors"]
    (source / "model.safetensors").rename(source / "model.bf16.safetensors")
    with pytest.raises(ValueError, match="only weights of the variants bf16, fp16; remove all but one"):
        find_folder(source)


def stored_twice(folder):
    tiny.save("llama", folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_head_that_is_stored_twice_is_told_of_and_tied_on_request(tmp_path, capsys):
    source = stored_twice(tmp_path / "in")
    with pytest.warns(
        UserWarning, match=r"lm_head holds the same numbers .* --tie \(tie=True\) compresses both as one"
    ):
        compress(source, tmp_path / "apart", **SMALL)
    assert "lm_head.weight" in load_file(tmp_path / "apart" / "model.safetensors")
    small = ("compress", source, "-o", tmp_path / "tied", "--method", "svd", "--ratio", "4", "--tie")
    code, _, err = run(capsys, *small)
    assert code == 0, err
    assert "same numbers" not in err
    assert "lm_head.weight" not in load_file(tmp_path / "tied" / "model.safetensors")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "tied")
    assert isinstance(loaded.lm_head, TiedHead)
    assert loaded.lm_head.table is loaded.model.embed_tokens.table
    for name in ("llama", "llama, untied", "bert"):
        other = tiny.save(name, tmp_path / name)
        with pytest.raises(ValueError, match="is tied already, or its weight differs from the table; leave out tie"):
            compress(other, tmp_path / "out", tie=True, **SMALL)


def test_a_model_that_is_the_current_folder_has_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tiny.save("bert", tmp_path / "my-model"))
    report = compress(".", "../out", **SMALL)
    assert report.source_name == "my-model"
    assert "# my-model, compressed" in (tmp_path / "out" / "README.md").read_text()
    assert report.command == "vocabpress compress . -o ../out --method svd --ratio 4"


def test_names_and_commands(tmp_path):
    snapshot = tmp_path / "models--some-org--tiny-bert" / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    assert (hub_id(snapshot), model_name(snapshot)) == ("some-org/tiny-bert", "tiny-bert")
    assert (hub_id("org/name@v2"), model_name("org/name@v2"), model_name("gpt2")) == ("org/name", "name", "gpt2")
    assert hub_id(tmp_path) is None
    said = as_command(
        "org/name@v2", tmp_path / "out", method=TCQ(memory=10), budget=Budget.bytes("2MB"), linears=None,
        text=["my text.txt"], calibration="...", body=None, seed=0, tie=True,
    )  # fmt: skip
    assert said == (
        "vocabpress compress org/name -o out --revision v2 --method tcq --set memory=10 --size 2000000 "
        "--text 'my text.txt' --calibration ... --tie"
    )


def test_revisions_are_of_the_hub(tmp_path, monkeypatch, capsys):
    asked = []

    def snapshot(name, revision=None, **_):
        asked.append((name, revision))
        return str(tiny.save("bert", tmp_path / "cache"))

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.setattr(hub, "check", lambda model: None)
    small = ("-o", tmp_path / "out", "--method", "svd", "--ratio", "4", "--revision", "v1.2")
    code, _, err = run(capsys, "compress", "org/name", *small)
    assert code == 0, err
    assert asked == [("org/name", "v1.2")]
    assert "base_model: org/name" in (tmp_path / "out" / "README.md").read_text()
    code, _, err = run(capsys, "inspect", tmp_path / "cache", "--revision", "v1.2")
    assert code == 2
    assert "is a local folder and has no revisions" in err


@pytest.mark.parametrize("model", ["/no/such", "./here", "../there", "a/b/c", "~/nowhere"])
def test_a_misspelt_folder_is_not_looked_for_on_the_hub(model, monkeypatch):
    monkeypatch.setattr(hub, "_download", None)
    with pytest.raises(ValueError, match="no such model: "):
        find_folder(model)
