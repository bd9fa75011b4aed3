"""README and docs say what is so: code runs, figures are those of the results, every method has its page."""

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import tiny
from vocabpress import EMBEDDINGS, METHODS
from vocabpress.results import read_results

ROOT = Path(__file__).parents[1]


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    source = tiny.save("bert", tmp_path / "model")
    lines = [f"w{i} w{2 * i} w{3 * i}" for i in range(60)]  # in the only language of its tokenizer
    monkeypatch.setattr("vocabpress.calibrate.declaration.declarations", lambda: {"xx": lines})
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    names = {"model": str(source)}
    for block in blocks:
        exec(block, names)
    assert "->" in capsys.readouterr().out


def test_figures_come_from_the_results():
    for script in ("render.py", "picture.py"):
        check = subprocess.run(
            [sys.executable, ROOT / "benchmarks" / script, "--check"], capture_output=True, text=True, check=False
        )
        assert check.returncode == 0, check.stdout
    for file in (ROOT / "benchmarks" / "results").rglob("*.json"):
        for result in read_results(file):
            assert result.environment["uncommitted_changes"] is False, f"{file}: {result.variant}"


def test_every_method_has_a_page_that_names_its_fields():
    overview = (ROOT / "docs" / "methods" / "README.md").read_text(encoding="utf-8")
    for name, cls in METHODS.items():
        page = (ROOT / "docs" / "methods" / f"{name}.md").read_text(encoding="utf-8")
        assert f"({name}.md)" in overview
        for field in fields(cls):
            assert f"`{field.name}`" in page, f"{name}: {field.name}"
        assert len(fields(cls)) <= 8


def test_the_format_page_names_every_form():
    page = (ROOT / "docs" / "format.md").read_text(encoding="utf-8")
    assert all(f"| `{form}` |" in page for form in EMBEDDINGS)


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_links_lead_somewhere():
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("benchmarks/*.md")]
    for page in pages:
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if not link.startswith(("http", "#")):
                assert (page.parent / link.partition("#")[0]).exists(), f"{page.name}: {link}"
