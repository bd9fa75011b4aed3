"""`vocabpress exec`: a program that never heard of vocabpress reads a compressed checkpoint."""

import subprocess
import sys

import pytest

import tiny
from command import run
from vocabpress import SVD, Budget, compress

SCRIPT = """
import sys
from helper import loader
print("given", sys.argv[1:], __name__)
model = loader().from_pretrained(sys.argv[2])
print("read", type(model.get_input_embeddings()).__name__)
sys.exit(3)
"""


@pytest.fixture
def script(tmp_path):
    (tmp_path / "program.py").write_text(SCRIPT, encoding="utf-8")
    (tmp_path / "helper.py").write_text("def loader():\n    from transformers import AutoModel\n    return AutoModel\n")
    return tmp_path / "program.py"


def test_a_program_reads_a_compressed_checkpoint(script, tmp_path):
    compress(
        tiny.save("bert", tmp_path / "source"), tmp_path / "out", method=SVD(), budget=Budget.ratio(6), measure=False
    )
    command = [sys.executable, "-m", "vocabpress.cli", "exec", str(script), "--model", str(tmp_path / "out"), "-h"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert f"given ['--model', '{tmp_path / 'out'}', '-h'] __main__" in done.stdout
    assert "read TokenEmbedding" in done.stdout


def test_commands_and_modules_run_too(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["vocabpress"])
    with pytest.raises(SystemExit) as stop:
        run(capsys, "exec", "vocabpress", "--help")
    assert stop.value.code == 0
    assert "Compress the vocabulary table" in capsys.readouterr().out
    code, out, _ = run(capsys, "exec", "this")
    assert code == 0
    assert "Zen of Python" in out


def test_errors_of_the_program_are_its_own_and_a_missing_one_is_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["vocabpress"])
    (tmp_path / "fails.py").write_text("raise ValueError('of the program')")
    code, _, err = run(capsys, "exec", tmp_path / "fails.py")
    assert code == 1
    assert "Traceback" in err
    assert "ValueError: of the program" in err
    for missing in ("no-such-program", "no.such", str(tmp_path / "none.py")):
        code, _, err = run(capsys, "exec", missing)
        assert (code, len(err.strip().splitlines())) == (2, 1)
        assert f"no Python program '{missing}'" in err
