"""What a command line says first: at once, without torch; and what it says to files and programs."""

import json
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

import tiny
import vocabpress
from command import run
from vocabpress import progress
from vocabpress.calibrate import GateSettings
from vocabpress.cli import names
from vocabpress.evaluate import GLUE, TASKS
from vocabpress.hf.inner import BODIES
from vocabpress.hf.request import PRESETS
from vocabpress.job.whole_request import BITS
from vocabpress.methods import METHODS
from vocabpress.methods.ldlq import LDLQ
from vocabpress.recover import OBJECTIVES, Recovery

AT_ONCE = """
import contextlib, io, json, sys
from vocabpress.cli import main
said = []
for arguments in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    heavy = sorted({"torch", "transformers", "numpy"} & set(sys.modules))
    said.append([code, out.getvalue(), err.getvalue(), heavy])
print(json.dumps(said))
"""


def test_what_needs_no_torch_does_not_wait_for_it(tmp_path):
    source = str(tiny.save("bert", tmp_path / "in"))
    commands = [
        [], ["--help"], ["-h"], ["--version"], ["compress", "--help"], ["inspect", "-h"], ["sweep", "-h"],
        ["compress", source, "-o", "out", "--sparkle"], ["compress", source], ["inspect", "/no/such/folder"],
        ["compress", "./misspelt", "-o", "out"], ["evaluate", "/no/such", "--task", "sts"], ["squash"],
        ["recover", "/no/such", "--teacher", source, "-o", "out"], ["trim", "/no/such", "-o", "out"],
        ["export", "/no/such", "-o", "out"], ["calibrate", "/no/such", "-o", "out"],
        ["compress", source, "-o", "out", "--ratio", "5", "--size", "1MB"], ["sweep", "none.toml"],
        ["compress", source, "-o", "out", "--set", "half"],
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", AT_ONCE, json.dumps(commands)], capture_output=True, text=True, check=True
    )
    for arguments, (code, out, err, heavy) in zip(commands, json.loads(done.stdout), strict=True):
        assert not heavy, arguments
        if arguments[-1:] in (["--help"], ["-h"], ["--version"]):
            assert (code, err) == (0, ""), arguments
            assert out.startswith(("Usage: ", "vocabpress 0.")), arguments
        elif arguments:
            assert (code, out) == (2, ""), arguments
            assert err.startswith("vocabpress: error: "), arguments
            assert err.count("\n") == 1, arguments


LOADED = """
import sys
import vocabpress
assert "torch" not in sys.modules and "transformers" not in sys.modules
from transformers import AutoModel
for folder in sys.argv[1:]:
    model = AutoModel.from_pretrained(folder)
    print(type(model).__name__, type(model.get_input_embeddings()).__name__)
import vocabpress.hf.quantizer, transformers.quantizers.auto as auto
assert auto.AUTO_QUANTIZER_MAPPING["vocabpress"] is vocabpress.hf.quantizer.VocabpressQuantizer
"""


BEFORE = pytest.param("from transformers import AutoModel; import vocabpress", marks=pytest.mark.slow)


