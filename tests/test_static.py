"""sentence-transformers beyond the plain encoder: static embeddings, of which the table is all, and cross-encoders."""

import json

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

import tiny
import vocabpress
from command import run
from vocabpress import SVD, TCQ, Budget
from vocabpress.hf.static import plain_tokenizer

# The extra `st`, which the sample model brings along.
library = pytest.importorskip("sentence_transformers", reason="static embeddings are sentence-transformers'")
modules = pytest.importorskip("sentence_transformers.models")
TEXTS = ["w5 w6", "w7 nothing w8 w9", "w5", "", "w10 w11 w12 w13 w14"]


def words():
    tokens = {f"w{i}": i for i in range(tiny.VOCAB - 2)} | {"[UNK]": tiny.VOCAB - 2, "[CLS]": tiny.VOCAB - 1}
    tokenizer = Tokenizer(WordLevel(tokens, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    # A static embedding does not add the special token.
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", tiny.VOCAB - 1)])
    return tokenizer


def static(folder, normalized=True, dtype=torch.float32):
    torch.manual_seed(0)
    table = torch.randn(tiny.VOCAB, 32).to(dtype)
    parts = [modules.StaticEmbedding(words(), embedding_weights=table)]
    model = library.SentenceTransformer(modules=parts + [modules.Normalize()] * normalized, device="cpu")
    model.prompts["query"] = "w1 "
    model.save(str(folder))
    return model


def opened(folder):
    return library.SentenceTransformer(str(folder), device="cpu")


def table_of(model):
    return model[0].auto_model.get_input_embeddings()


@pytest.mark.parametrize("normalized", [True, False])
def test_a_compressed_static_embedding_loads_and_averages_rows(normalized, tmp_path):
    original = static(tmp_path / "source", normalized)
    report = vocabpress.compress(
        tmp_path / "source", tmp_path / "out", method=TCQ(memory=8), budget=Budget.ratio(6), measure=False
    )
    small = opened(tmp_path / "out")
    table = table_of(small).table
    assert report.table_bytes_after == table.total_bits() // 8 <= tiny.VOCAB * 32 * 4 / 6
    assert report.table_bytes_before == tiny.VOCAB * 32 * 4
    assert report.model_bytes_after == (tmp_path / "out" / "model.safetensors").stat().st_size
    assert small.prompts["query"] == "w1 "
    back = modules.StaticEmbedding(words(), embedding_weights=table.dense().detach())  # and the other way round
    plain = library.SentenceTransformer(modules=[back] + [modules.Normalize()] * normalized, device="cpu")
    torch.testing.assert_close(small.encode(TEXTS), plain.encode(TEXTS))
    assert small.encode(TEXTS).shape == original.encode(TEXTS).shape
    small.save(str(tmp_path / "again"))
    torch.testing.assert_close(opened(tmp_path / "again").encode(TEXTS), small.encode(TEXTS), rtol=0, atol=0)


def test_a_dense_table_gives_what_the_static_embedding_gave(tmp_path):
    original = static(tmp_path / "source", normalized=False)
    vocabpress.static_embedding(tmp_path / "source", tmp_path / "out")
    torch.testing.assert_close(opened(tmp_path / "out").encode(TEXTS), original.encode(TEXTS))


def test_the_table_of_any_compressed_model_is_a_static_embedding(tmp_path):
    source = tiny.save("bert", tmp_path / "source")
    vocabpress.compress(source, tmp_path / "small", method=SVD("int8"), budget=Budget.ratio(6), measure=False)
    vocabpress.static_embedding(tmp_path / "small", tmp_path / "out")
    found = opened(tmp_path / "out")
    ids = [[5, 6], [7, tiny.VOCAB - 1, 8, 9]]
    table = table_of(found).table
    expected = torch.stack([table.lookup(torch.tensor(part)).mean(0) for part in ids])
    torch.testing.assert_close(found.encode(TEXTS[:2], convert_to_tensor=True), expected.detach())
    small, out = (
        json.loads((tmp_path / name / "config.json").read_text())["quantization_config"] for name in ("small", "out")
    )
    assert list(small["tables"].values()) == list(out["tables"].values())
    assert small["fitted_by"] == out["fitted_by"]


def test_the_command_line_takes_the_folder_of_a_static_embedding(tmp_path, capsys):
    static(tmp_path / "source", dtype=torch.float16)
    (tmp_path / "text.txt").write_text("w5 w6 w5\n" * 20, encoding="utf-8")
    options = ("--method", "svd", "--ratio", 6, "--text", tmp_path / "text.txt", "--json")
    code, out, _ = run(capsys, "compress", tmp_path / "source", "-o", tmp_path / "out", *options)
    told = json.loads(out.splitlines()[-1])
    assert (code, told["weighted_by"], told["dtype"], told["table"]) == (0, "text", "float16", "embeddings")
    assert "SentenceTransformer" in (tmp_path / "out" / "README.md").read_text()
    code, out, _ = run(capsys, "inspect", tmp_path / "source", "--json")
    assert (code, json.loads(out.splitlines()[-1])["tables"][0]["share"]) == (0, 1.0)


def test_a_static_embedding_is_recovered_and_trimmed_like_any_model(tmp_path, capsys):
    original = static(tmp_path / "source")
    lines = [f"w{i} w{i + 3} w{i + 7}" for i in range(5, 105)]
    (tmp_path / "text.txt").write_text("\n".join(lines * 30), encoding="utf-8")
    text = ("--text", tmp_path / "text.txt")
    small = ("-o", tmp_path / "small", "--method", "svd", "--ratio", "25")
    assert run(capsys, "compress", tmp_path / "source", *small)[0] == 0
    options = ("--teacher", tmp_path / "source", "--steps", 3, "-o", tmp_path / "recovered")
    assert run(capsys, "recover", tmp_path / "small", *text, *options)[0] == 0
    assert opened(tmp_path / "recovered").encode(TEXTS).shape == (len(TEXTS), 32)
    assert run(capsys, "trim", tmp_path / "source", *text, "-o", tmp_path / "trimmed")[0] == 0
    trimmed = opened(tmp_path / "trimmed")
    assert table_of(trimmed).num_embeddings < tiny.VOCAB
    torch.testing.assert_close(trimmed.encode(TEXTS[:1]), original.encode(TEXTS[:1]))


def test_what_can_not_be_a_static_embedding_is_refused_in_one_line(tmp_path, capsys):
    static(tmp_path / "source")
    (tmp_path / "source" / "model.safetensors").write_bytes(b"broken")
    code, _, err = run(capsys, "compress", tmp_path / "source", "-o", tmp_path / "out")
    assert (code, len(err.strip().splitlines())) == (2, 1)
    assert "sentence-transformers can't load" in err
    assert not (tmp_path / "out").exists()
    tiny.make("bert").save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match=r"has no tokenizer\.json; save its tokenizer as a fast one"):
        vocabpress.static_embedding(tmp_path / "bert", tmp_path / "out")
    bare = Tokenizer(WordLevel({"w0": 0}, unk_token="none"))
    with pytest.raises(ValueError, match="neither a special nor an unknown token"):
        plain_tokenizer(bare)


def test_a_cross_encoder_predicts_the_same_after_loading(tmp_path):
    source = tiny.save("bert", tmp_path / "source")
    (source / "model.safetensors").unlink()
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.pad_token = "[UNK]"
    tokenizer.save_pretrained(source)
    BertForSequenceClassification(BertConfig(**tiny.BERT, vocab_size=tiny.VOCAB, num_labels=1)).save_pretrained(source)
    library.CrossEncoder(str(source), device="cpu").save_pretrained(str(tmp_path / "cross"))
    vocabpress.compress(tmp_path / "cross", tmp_path / "out", method=SVD("int8"), budget=Budget.ratio(6), measure=False)
    small = library.CrossEncoder(str(tmp_path / "out"), device="cpu")
    pairs = [("w5 w6", "w7"), ("w8", "w9 w10")]
    scores = small.predict(pairs)
    assert scores.shape == (2,)
    small.save_pretrained(str(tmp_path / "again"))
    assert (library.CrossEncoder(str(tmp_path / "again"), device="cpu").predict(pairs) == scores).all()
    small.model.dequantize()
    torch.testing.assert_close(small.predict(pairs), scores)
