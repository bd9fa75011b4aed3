"""The command that measures."""

import json

import pytest

from command import run
from measuring import save_maskable
from vocabpress.evaluate import evaluate, make_task
from vocabpress.evaluate.table import TableErrors
from vocabpress.results import read_results


def test_the_command_prints_tables_and_one_line_of_json(source, small, text, capsys):
    folder, _ = small
    arguments = ("--task", "reconstruction", "--task", "agreement", "--against", source, "--text", text)
    code, out, err = run(
        capsys, "evaluate", folder, *arguments, "--subset", 9, "--set", "agreement.max_length=7", "--json"
    )
    assert code == 0, err
    assert "neighbours kept" in err
    assert len(out.splitlines()) == 1
    results = json.loads(out.splitlines()[-1])["results"]
    assert [result["task"] for result in results] == ["reconstruction", "agreement"]
    assert results[0]["settings"]["text"] == ["text.txt"]
    assert results[1]["settings"]["task"] == {"max_length": 7, "batch_size": 8, "subset": 9}
    direct = evaluate(
        folder, {"agreement": make_task("agreement", max_length=7, subset=9)}, against=source, text=[text]
    )
    assert results[1]["metrics"] == direct[0].metrics


def test_a_second_run_measures_nothing_again(source, small, tmp_path, capsys, monkeypatch):
    folder, _ = small
    arguments = ("evaluate", folder, "--task", "reconstruction", "--against", source, "-o", tmp_path / "out", "--json")
    code, first, _ = run(capsys, *arguments)
    assert code == 0
    file = tmp_path / "out" / "reconstruction.json"
    before = file.read_bytes()
    assert len(read_results(file)) == 1

    def measure(self, subject):
        raise AssertionError("measured again")

    monkeypatch.setattr(TableErrors, "measure", measure)
    code, second, _ = run(capsys, *arguments)
    assert code == 0
    assert json.loads(second.splitlines()[-1]) == json.loads(first.splitlines()[-1])
    code, out, err = run(capsys, *arguments, "--set", "k=3")
    assert (code, out) == (2, "")
    assert "holds a result of other settings" in err
    assert file.read_bytes() == before


def test_several_seeds_get_a_mean_and_a_spread(tmp_path, text, capsys, monkeypatch):
    source = save_maskable(tmp_path / "model")
    arguments = (
        "--task",
        "mlm",
        "--text",
        text,
        "--set",
        "min_tokens=3",
        "--seeds",
        3,
        "-o",
        tmp_path / "out",
        "--json",
    )
    code, out, err = run(capsys, "evaluate", source, *arguments)
    assert code == 0, err
    results = json.loads(out.splitlines()[-1])["results"]
    assert [result["settings"]["seed"] for result in results] == [0, 1, 2]
    values = [result["metrics"]["perplexity_head_compressed"] for result in results]
    assert len(set(values)) == 3
    assert "spread" in err
    assert f"{sum(values) / 3:,.0f}" in err
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [f"mlm-seed{n}.json" for n in range(3)]


def bad_commands(source, tmp):
    (tmp / "file").write_text("x")
    (tmp / "empty.txt").write_text("\n")
    table = ("evaluate", source, "--task", "reconstruction")
    return {
        "no task": (("evaluate", source), "Missing option '--task'"),
        "unknown task": (("evaluate", source, "--task", "chess", "--set", "k=1"), "unknown task 'chess'; choose from"),
        "no original": (table, "comparing tables needs the original model; give it with --against"),
        "no text": (("evaluate", source, "--task", "clm"), "needs text; give UTF-8 files with --text"),
        "empty text": ((*table, "--against", source, "--text", tmp / "empty.txt"), "holds no text"),
        "no data": (("evaluate", source, "--task", "sts"), "needs stsbenchmark/sts-dev.tsv; give the folder"),
        "other data": (("evaluate", source, "--task", "similarity", "--data", tmp), "has no word-similarity; give"),
        "no subset": ((*table, "--subset", "5"), "--subset: no chosen task has this field"),
        "no epochs": ((*table, "--epochs", "5"), "--epochs: no chosen task has this field"),
        "no seeds": ((*table, "--seeds", "2"), "no chosen task depends on the seed"),
        "zero seeds": ((*table, "--seeds", "0"), "--seeds is the number of runs, at least 1"),
        "unknown field": ((*table, "--set", "colour=red"), "--set colour: no chosen task has this field"),
        "field of another": ((*table, "--set", "mlm.block=9"), "--set mlm.block: mlm is not a chosen task"),
        "unknown field of one": ((*table, "--set", "reconstruction.x=9"), "has no field 'x'; it has k, queries, words"),
        "bad value": ((*table, "--set", "k=many"), "k should be a valid integer"),
        "out of range": ((*table, "--set", "k=0"), "k should be greater than or equal to 1, got '0'"),
        "output is a file": ((*table, "-o", tmp / "file"), "exists and is a file"),
        "unknown device": ((*table, "--device", "abacus"), "can't use the device 'abacus'"),
        "wrong kind": (
            ("evaluate", source, "--task", "clm", "--text", tmp / "file"),
            "is a BertForMaskedLM, a masked language model; measure it with --task mlm",
        ),
    }


NAMES = [
    "no task", "unknown task", "no original", "no text", "empty text", "no data", "other data", "no subset",
    "no epochs", "no seeds", "zero seeds", "unknown field", "field of another", "unknown field of one", "bad value",
    "out of range", "output is a file", "unknown device", "wrong kind",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_bad_input_is_one_line_and_exit_code_2(name, source, tmp_path, capsys):
    cases = bad_commands(source, tmp_path)
    assert list(cases) == NAMES
    arguments, words = cases[name]
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run(capsys, *arguments)
    lines = [line for line in err.replace("\r", "\n").splitlines() if line.startswith("vocabpress: ")]
    assert (code, out, len(lines)) == (2, "", 1), err
    assert words in lines[0]
    assert sorted(tmp_path.rglob("*")) == before


def test_the_group_glue_is_its_nine_tasks(source, capsys):
    code, _, err = run(capsys, "evaluate", source, "--task", "glue", "--set", "cola.colour=red")
    assert code == 2
    assert "task cola has no field 'colour'" in err


def test_help(capsys):
    code, out, _ = run(capsys, "evaluate", "--help")
    assert code == 0
    assert all(word in out for word in ("--against", "--seeds", "reconstruction", "squad"))
