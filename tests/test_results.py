"""Result files: what they hold of the software that was measured, and that earlier ones are read."""

import os
import shutil
import subprocess
from dataclasses import asdict

import pytest

from vocabpress import Budget, results
from vocabpress.results import Result, read_results, write_results


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not here")
def test_the_repository_that_is_asked_for_its_state_is_only_read(tmp_path, monkeypatch):
    module = tmp_path / "module.py"
    module.write_text("first", encoding="utf-8")

    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    os.utime(module, (1, 1))  # git would write down that it is still the same, under a lock that a kill leaves behind
    index = tmp_path / ".git" / "index"
    before = index.read_bytes()
    monkeypatch.setattr(results, "__file__", str(module))
    found = results.environment()
    assert len(found["commit"]) == 40
    assert found["uncommitted_changes"] is False
    assert index.read_bytes() == before
    module.write_text("second", encoding="utf-8")
    assert results.environment()["uncommitted_changes"] is True


def test_results_are_read_back_and_budgets_of_earlier_versions_are_fields(tmp_path):
    budget = asdict(Budget.ratio(25))
    rows = [
        Result("sts", "svd", {"budget": each}, {"table": 9}, {"mean": 0.5}, 1.0)
        for each in (budget, "ratio 25 to float32")
    ]
    write_results(tmp_path / "deep" / "a.json", rows)
    first, second = read_results(tmp_path / "deep" / "a.json")
    assert first == rows[0]
    assert second.settings == {"budget": budget}
