"""Tables of the real models: fits, tasks and peers of a plan become one line for each checkpoint."""

import sys
from pathlib import Path

import pytest

from vocabpress.results import Result, write_results

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
SIZES = {"table_float32": 3200, "model": 10_000}


@pytest.fixture
def realtables(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import realtables

    monkeypatch.setattr(realtables, "RESULTS", tmp_path)
    yield realtables
    for name in ("realtables", "mdtable"):
        sys.modules.pop(name, None)


def add(folder, task, variant, table, metrics, seconds=1.0, details=None, **settings):
    known = {"ratio": None, "recovered": None, **settings}
    row = Result(task, variant, known, SIZES | {"table": table}, metrics, seconds, details or {})
    write_results(folder / f"{task}-{variant}-{table}.json", [row])


def test_a_checkpoint_is_one_line_with_all_that_was_measured(realtables, tmp_path):
    ours, peer = tmp_path / "plan" / "results", tmp_path / "plan" / "peers" / "rtn-4-bit"
    add(ours, "press", "tcq", 200, {"relative_error": 0.1}, 34.4, ratio=16)
    add(ours, "clm", "tcq", 200, {"perplexity": 20.0, "kl": 0.5}, ratio=16)
    add(ours, "recover", "tcq", 201, {"held_out_after": 1.0}, ratio=16, recovered={"steps": 9})
    add(ours, "clm", "original", 1600, {"perplexity": 18.0})
    add(peer, "clm", "RTN", 400, {"perplexity": 19.0}, details={"coding_seconds": 2.0}, peer=True)
    lines = realtables.compared("plan", realtables.LANGUAGE).splitlines()
    assert lines[0] == "|  | table | bits a weight | all weights | perplexity | KL, nats | seconds to fit |"
    assert lines[2:] == [
        "| original | 1.60 kB | 16.00 | 10.00 kB | 18.00 | - | - |",
        "| rtn-4-bit | 400 B | 4.00 | 10.00 kB | 19.00 | - | 2 |",
        "| tcq, 16x, recovered | 201 B | 2.01 | 10.00 kB | - | - | - |",
        "| tcq, 16x | 200 B | 2.00 | 10.00 kB | 20.00 | 0.5000 | 34 |",
    ]
    shown = realtables.compared("plan", realtables.LANGUAGE, ("original", "rtn")).splitlines()
    assert len(shown) == 4
    assert "KL" not in shown[0]


def test_what_was_not_measured_is_a_line_that_says_so(realtables):
    assert realtables.PLACEHOLDER in realtables.compared("plan", realtables.LANGUAGE)
    assert realtables.PLACEHOLDER in realtables.tied_heads()


def test_a_head_is_one_line_with_each_way_of_reading(realtables, tmp_path):
    settings = {"cell": "tcq, 8x"}
    rows = [Result("tied_heads", "quality", settings, {"table": 400}, {"perplexity": 20.0}, 30.0)]
    rows.append(Result("tied_heads", "resident", settings, {"memory": 2000}, {"tokens_per_second": 9.5}, 1.0))
    write_results(tmp_path / "tied_heads.json", rows)
    line = realtables.tied_heads().splitlines()[2]
    assert line == "| tcq, 8x | 400 B | 20.00 | - | - | 30 | - | - | 2.00 kB | - | - | 9.5 |"
