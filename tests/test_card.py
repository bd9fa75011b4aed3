"""Model cards: whatever the original's looks like, with a snippet that runs, and the figures of what is there."""

import json
import re

import pytest
import torch
import yaml
from transformers import AutoTokenizer

import tiny
from test_layouts import old_layout
from vocabpress import Budget, compress
from vocabpress.hf import card as card_module
from vocabpress.hf.page import named_by, read_page
from vocabpress.hf.report import REPORT, load_report
from vocabpress.recover import Recovery, recover
from vocabpress.trim import trim

SMALL = {"method": "svd", "budget": Budget.ratio(4)}


def model(folder, name="bert", page=None, **special):
    tiny.save(name, folder)
    if special:
        tiny.tokenizer_files(folder, **special)
    if page is not None:
        (folder / "README.md").write_text(page, encoding="utf-8")
    return folder


def head_of(folder):
    text = (folder / "README.md").read_text(encoding="utf-8")
    return yaml.safe_load(text.split("---\n")[1]), text


PAGES = {
    "none": (None, set(), ""),
    "plain": ("---\nlicense: mit\ntags: [one, two]\n---\n# Some-model-1\n\nIts text.\n", {"one", "two"}, "Its text."),
    "numbers for tags": (
        "---\ntags: [bert, 2024, 1.5, true, null]\n---\nText.\n",
        {"bert", "2024", "1.5", "True", "None"},
        "Text.",
    ),
    "one tag": ("---\ntags: bert\n---\n", {"bert"}, ""),
    "dates and mappings": (
        "---\ntags: [2024-01-01, {a: b}]\nlicense: {x: 1}\n---\nText.\n",
        {"2024-01-01", "{'a': 'b'}"},
        "Text.",
    ),
    "no metadata": ("# Card\n\nText.\n", set(), "Text."),
    "windows": ("---\r\nlicense: mit\r\n---\r\nText.\r\n", set(), "Text."),
    "an empty head": ("---\n---\nText.\n", set(), "Text."),
    "a list for a head": ("---\n- a\n- b\n---\nText.\n", set(), "Text."),
}
BROKEN = {
    "broken YAML": "---\nlicense: mit\nbase_model: my: model\n---\nText.\n",
    "tabs": "---\nlicense:\n\t- mit\n---\nText.\n",
    "an unknown type": "---\nlicense: !!python/object:os.system {}\n---\nText.\n",
    "nested without end": "---\nlicense: " + "[" * 5000 + "\n---\nText.\n",
}


@pytest.mark.parametrize("name", PAGES)
def test_any_page_becomes_part_of_the_card(name, tmp_path):
    page, tags, text = PAGES[name]
    compress(model(tmp_path / "in", page=page), tmp_path / "out", **SMALL)
    head, card = head_of(tmp_path / "out")
    assert set(head["tags"]) == tags | {"vocabpress"}
    assert all(isinstance(tag, str) for tag in head["tags"])
    assert (head.get("license") == "mit") == (page is not None and "license: mit" in page)
    assert text in card.partition("# The original's model card")[2]
    assert ("# The original's model card" in card) == bool(text)


@pytest.mark.parametrize("name", BROKEN)
def test_a_page_that_can_not_be_read_is_a_warning(name, tmp_path):
    with pytest.warns(UserWarning, match="the metadata of the model card .* can't be read and is left out"):
        compress(model(tmp_path / "in", page=BROKEN[name]), tmp_path / "out", **SMALL)
    head, card = head_of(tmp_path / "out")
    assert head == {"tags": ["vocabpress"]}
    assert "Text." in card


def test_a_card_that_can_not_be_made_costs_nothing(tmp_path, monkeypatch):
    def broken(*_):
        raise KeyError("a mistake")

    monkeypatch.setattr(card_module, "card", broken)
    with pytest.warns(UserWarning, match="the model card was not written: 'a mistake'"):
        compress(model(tmp_path / "in"), tmp_path / "out", **SMALL)
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert (tmp_path / "out" / "tokenizer.json").is_file()


def code_of(folder):
    return re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)


CHAT = {"chat_template": "{% for message in messages %}{{ message.content }}{% endfor %}"}


@pytest.mark.parametrize("special", [{}, CHAT], ids=["plain", "chat"])
@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "llama", "t5", "gemma3, scaled"])
def test_the_snippet_runs(name, special, tmp_path, monkeypatch, capsys):
    source = model(tmp_path / "in", name, pad_token="w0", **special)
    monkeypatch.chdir(tmp_path)
    compress(source, "small", **SMALL)
    (code,) = code_of(tmp_path / "small")
    assert code.startswith("import vocabpress")
    assert ("apply_chat_template" in code) == (special == CHAT and name not in ("bert", "roberta", "t5"))
    exec(code, {})
    assert capsys.readouterr().out  # an empty line, where a model of random weights ends its answer at once


def test_the_snippet_of_a_sentence_encoder_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is in the extra st")
    source = old_layout(tmp_path / "in")
    monkeypatch.chdir(tmp_path)
    compress(source, "small", **SMALL)
    (code,) = code_of(tmp_path / "small")
    assert "SentenceTransformer" in code
    assert "pip install vocabpress sentence-transformers" in (tmp_path / "small" / "README.md").read_text()
    exec(code, {})
    assert "tensor" in capsys.readouterr().out


