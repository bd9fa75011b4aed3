"""Fewer tokens: texts of kept tokens are read as before, by every kind of tokenizer."""

import json
from dataclasses import asdict

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
)

import tiny
from command import run
from vocabpress import Budget, compress
from vocabpress.hf.checkpoint import load_model
from vocabpress.trim import trim
from vocabpress.trim.tokens import closure, pieces, renumbered

WORDS = ["the quick brown fox jumps over the lazy dog", "a lazy fox is no quick dog", "dogs and foxes jump, quickly!"]
OTHERS = ["über äußere Größe", "мама мыла раму", "Ελλάδα и Россия"]
SPECIAL = ["[UNK]", "[PAD]", "[CLS]", "[SEP]"]


def wordpiece():
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer, trainers.WordPieceTrainer(vocab_size=180, special_tokens=SPECIAL, show_progress=False)


def byte_level():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return tokenizer, trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer, trainers.UnigramTrainer(
        vocab_size=150, special_tokens=SPECIAL, unk_token="[UNK]", show_progress=False
    )


def word_level():
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer, trainers.WordLevelTrainer(special_tokens=SPECIAL, show_progress=False)


KINDS = {"WordPiece": wordpiece, "BPE": byte_level, "Unigram": unigram, "WordLevel": word_level}


def trained(kind):
    """A tokenizer that knows words of four scripts, and puts a [CLS] and a [SEP] around each text."""
    tokenizer, trainer = KINDS[kind]()
    tokenizer.train_from_iterator([*WORDS * 3, *OTHERS * 3], trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ends
    )
    return tokenizer


def checkpoint(kind, folder, name="bert"):
    """A tiny model with such a tokenizer; some rows of its table have no token, as in padded tables."""
    model = tiny.make(name)
    tokenizer = trained(kind)
    model.resize_token_embeddings(tokenizer.get_vocab_size() + 5)
    model.config.pad_token_id = tokenizer.token_to_id("[PAD]")
    for key in ("bos_token_id", "eos_token_id"):
        setattr(model.config, key, tokenizer.token_to_id("[SEP]"))
    model.save_pretrained(folder)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )
    fast.save_pretrained(folder)
    return folder


