import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from command import run
from vocabpress.job import write as write_module


def small(source, output, *more):
    return ("compress", source, "-o", output, "--method", "svd", "--ratio", "6", *more)


def test_compress_prints_a_table_and_one_line_of_json(source, tmp_path, capsys):
    code, out, err = run(capsys, *small(source, tmp_path / "out", "--json", "--set", "factors=int8"))
    assert code == 0
    assert "times smaller" in err
    report = json.loads(out)
    assert report["settings"] == {"factors": "int8"}
    assert report["table_bytes_after"] * 6 <= report["table_bytes_before"]
    assert (tmp_path / "out" / "model.safetensors").stat().st_size == report["model_bytes_after"]


@pytest.mark.parametrize(
    "how", [("--bits-per-weight", "4"), ("--size", "3kB"), ("--ratio", "4", "--reference", "bfloat16"), ()]
)
def test_the_ways_to_say_how_small(source, tmp_path, capsys, how):
    arguments = ("compress", source, "-o", tmp_path / "out", "--method", "svd", "--set", "factors=int4", *how, "--json")
    code, out, err = run(capsys, *arguments)
    assert code == 0, err
    limits = {"--bits-per-weight": 4 * tiny.VOCAB * 32 / 8, "--size": 3000, "--ratio": tiny.VOCAB * 32 * 2 / 4}
    assert json.loads(out.splitlines()[-1])["table_bytes_after"] <= limits.get(
        how[0] if how else "", tiny.VOCAB * 32 * 4 / 25
    )


def test_the_default_method_suits_a_tied_head_and_seeds_repeat(source, tmp_path, capsys):
    files = []
    for name in ("a", "b"):
        code, out, _ = run(capsys, "compress", source, "-o", tmp_path / name, "--ratio", "6", "--seed", "3", "--json")
        assert code == 0
        assert json.loads(out.splitlines()[-1])["method"] == "tcq"
        files.append(load_file(tmp_path / name / "model.safetensors"))
    assert all(torch.equal(files[0][key], files[1][key]) for key in files[0] if files[0][key].dtype == torch.uint8)