def test_a_folder_without_a_tokenizer_has_a_snippet_that_runs(tmp_path, monkeypatch):
    tiny.make("bert").base_model.save_pretrained(tmp_path / "in")
    monkeypatch.chdir(tmp_path)
    compress("in", "small", **SMALL)
    (code,) = code_of(tmp_path / "small")
    assert "AutoTokenizer" not in code
    exec(code, {})


def test_the_card_says_what_was_done(tmp_path):
    (tmp_path / "text.txt").write_text("w1 w2\n" * 20)
    source = model(tmp_path / "in", page="# Small-model-2\n\n`AutoModel.from_pretrained('some-org/Small-model-2')`\n")
    report = compress(source, tmp_path / "out", text=[tmp_path / "text.txt"], seed=3, **SMALL)
    head, card = head_of(tmp_path / "out")
    assert (head["base_model"], head["base_model_relation"]) == ("some-org/Small-model-2", "quantized")
    whole = report.model_bytes_before / report.model_bytes_after
    sizes = f"{report.table_bytes_before:,} | {report.table_bytes_after:,}"
    for words in (
        "# Small-model-2, compressed",
        f"in {whole:.2f} times fewer bytes",
        f"| token table | {sizes} | {report.ratio_to_stored:.2f} |",
        f"| relative error of the rows | {report.relative_error:.4f} |",
        "| tokens weighted by | text |",
        "| seed | 3 |",
        f"| vocabpress | {report.version} |",
        "vocabpress compress in -o out --method svd --ratio 4 --text text.txt --seed 3",
        "pip install vocabpress",
    ):
        assert words in card, words
    assert load_report(tmp_path / "out") == report
    assert json.loads((tmp_path / "out" / REPORT).read_text())["seed"] == 3


@pytest.mark.parametrize(
    ("page", "found"),
    [
        ("# all-Model-L6-v2\nSentenceTransformer('org/all-Model-L6-v2')", ("all-Model-L6-v2", "org/all-Model-L6-v2")),
        ("# all-Model-L6-v2\nSentenceTransformer('org/another')", ("all-Model-L6-v2", None)),
        ("# A model for everything\n", (None, None)),
        ("# Model\n", (None, None)),
        ("Text.\n\n# model-2\n", (None, None)),
        ("", (None, None)),
    ],
)
def test_the_name_that_a_page_gives(page, found):
    assert named_by(page) == found


def test_a_recovery_measures_the_rows_anew_and_keeps_the_original_text(tmp_path):
    lines = [f"w{3 + i} w{4 + 2 * i} w{5 + i * i % 190} w7 w{i + 9}" for i in range(60)]
    (tmp_path / "text.txt").write_text("\n".join(lines))
    source = model(tmp_path / "in", page="---\nlicense: mit\n---\nThe original's own words.\n", pad_token="w0")
    before = compress(source, tmp_path / "small", **SMALL)
    settings = Recovery(steps=8, batch_size=8, max_length=16, held_out=8, evaluate_every=4, learning_rate=0.02)
    text = [tmp_path / "text.txt"]
    done = recover(tmp_path / "small", tmp_path / "out", teacher=source, text=text, settings=settings, device="cpu")
    assert not done.kept_input
    after, (head, card) = load_report(tmp_path / "out"), head_of(tmp_path / "out")
    assert after.relative_error != before.relative_error
    assert f"| relative error of the rows | {after.relative_error:.4f} |" in card
    assert head["license"] == "mit"
    for words in ("## Recovered", "The original's own words.", "# The original's model card", "All other weights"):
        assert card.count(words) == 1, words
    again = recover(tmp_path / "out", tmp_path / "twice", teacher=source, text=text, settings=settings, device="cpu")
    if not again.kept_input:
        assert (tmp_path / "twice" / "README.md").read_text().count("## Recovered") == 2
    (tmp_path / "small" / REPORT).unlink()  # as of an earlier version
    recover(tmp_path / "small", tmp_path / "old", teacher=source, text=text, settings=settings, device="cpu")
    assert "## Recovered" in (tmp_path / "old" / "README.md").read_text()


def test_trim_writes_a_card_with_what_it_keeps(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text("w5 w6 w7 w8\n" * 3 + "w9\n")
    page = "---\nlicense: mit\n---\n# Some-model-3\n\nIts own words.\n"
    source = model(tmp_path / "in", "bert", page=page, pad_token="w0")
    monkeypatch.chdir(tmp_path)
    report = trim(source, "trimmed", text=["text.txt"], min_count=2)
    assert report.kept_share == pytest.approx(12 / 13)
    head, card = head_of(tmp_path / "trimmed")
    assert head["license"] == "mit"
    for words in (
        "# Some-model-3, trimmed",
        "covers 92.31% of the tokens",
        f"| tokens | 211 | {report.tokens_after} |",
    ):
        assert words in card, words
    assert "Its own words." in card
    (code,) = code_of(tmp_path / "trimmed")
    assert "vocabpress" not in code
    with torch.no_grad():
        exec(code, {})
    assert len(AutoTokenizer.from_pretrained("trimmed")) == report.tokens_after


def test_a_page_of_any_bytes(tmp_path):
    (tmp_path / "README.md").write_bytes(b"\xff\xfe\x00")
    with pytest.warns(UserWarning, match="can't be read and is left out"):
        assert read_page(tmp_path).text == ""