@pytest.mark.parametrize("first", ["import vocabpress", BEFORE])
def test_the_import_is_light_and_registers_what_comes_later(first, tmp_path):
    source = tiny.save("bert", tmp_path / "in")
    vocabpress.compress(source, tmp_path / "small", method="svd", budget=vocabpress.Budget.ratio(4), measure=False)
    vocabpress.static_embedding(tmp_path / "small", tmp_path / "static")
    code = (
        LOADED
        if first == "import vocabpress"
        else f"{first}\n" + "\n".join(LOADED.splitlines()[4:]).replace("for folder", "import sys\nfor folder")
    )
    command = [sys.executable, "-c", code, str(tmp_path / "static"), str(tmp_path / "small")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["StaticModel TokenEmbedding", "BertModel TokenEmbedding"]


def test_all_that_is_exported_is_there():
    for name in vocabpress.__all__:
        assert getattr(vocabpress, name) is not None
    assert set(vocabpress.__all__) <= set(dir(vocabpress))
    assert vocabpress.__version__.count(".") == 2
    with pytest.raises(AttributeError, match="has no attribute 'sparkle'"):
        _ = vocabpress.sparkle
    assert files("vocabpress").joinpath("py.typed").is_file()


def test_what_help_names_is_what_there_is(capsys):
    *rates, last = (f"{bits:g}" for bits in LDLQ().rates)
    said = " ".join(run(capsys, "compress", "--help")[1].split())
    assert f"Bits of a weight with --body trellis: {', '.join(rates)} or {last}. [{BITS:g}]" in said
    assert set(names.METHODS) == set(METHODS)
    assert tuple(TASKS) == names.TASKS
    assert names.GLUE == GLUE
    assert tuple(PRESETS) == names.PRESETS
    assert names.BODIES == BODIES
    assert tuple(OBJECTIVES) == names.OBJECTIVES
    assert (Recovery.steps, GateSettings.epochs) == (400, 10)  # as the options have it


def test_logs_in_a_file_are_lines(tmp_path, monkeypatch):
    """In a process of its own, as in a job: nothing of other libraries, no carriage returns; stdout is one document."""
    source = tiny.save("gpt2", tmp_path / "in")
    program = "import vocabpress.progress as p, sys; p.DELAY = 0.0\nfrom vocabpress.cli import main\nsys.exit(main())"
    command = [sys.executable, "-c", program, "compress", source, "-o", tmp_path / "out", "--ratio", "4", "--json"]
    done = subprocess.run([str(part) for part in command], capture_output=True, check=False)
    log = done.stderr.decode()
    assert done.returncode == 0, log
    assert json.loads(done.stdout)["method"] == "tcq"
    assert "\r" not in log
    assert "TCQ: codes: done after " in log
    for noise in ("Loading weights", "Writing model", "Batches", "torchao", "|", "UserWarning"):
        assert noise not in log, noise


def test_json_is_all_that_is_on_stdout(tmp_path, capsys):
    source = tiny.save("bert", tmp_path / "in")
    (tmp_path / "text.txt").write_text("w1 w2 w3\n" * 30)
    svd = ("--method", "svd", "--ratio", "4")
    plan = f'model = "{source}"\noutput = "sweep"\nratios = [4]\n[methods.svd]\n[tasks.reconstruction]\n'
    (tmp_path / "plan.toml").write_text(plan)
    commands = {
        "inspect": [source],
        "compress": [source, "-o", tmp_path / "out", *svd],
        "compress --dry-run": [source, *svd],
        "inspect compressed": [tmp_path / "out"],
        "trim": [source, "-o", tmp_path / "trimmed", "--text", tmp_path / "text.txt"],
        "evaluate": [tmp_path / "out", "--against", source, "--task", "reconstruction", "-o", tmp_path / "results"],
        "report": [tmp_path / "results", "-o", tmp_path / "page.html"],
        "sweep --dry-run": [tmp_path / "plan.toml"],
    }
    for name, arguments in commands.items():
        command, *more = name.removesuffix(" compressed").split()
        code, out, err = run(capsys, command, *arguments, *more, "--json")
        assert code == 0, (name, err)
        assert isinstance(json.loads(out), dict), name
        assert err.strip(), name


def test_a_dry_run_takes_the_method_that_compress_would_take_and_writes_nothing(tmp_path, capsys):
    for name, method, command in (
        ("gpt2", "tcq", ("compress", "--dry-run")),
        ("llama, untied", "tcq", ("compress", "--dry-run", "-o", tmp_path / "o")),
    ):
        source = tiny.save(name, tmp_path / name)
        before = sorted(tmp_path.rglob("*"))
        code, out, err = run(capsys, *command, source, "--ratio", "4", "--json")
        assert code == 0, err
        assert json.loads(out)["method"] == method
        code, out, err = run(capsys, "compress", source, "-o", tmp_path / "o", "--set", "bloks=3")
        assert (code, out) == (2, "")
        assert f"method {method} has no field 'bloks'; it has blocks, " in err
        assert sorted(tmp_path.rglob("*")) == before


def test_inspect_shows_one_small_matrix(tmp_path, capsys):
    for name, method in (("bert", "tcq"), ("llama, untied", "tcq")):
        code, out, err = run(capsys, "inspect", tiny.save(name, tmp_path / name))
        assert code == 0, err
        assert out.count("\n") < 30
        lines = [line.split() for line in out.splitlines()]
        first = next(number for number, line in enumerate(lines) if line[:1] == ["method"])
        assert lines[first][2:] == ["5x", "10x", "25x", "50x", "100x"]
        assert lines[first + 2][:2] == [method, "(recommended)"]
        assert "singular value" not in out
        code, out, _ = run(capsys, "inspect", tmp_path / name, "--verbose")
        assert "singular value" in out


def test_bytes_that_a_search_or_the_table_decides_are_a_limit(tmp_path, capsys):
    code, out, _ = run(capsys, "inspect", tiny.save("llama, untied", tmp_path / "in"), "--json")
    assert code == 0
    found = json.loads(out)
    limit = {ratio: tiny.VOCAB * 32 * 4 // ratio for ratio in (5, 10, 25, 50, 100)}
    rows = {(row["method"], row["ratio"]): row for row in found["would_store"]}
    assert found["recommended"] == found["would_store"][0]["method"] == "tcq"
    for (method, ratio), row in rows.items():
        assert row["bytes"] is None or row["bytes"] <= limit[ratio]
        if method in ("tcq", "fastscan", "residual", "product") and row["bytes"] is not None:
            assert (row["bytes"], row["exact"], row["plan"]) == (limit[ratio], False, None)
    assert rows["svd", 5]["exact"]
    assert rows["svd", 5]["bytes"] < limit[5]


def test_evaluate_shows_before_after_and_the_difference(tmp_path, capsys):
    source = tiny.save("gpt2", tmp_path / "in")
    vocabpress.compress(source, tmp_path / "small", method="svd", budget=vocabpress.Budget.ratio(4), measure=False)
    (tmp_path / "text.txt").write_text("w1 w2 w3 w4 w5 w6\n" * 30)
    tasks = ("--task", "clm", "--task", "reconstruction", "--text", tmp_path / "text.txt")
    arguments = ("evaluate", tmp_path / "small", "--against", source, *tasks, "-o", tmp_path / "results")
    code, out, err = run(capsys, *arguments)
    assert code == 0, err
    head = next(line.split() for line in out.splitlines() if line.split()[:1] == ["clm"])
    assert head == ["clm", "before", "after", "difference"]
    assert not any(line.split()[:2] == ["reconstruction", "before"] for line in out.splitlines())
    assert {file.name for file in (tmp_path / "results" / "original").iterdir()} == {"clm.json"}
    code, out, _ = run(capsys, *arguments, "--json")
    found = json.loads(out)
    assert [result["task"] for result in found["results"]] == ["clm", "reconstruction"]
    assert [result["task"] for result in found["original"]] == ["clm"]
    name = "perplexity"
    before, after = (next(r["metrics"] for r in found[key] if r["task"] == "clm") for key in ("original", "results"))
    assert any(before[key] != after[key] for key in before if key.startswith(name))


@pytest.mark.slow
def test_a_reader_that_goes_away_costs_no_fit(tmp_path):
    """As behind `| head -1`: stdout and stderr are closed long before the end."""
    source = tiny.save("bert", tmp_path / "in")
    program = "import vocabpress.progress as p, sys; p.DELAY = 0.0\nfrom vocabpress.cli import main\nsys.exit(main())"
    command = [sys.executable, "-c", program, "compress", source, "-o", tmp_path / "out", "--ratio", "4"]
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    process.stdout.close()
    process.wait(timeout=120)
    assert (tmp_path / "out" / "model.safetensors").is_file()


class Terminal:
    """A stream that says it is one."""

    def __init__(self, terminal):
        self.terminal, self.said = terminal, []

    def isatty(self):
        return self.terminal

    def write(self, text):
        self.said.append(text)

    def flush(self):
        pass


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def watched(monkeypatch, clock, terminal, steps=40, seconds=1.0, inner=0):
    stream = Terminal(terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    for _ in progress.Bar(range(steps), desc="job"):
        for _ in progress.Bar(range(inner), desc="part"):
            clock[0] += seconds / inner
        clock[0] += 0 if inner else seconds
    return "".join(stream.said)


def test_a_log_has_a_line_each_ten_per_cent_and_a_quick_job_none(monkeypatch, clock):
    lines = watched(monkeypatch, clock, terminal=False).splitlines()
    assert 8 <= len(lines) <= 12
    assert all(re.fullmatch(r"job: \d+% after \d+ s, about \d+ s left", line) for line in lines[:-1])
    assert lines[-1] == "job: done after 40 s"
    assert watched(monkeypatch, clock, terminal=False, seconds=0.01) == ""


def test_a_log_of_a_slow_job_has_a_line_each_thirty_seconds(monkeypatch, clock):
    lines = watched(monkeypatch, clock, terminal=False, steps=1000, seconds=10.0).splitlines()
    assert 300 < len(lines) < 345
    assert not any("part" in line for line in lines)


def test_parts_move_the_bar_of_their_job(monkeypatch, clock):
    alone = watched(monkeypatch, clock, terminal=False, steps=2, seconds=40.0, inner=8)
    assert 8 <= len(alone.splitlines()) <= 12  # of 2 steps with 8 parts each
    assert "part" not in alone


def test_a_terminal_gets_a_bar(monkeypatch, clock):
    drawn = watched(monkeypatch, clock, terminal=True)
    assert "\r" in drawn
    assert "job:  50%|" in drawn
    assert " left" in drawn


def test_nothing_is_drawn_where_nobody_asked(monkeypatch, clock):
    stream = Terminal(False)
    monkeypatch.setattr(sys, "stderr", stream)
    with progress.Bar(total=10, desc="x", disable=True) as bar:
        for _ in range(10):
            clock[0] += 60
            bar.update()
    assert stream.said == []
    assert Path(progress.__file__).is_file()