def test_inspect(source, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("w1 w2 w3 w1\n" * 20, encoding="utf-8")
    code, out, _ = run(capsys, "inspect", source, "--text", text, "--plot", tmp_path / "s.png", "--json")
    assert code == 0
    found = json.loads(out.splitlines()[-1])
    assert found["tables"][0]["name"] == "bert.embeddings.word_embeddings"
    assert found["tables"][0]["tied"] == ["cls.predictions.decoder"]
    table = load_file(source / "model.safetensors")["bert.embeddings.word_embeddings.weight"]
    expected = torch.linalg.svdvals(table - table.mean(0))
    torch.testing.assert_close(torch.tensor(found["singular_values"]), expected, rtol=1e-3, atol=1e-4)
    assert found["skew"] == {"tokens": 80, "used": 3 / tiny.VOCAB, "top": {"10": 1.0, "100": 1.0}}
    rows = {(row["method"], row["ratio"]): row for row in found["would_store"]}
    assert rows["svd", 5.0]["bytes"] <= tiny.VOCAB * 32 * 4 / 5
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")


def test_inspect_saves_counts_that_compress_reads(source, tmp_path, capsys):
    text, counts = tmp_path / "text.txt", tmp_path / "counts.safetensors"
    text.write_text("w1 w2 w3 w1\n" * 20, encoding="utf-8")
    assert run(capsys, "inspect", source, "--text", text, "--save-counts", counts)[0] == 0
    code, out, _ = run(capsys, *small(source, tmp_path / "out", "--calibration", counts, "--json"))
    assert code == 0
    assert json.loads(out.splitlines()[-1])["weighted_by"] == "text"


def test_inspect_reads_what_compress_wrote(source, tmp_path, capsys):
    _, out, _ = run(capsys, *small(source, tmp_path / "out", "--json"))
    report = json.loads(out.splitlines()[-1])
    code, out, _ = run(capsys, "inspect", tmp_path / "out", "--json")
    assert code == 0
    found = json.loads(out.splitlines()[-1])
    assert found["fitted_by"]["method"] == "svd"
    (table,) = found["tables"]
    assert table["bytes"] == report["table_bytes_after"] == sum(item["bits"] for item in table["storage"]) // 8
    assert table["ratio_to_float32"] == pytest.approx(report["ratio_to_float32"])
    code, out, err = run(capsys, "inspect", tmp_path / "out", "--plot", tmp_path / "s.png")
    assert (code, out) == (2, "")
    assert "need the original" in err


def spoiled(source, folder, change):
    """A copy of the source with its token table changed."""
    folder.mkdir()
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tensors = load_file(source / "model.safetensors")
    change(tensors["bert.embeddings.word_embeddings.weight"])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def crushed(source, folder, method="vocabpress"):
    """A copy of the source whose config says that it is compressed."""
    spoiled(source, folder, lambda table: None)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": method}}))
    return folder


def renamed(source, folder):
    """A copy of the source whose table has another name, so that transformers would make one of random numbers."""
    spoiled(source, folder, lambda table: None)
    tensors = load_file(folder / "model.safetensors")
    tensors["elsewhere.weight"] = tensors.pop("bert.embeddings.word_embeddings.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def adapter(folder):
    """A folder such as peft writes."""
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (folder / "adapter_model.safetensors").write_bytes(b"")
    return folder


def in_part(source, folder):
    """A copy of the source of which one of two files has not come yet."""
    spoiled(source, folder, lambda table: None)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return folder


def from_the_future(source, folder):
    """A copy of the source as a later version of this library might write it."""
    crushed(source, folder)
    config = json.loads((folder / "config.json").read_text())
    stored = {"quant_method": "vocabpress", "format_version": 99, "tables": {}}
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": stored}))
    return folder


def bad_inputs(source, tmp):
    """Name -> (arguments, words of the one line)."""
    empty, full, file = tmp / "empty", tmp / "full", tmp / "file"
    empty.mkdir()
    full.mkdir()
    (full / "precious.txt").write_text("keep me")
    file.write_text("x")
    weightless = tmp / "weightless"
    weightless.mkdir()
    (weightless / "config.json").write_bytes((source / "config.json").read_bytes())
    cut = tmp / "cut"
    cut.mkdir()
    for item in source.iterdir():
        (cut / item.name).write_bytes(item.read_bytes()[: 2000 if item.suffix == ".safetensors" else None])
    (tmp / "blank.txt").write_text(" \n")
    (tmp / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    not_a_number = spoiled(source, tmp / "nan", lambda table: table[5].fill_(torch.nan))
    infinite = spoiled(source, tmp / "inf", lambda table: table[5:7].fill_(torch.inf))
    out = tmp / "out"
    return {
        "no such model": (small("no/such-model", out), "no such model: 'no/such-model'"),
        "no such folder": (small("/no/such/folder", out), "no such model"),
        "a file": (small(file, out), "is a file; give the folder"),
        "no config": (small(empty, out), "has no config.json"),
        "no weights": (small(weightless, out), "no weights"),
        "cut-off weights": (small(cut, out), "can't load"),
        "NaN rows": (small(not_a_number, out), "1 of 211 rows hold NaN or infinite values, the first is row 5"),
        "infinite rows": (small(infinite, out), "2 of 211 rows"),
        "ratio below 1": (("compress", source, "-o", out, "--ratio", "0.5"), "a ratio is at least 1, got 0.5"),
        "ratio that is no number": (("compress", source, "-o", out, "--ratio", "lots"), "Invalid value for '--ratio'"),
        "ratio out of reach": (
            ("compress", source, "-o", out, "--method", "svd", "--ratio", "5000"),
            "the least that SVD can store is 550 bytes (ratio 49.11 to float32)",
        ),
        "size out of reach": (("compress", source, "-o", out, "--size", "17"), "the least that TCQ can store"),
        "two budgets": (("compress", source, "-o", out, "--ratio", "5", "--size", "1MB"), "give one"),
        "unknown method": (("compress", source, "-o", out, "--method", "zip"), "unknown method 'zip'; choose from svd"),
        "unknown field": (small(source, out, "--set", "colour=red"), "has no field 'colour'; it has factors"),
        "field of no method": (
            ("compress", source, "-o", out, "--set", "bloks=2"),
            "method tcq has no field 'bloks'; it has blocks, min_bits, unbiased, memory",
        ),
        "half a field": (small(source, out, "--set", "factors"), "--set takes field=value, got 'factors'"),
        "bad value": (
            small(source, out, "--set", "factors=int5"),
            "factors should be 'float16', 'int8' or 'int4', got 'int5'",
        ),
        "unknown reference": (small(source, out, "--reference", "int8"), "unknown reference dtype 'int8'"),
        "empty text": (small(source, out, "--text", tmp / "blank.txt"), "holds no text"),
        "latin-1 text": (small(source, out, "--text", tmp / "latin.txt"), "is not UTF-8 text"),
        "missing text": (small(source, out, "--text", tmp / "none.txt"), "no such text file"),
        "missing calibration": (small(source, out, "--calibration", tmp / "none"), "no such calibration file"),
        "text and calibration": (
            small(source, out, "--text", tmp / "blank.txt", "--calibration", "vocabulary-order"),
            "give one of them",
        ),
        "output not empty": (small(source, full), "exists and is not empty"),
        "output is a file": (small(source, file), "exists and is a file"),
        "output can't be written": (small(source, "/proc/nowhere/out"), "can't write /proc/nowhere/out"),
        "no output": (("compress", source), "Missing option '-o'"),
        "unknown option": (small(source, out, "--sparkle"), "No such option: --sparkle"),
        "unknown command": (("squash", source), "No such command 'squash'"),
        "unknown device": (small(source, out, "--device", "abacus"), "can't use the device 'abacus'"),
        "inspect nothing": (("inspect", "/no/such/folder"), "no such model"),
        "plot nowhere": (("inspect", source, "--plot", "/proc/nowhere/s.png"), "can't write the picture"),
        "counts of nothing": (("inspect", source, "--save-counts", out), "no token counts to save; give text"),
        "no table": (small(renamed(source, tmp / "renamed"), out), "have no bert.embeddings.word_embeddings.weight"),
        "an adapter": (small(adapter(tmp / "adapter"), out), "is an adapter, not a model; merge it into its base"),
        "downloaded in part": (
            small(in_part(source, tmp / "part"), out),
            "model-00002-of-00002.safetensors is missing",
        ),
        "a newer format": (("evaluate", from_the_future(source, tmp / "new"), "--task", "sts"), "99"),
        "compressed already": (small(crushed(source, tmp / "crushed"), out), "compressed or quantised already"),
        "a body of no known kind": (
            small(crushed(source, tmp / "strange", "abacus"), out),
            "can't load a body quantised by abacus",
        ),
        "no such body": (small(source, out, "--body", "int7"), "unknown body 'int7'; choose from trellis, int8"),
    }


NAMES = [
    "no such model", "no such folder", "a file", "no config", "no weights", "cut-off weights", "NaN rows",
    "infinite rows", "ratio below 1", "ratio that is no number", "ratio out of reach", "size out of reach",
    "two budgets", "unknown method", "unknown field", "field of no method", "half a field",
    "bad value", "unknown reference", "empty text",
    "latin-1 text", "missing text", "missing calibration", "text and calibration", "output not empty",
    "output is a file", "output can't be written", "no output", "unknown option", "unknown command", "unknown device",
    "inspect nothing", "plot nowhere", "counts of nothing", "no table", "an adapter", "downloaded in part",
    "a newer format", "compressed already", "a body of no known kind", "no such body",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_bad_input_is_one_line_and_exit_code_2(name, source, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    cases = bad_inputs(source, tmp_path)
    assert list(cases) == NAMES
    arguments, words = cases[name]
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run(capsys, *arguments)
    lines = [line for line in err.replace("\r", "\n").splitlines() if line.startswith("vocabpress: ")]
    assert code == 2
    assert len(lines) == 1
    assert lines[0].startswith("vocabpress: error: ")
    assert words in lines[0]
    assert "Traceback" not in err
    assert out == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_a_full_disk_leaves_nothing(source, tmp_path, capsys, monkeypatch):
    def save(model, folder):
        (folder / "model.safetensors").write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write_module, "save", save)
    code, _, err = run(capsys, *small(source, tmp_path / "deep" / "out"))
    assert code == 2
    assert "No space left on device; free some space" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_an_interruption_leaves_nothing(kind, source, tmp_path):
    """A process stopped while its folder is half written."""
    code = (
        "import signal, sys, time, vocabpress.job.write as w, vocabpress.cli as cli\n"
        # A shell's background job starts with SIGINT ignored; this test may run in one.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def save(model, folder):\n"
        "    (folder / 'model.safetensors').write_bytes(b'half'); print('saving', flush=True); time.sleep(60)\n"
        "w.save = save\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    arguments = [str(part) for part in small(source, tmp_path / "out")]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "saving\n"
    assert list(tmp_path.iterdir())
    time.sleep(0.1)
    os.kill(process.pid, kind)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip().splitlines()[-1] == "interrupted; finished results remain, and no incomplete file is left"
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [(), ("compress",), ("inspect",)])
def test_help(command, capsys):
    code, out, _ = run(capsys, *command, "--help")
    assert code == 0
    assert "Usage" in out


def test_an_empty_output_folder_is_used(source, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    code, _, err = run(capsys, *small(source, tmp_path / "out"))
    assert code == 0, err
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
