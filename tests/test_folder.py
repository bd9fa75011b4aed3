"""The files beside the weights: tokenizer.json without blanks, vocabularies left out, and the bytes of all."""

import json
import re
import warnings

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

import tiny
from command import run
from test_trim import KINDS, checkpoint, trained
from vocabpress import Budget, compress
from vocabpress.cli.printing import print_report
from vocabpress.hf.card import card
from vocabpress.hf.compact import compact
from vocabpress.hf.companions import copy_companions
from vocabpress.hf.extract import static_embedding
from vocabpress.hf.page import Page
from vocabpress.hf.report import REPORT, load_report
from vocabpress.job import companions as job_companions
from vocabpress.recover import Recovery, recover
from vocabpress.trim import trim

SMALL = {"method": "svd", "budget": Budget.ratio(4), "measure": False}
LINES = ["the quick brown fox", "over a lazy dog"]
hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is not installed (extra dev)")
st = hypothesis.strategies
numbers = st.integers() | st.floats()
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@hypothesis.given(values, st.booleans())
def test_any_json_becomes_its_shortest_form(value, escaped):
    before = json.dumps(value, indent=2, ensure_ascii=escaped)
    assert compact(before.encode()).decode() == json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("[-9.50, 1e-05 ,0.00001, 1E400, 0.1000000014901161193]", "[-9.50,1e-05,0.00001,1E400,0.1000000014901161193]"),
        (r'{"a b" : " \" , [ \\" , "\\u00e9":"\u00e9 \/"}', r'{"a b":" \" , [ \\","\\u00e9":"é /"}'),
        (r'[ "\ud83d\ude00" , "\ud83d" , "\u0000\u2581" ]', r'["😀","\ud83d","\u0000▁"]'),
        ('{"a": 1, "a": 2}', '{"a":1,"a":2}'),
    ],
)
def test_numbers_strings_and_halves_of_surrogates_survive(before, after):
    assert compact(before.encode()).decode() == after


@pytest.mark.parametrize(
    "data", [b'{"a": ', b"\xff\xfe", b'\xef\xbb\xbf{"a": 1}', b"[" * 100_000, b"version https://git"]
)
def test_what_is_no_json_is_copied_as_it_is_with_a_warning(data, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "tokenizer.json").write_bytes(data)
    with pytest.warns(UserWarning, match=r"^tokenizer\.json is not JSON, and is copied as it is: "):
        copy_companions(tmp_path / "in", tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == data


@pytest.mark.parametrize("kind", KINDS)
def test_a_compact_tokenizer_is_the_same_one(kind):
    before = trained(kind).to_str(pretty=True)
    after = compact(before.encode()).decode()
    assert len(after) < 0.8 * len(before)
    assert Tokenizer.from_str(after).to_str() == Tokenizer.from_str(before).to_str()


@pytest.fixture
def source(tmp_path):
    """A model of words, whose tokenizer.json is indented, beside other JSON with blanks."""
    folder = tiny.save("bert", tmp_path / "in")
    tiny.tokenizer_files(folder, pad_token="w0")
    (folder / "other.json").write_text('{ "a": [1,  2] }')
    return folder


def test_every_command_writes_a_compact_tokenizer(source, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"w5 w{i} w{i + 3} w7" for i in range(60)))
    compress(source, tmp_path / "compressed", **SMALL)
    recover(tmp_path / "compressed", tmp_path / "recovered", teacher=source, text=[text], settings=Recovery(steps=1))
    trim(source, tmp_path / "trimmed", text=[text])
    static_embedding(source, tmp_path / "static")
    assert "\n  " in (source / "tokenizer.json").read_text()
    for name in ("compressed", "recovered", "trimmed", "static"):
        stored = (tmp_path / name / "tokenizer.json").read_text()
        assert stored == json.dumps(json.loads(stored), ensure_ascii=False, separators=(",", ":")), name
        if name != "static":
            assert (tmp_path / name / "other.json").read_bytes() == (source / "other.json").read_bytes(), name
    settings = (tmp_path / name / "tokenizer_config.json" for name in ("in", "compressed", "recovered"))
    assert len({file.read_bytes() for file in settings}) == 1


def with_vocabulary(folder, kind, tokenizer_class):
    """A checkpoint with the files of the slow tokenizer, too."""
    checkpoint(kind, folder)
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": tokenizer_class, "unk_token": "[UNK]", "pad_token": "[PAD]"})
    )
    tokens = trained(kind).get_vocab()
    (folder / "vocab.txt").write_text("\n".join(sorted(tokens, key=tokens.__getitem__)))
    (folder / "vocab.json").write_text(json.dumps(tokens))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "2_Other").mkdir()
    (folder / "2_Other" / "vocab.txt").write_text("of another module")
    return folder


SLOW = ["merges.txt", "vocab.json", "vocab.txt"]


