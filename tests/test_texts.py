"""Text from wherever it comes."""

import gzip
import io
import json
import os
import sys
import threading

import pytest
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

import tiny
from command import run
from vocabpress import Calibration
from vocabpress.recover.text import tokenise_stream, with_passages
from vocabpress.texts import read_lines, sources

LINES = ["w1 w2 w3", "w4 w5"]
TEXT = "\n".join(LINES) + "\n\n"


def jsonl(field="text"):
    return "".join(json.dumps({"id": number, field: line}) + "\n" for number, line in enumerate(LINES))


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.name.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.gz", "a", "a.jsonl", "a.jsonl.gz", "a.jsonl:content"])
def test_files_of_all_kinds_give_their_lines(name, tmp_path):
    path, _, field = name.partition(":")
    write(tmp_path / path, jsonl(field or "text") if "jsonl" in path else TEXT)
    assert list(read_lines([f"{tmp_path}/{name}"])) == LINES


def test_what_is_compressed_is_known_by_its_bytes_and_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(gzip.compress(TEXT.encode("utf-8-sig")))
    assert list(read_lines([tmp_path / "a.txt"])) == LINES


def test_a_folder_stands_for_the_text_in_it(tmp_path):
    write(tmp_path / "b" / "two.jsonl.gz", jsonl())
    write(tmp_path / "one.txt", "first\n")
    write(tmp_path / "picture.png", "\0")
    assert list(read_lines([tmp_path])) == [*LINES, "first"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty holds no text; give one with files such as \.txt"):
        sources([tmp_path / "empty"])


def test_a_pipe_is_read_once_and_serves_again(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(gzip.compress(TEXT.encode())))
    writer.start()
    files = sources([tmp_path / "pipe"])
    writer.join()
    assert list(read_lines(files)) == LINES
    assert list(read_lines(files)) == LINES
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    assert list(read_lines(["-"])) == LINES


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (
            "a.jsonl",
            '{"title": "x", "id": 3}\n',
            "has no text under 'text' in line 1, it has title, id; write .*a.jsonl:FIELD",
        ),
        ("a.jsonl", "[1\n", "has no JSON in line 1"),
        ("a.txt", "\n \n", "holds no text"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(name, text, words, tmp_path):
    write(tmp_path / name, text)
    with pytest.raises(ValueError, match=words):
        list(read_lines([tmp_path / name]))


def test_a_broken_archive_is_said_in_a_line(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(os.urandom(20000).hex().encode())[:9000])
    with pytest.raises(ValueError, match=r"a\.gz is broken: .*; compress it again"):
        list(read_lines([tmp_path / "a.gz"]))


def test_commands_take_text_from_standard_input(tmp_path, capsys, monkeypatch):
    source = tiny.save("bert", tmp_path / "source")
    for number, command in enumerate(("compress", "calibrate")):  # which reads the text twice
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(gzip.compress(TEXT.encode()))))
        more = (
            ("--method", "svd", "--ratio", "6") if command == "compress" else ("--weights-from", "tfidf", "--no-metric")
        )
        code, _, err = run(capsys, command, source, "-o", tmp_path / f"out{number}", "--text", "-", *more)
        assert code == 0, err
    assert Calibration.load(tmp_path / "out1").texts == ("-",)


@pytest.mark.parametrize("begins", [False, True])
def test_a_stream_of_lines_is_cut_into_windows(tmp_path, begins):
    source = tiny.save("gpt2", tmp_path / "model")
    raw = Tokenizer.from_file(str(source / "tokenizer.json"))
    if begins:
        raw.post_processor = TemplateProcessing(single="w207 $A", special_tokens=[("w207", 207)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]", bos_token="w207")
    text = tmp_path / "text.txt"
    text.write_text("w1 w2 w3\n\nw4\nw5 w6 w7 w8 w9 w10\nw4\n", encoding="utf-8")
    windows = [row["input_ids"] for row in tokenise_stream([text], tokenizer, 4, False)]
    ids = list(range(1, 11))  # a repeated line is used once
    if begins:
        assert windows == [[207, 1, 2, 3], [207, 4, 5, 6], [207, 7, 8, 9]]
    else:
        assert windows == [ids[:4], ids[4:8]]
    whole = [row["input_ids"] for row in tokenise_stream([text], tokenizer, 40, False)]
    assert whole == [[207, *ids] if begins else ids]


def test_passages_are_of_lines_that_follow_one_another():
    lines = [f"line {number}." for number in range(1000)]
    texts = with_passages(lines, 3)
    assert " ".join(texts) == " ".join(lines)
    assert texts == with_passages(lines, 3) != with_passages(lines, 4)
    counts = [text.count("line") for text in texts]
    assert set(counts[:-1]) == {1, 2, 3, 4, 5, 6, 7}
    assert 0.2 < sum(count > 1 for count in counts) / len(counts) < 0.4