def write(path, lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def near(found, expected):
    """Equal but for the order of sums, which depends on the number of rows."""
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
def test_text_of_kept_tokens_is_cut_and_read_as_before(kind, tmp_path):
    source = checkpoint(kind, tmp_path / "source")
    report = trim(source, tmp_path / "small", text=[write(tmp_path / "text.txt", WORDS)])
    before, after = (AutoTokenizer.from_pretrained(folder) for folder in (source, tmp_path / "small"))
    kept = json.loads((tmp_path / "small" / "kept_ids.json").read_text())
    assert report.tokens_after == len(kept) == len(after) < len(before) < report.tokens_before
    assert report.same_lines == 1.0
    for line in [*WORDS, "the dog jumps quickly", "brown dogs"]:
        old, new = before(line)["input_ids"], after(line)["input_ids"]
        assert [kept[i] for i in new] == old
        assert after.decode(new) == before.decode(old)
        large, small = (load_model(folder).eval() for folder in (source, tmp_path / "small"))
        with torch.no_grad():
            scores = large(input_ids=torch.tensor([old])).logits
            near(small(input_ids=torch.tensor([new])).logits, scores[..., kept])


def test_every_byte_stays_so_that_any_text_can_be_said(tmp_path):
    source = checkpoint("BPE", tmp_path / "source")
    trim(source, tmp_path / "small", text=[write(tmp_path / "text.txt", WORDS)])
    after = AutoTokenizer.from_pretrained(tmp_path / "small")
    for line in [*OTHERS, "日本語 🦊"]:
        assert after.decode(after(line)["input_ids"], skip_special_tokens=True) == line


def test_letters_of_kept_words_spell_new_words(tmp_path):
    source = checkpoint("WordPiece", tmp_path / "source")
    trim(source, tmp_path / "small", text=[write(tmp_path / "text.txt", ["quick fox", "lazy dog"])])
    after = AutoTokenizer.from_pretrained(tmp_path / "small")
    assert after.unk_token_id not in after("zoo coy")["input_ids"]
    assert after.unk_token_id in after("мама")["input_ids"]


def test_scripts(tmp_path):
    source = checkpoint("Unigram", tmp_path / "source")
    trim(source, tmp_path / "small", scripts=["Latin", "Greek"])
    tokens = set(AutoTokenizer.from_pretrained(tmp_path / "small").get_vocab())
    assert {"[PAD]", "!"} < tokens
    assert {"ß", "λ"} <= set("".join(tokens))
    assert not set("мы") & set("".join(tokens))


def test_what_a_merge_is_made_of_is_kept():
    vocab = {"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4, "bc": 5, "ca": 6}
    merges = [["a", "b"], ["ab", "c"], ["b", "c"], ["a", "bc"], ["c", "a"]]
    model = {"type": "BPE", "vocab": vocab, "merges": merges, "unk_token": None}
    data = {"model": model, "added_tokens": [], "post_processor": None}
    kept = closure(data, [4])
    assert kept == [0, 1, 2, 3, 4, 5]  # both ways to abc, not ca
    assert renumbered(data, kept)["model"]["merges"] == merges[:-1]
    assert pieces(renumbered(data, closure(data, [6]))) == {"a": 0, "c": 1, "ca": 2}


@pytest.mark.parametrize("name", ["gpt2", "llama, untied", "t5", "bart, scaled", "gemma3, scaled"])
def test_heads_biases_and_ids_follow(name, tmp_path):
    source = checkpoint("BPE", tmp_path / "source", name)
    trim(source, tmp_path / "small", text=[write(tmp_path / "text.txt", WORDS)])
    large, small = (load_model(folder).eval() for folder in (source, tmp_path / "small"))
    kept = json.loads((tmp_path / "small" / "kept_ids.json").read_text())
    assert small.config.get_text_config().vocab_size == len(kept)
    assert kept[small.config.eos_token_id] == large.config.eos_token_id
    ids = torch.randint(len(kept), (2, 7), generator=torch.Generator().manual_seed(0))
    expected = tiny.logits(large, torch.tensor(kept)[ids])
    near(tiny.logits(small, ids), expected[..., kept])


def test_a_classifier_keeps_its_head_and_is_compressed_afterwards(tmp_path):
    checkpoint("WordPiece", tmp_path / "words")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "words")
    config = BertConfig(**tiny.BERT, vocab_size=len(tokenizer), num_labels=3)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "source")
    tokenizer.save_pretrained(tmp_path / "source")
    text = [write(tmp_path / "text.txt", WORDS)]
    trim(tmp_path / "source", tmp_path / "small", text=text)
    compress(tmp_path / "small", tmp_path / "smaller", method="svd", budget=Budget.ratio(3), text=text)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "smaller")
    assert (
        model(**AutoTokenizer.from_pretrained(tmp_path / "smaller")(WORDS[0], return_tensors="pt")).logits.shape[1] == 3
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give text (--text FILE) or scripts (--script Latin)"),
        (["--script", "Klingon"], "Unicode has no script 'Klingon'"),
        (["--script", "Latin", "--min-count", "0"], "min_count must be at least 1, got 0"),
        (["--text", "none.txt"], "no such text file: none.txt"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(arguments, message, tmp_path, capsys):
    source = checkpoint("WordPiece", tmp_path / "source")
    code, _, said = run(capsys, "trim", source, "-o", tmp_path / "small", *arguments)
    assert code == 2
    assert message in said
    assert not (tmp_path / "small").exists()


def test_the_command_says_what_it_left_out(tmp_path, capsys):
    source = checkpoint("WordPiece", tmp_path / "source")
    text = write(tmp_path / "text.txt", WORDS)
    code, out, _ = run(capsys, "trim", source, "-o", tmp_path / "small", "--text", text, "--json")
    said = json.loads(out.splitlines()[-1])
    assert code == 0
    assert said["tokens_after"] < said["tokens_before"]
    again = trim(source, tmp_path / "again", text=[text])
    assert asdict(again) | {"output": None} == said | {"output": None}