@pytest.mark.parametrize(("kind", "name"), [("WordPiece", "BertTokenizer"), ("BPE", "GPT2Tokenizer")])
def test_vocabularies_that_tokenizer_json_repeats_are_left_out_on_request(kind, name, tmp_path):
    source = with_vocabulary(tmp_path / "in", kind, name)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        compress(source, tmp_path / "all", **SMALL)
        report = compress(source, tmp_path / "out", **SMALL, fast_tokenizer_only=True)
    assert all((tmp_path / "all" / file).is_file() for file in SLOW)
    assert not any((tmp_path / "out" / file).exists() for file in SLOW)
    assert (tmp_path / "out" / "2_Other" / "vocab.txt").is_file()
    before, after = (AutoTokenizer.from_pretrained(folder)(LINES)["input_ids"] for folder in (source, tmp_path / "out"))
    assert before == after
    assert "--fast-tokenizer-only" in report.command
    slow = sum((source / file).stat().st_size for file in SLOW)
    kept = load_report(tmp_path / "all").folder
    assert kept.bytes_before == report.folder.bytes_before
    assert kept.bytes_after - slow == pytest.approx(report.folder.bytes_after, abs=20)  # the weights name their method


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("EsmTokenizer", "without them the tokenizer does not run: "),  # it reads vocab.txt alone
        ("BertTokenizer", "without them the tokenizer gives other tokens"),
        ("broken", "the original's tokenizer does not run: "),
    ],
)
def test_vocabularies_that_are_needed_are_copied_with_a_warning(name, reason, tmp_path, monkeypatch):
    source = with_vocabulary(tmp_path / "in", "WordPiece", name)
    left_out = SLOW
    if name == "BertTokenizer":  # as if a file with tokens of its own were in the list
        (source / "added_tokens.json").write_text('{"<new>": 152}')
        monkeypatch.setattr(job_companions, "VOCABULARIES", {"added_tokens.json"})
        left_out = ["added_tokens.json"]
    elif name == "broken":
        (source / "tokenizer.json").write_text('{"model": 3}')
    with pytest.warns(UserWarning, match=f"^not left out: {', '.join(left_out)}; {reason}") as caught:
        compress(source, tmp_path / "out", **SMALL, calibration="uniform", fast_tokenizer_only=True)
    assert not any("\n" in str(warning.message) for warning in caught)
    assert all((tmp_path / "out" / file).read_bytes() == (source / file).read_bytes() for file in SLOW)


def test_without_a_fast_tokenizer_its_files_stay(tmp_path):
    source = with_vocabulary(tmp_path / "in", "WordPiece", "BertTokenizer")
    (source / "tokenizer.json").unlink()
    compress(source, tmp_path / "out", **SMALL, fast_tokenizer_only=True)
    assert all((tmp_path / "out" / file).is_file() for file in SLOW)


def on_disk(folder, without):
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    return {name: size for name, size in files.items() if name not in without}


@pytest.mark.filterwarnings("ignore:not copied, because there are weights in it. onnx/")
def test_the_report_counts_every_file(source, tmp_path, capsys):
    unused = {"README.md", "tf_model.h5", "onnx/model.onnx", "onnx/config.json", ".cache/file"}
    for name in unused:
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text("x" * 1000)
    (source / "1_Pooling").mkdir()
    (source / "1_Pooling" / "config.json").write_text("{}")
    command = ("compress", source, "-o", tmp_path / "out", "--method", "svd", "--ratio", "4", "--no-measure", "--json")
    code, out, err = run(capsys, *command)
    assert code == 0
    found, files = json.loads(out)["folder"], on_disk(tmp_path / "out", {REPORT, "README.md"})
    assert found["files"] == files
    assert list(found["files"].values()) == sorted(files.values(), reverse=True)
    assert found["bytes_after"] == sum(files.values())
    assert found["bytes_before"] == sum(on_disk(source, unused).values())
    assert re.search(r"folder \d[\d.]* kB -> \d[\d.]* kB: model\.safetensors .*, tokenizer\.json .*, \d others ", err)
    page = (tmp_path / "out" / "README.md").read_text()
    assert f"| all files, without card and report | {found['bytes_before']:,} | {found['bytes_after']:,} |" in page
    assert f"model.safetensors {files['model.safetensors']:,}, tokenizer.json {files['tokenizer.json']:,}" in page
    written = load_report(tmp_path / "out")
    assert written.folder.files == files


def test_shards_count_with_their_index(tmp_path):
    tiny.make("bert").save_pretrained(tmp_path / "in", max_shard_size="20kB")
    assert len(list((tmp_path / "in").glob("model-*"))) > 1
    report = compress(tmp_path / "in", tmp_path / "out", **SMALL, calibration="uniform")
    assert report.folder.bytes_before == sum(on_disk(tmp_path / "in", ()).values())


def test_a_recovery_counts_again(source, tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(f"w{3 + i} w{4 + 2 * i} w7 w{i + 9}" for i in range(60)))
    before = compress(source, tmp_path / "small", **SMALL)
    settings = Recovery(steps=8, batch_size=8, max_length=16, held_out=8, evaluate_every=4, learning_rate=0.02)
    recover(tmp_path / "small", tmp_path / "out", teacher=source, text=[tmp_path / "text.txt"], settings=settings)
    after = load_report(tmp_path / "out").folder
    assert after.files == on_disk(tmp_path / "out", {REPORT, "README.md"})
    assert after.files["config.json"] > before.folder.files["config.json"]  # it says how it was trained
    assert after.bytes_before == before.folder.bytes_before


def test_a_report_of_an_earlier_version_is_read(source, tmp_path, capsys):
    compress(source, tmp_path / "out", **SMALL)
    data = json.loads((tmp_path / "out" / REPORT).read_text())
    del data["folder"]
    (tmp_path / "out" / REPORT).write_text(json.dumps(data))
    report = load_report(tmp_path / "out")
    assert report is not None
    assert report.folder is None
    print_report(report)
    assert "folder" not in capsys.readouterr().out
    assert "all files" not in card(report, tmp_path / "out", Page(), "")
