import importlib.util
import json
from pathlib import Path

import pytest

from vocabpress.evaluate import Subject
from vocabpress.evaluate.finetuned.glue_data import read_glue
from vocabpress.evaluate.finetuned.squad import read_squad

PLACE = Path(__file__).resolve().parents[1] / "benchmarks" / "layout.py"


@pytest.fixture(scope="module")
def layout():
    spec = importlib.util.spec_from_file_location("layout", PLACE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def article(title, *contexts):
    return {"title": title, "paragraphs": [{"context": context, "qas": []} for context in contexts]}


def test_a_paragraph_on_both_sides_is_an_error(layout):
    layout.check_apart([article("a", "One.", "Two.")], [article("b", "Three.")])
    with pytest.raises(ValueError, match="share 1 titles and paragraphs"):
        layout.check_apart([article("a", "One.", "Two.")], [article("b", "Two. ")])
    with pytest.raises(ValueError, match="share 1 titles and paragraphs"):
        layout.check_apart([article("a", "One.")], [article("a", "Two.")])
    with pytest.raises(ValueError, match="no paragraph is left"):
        layout.check_apart([], [article("a", "Two.")])


def test_what_is_missing_is_named(layout, tmp_path):
    with pytest.raises(ValueError, match=r"no public data sets in .*; give their folder with --shared"):
        layout.lay_out(tmp_path / "none", tmp_path / "out")
    with pytest.raises(ValueError, match=r"no .*glue-cola/dev\.tsv; give the folder"):
        layout.lay_out(tmp_path, tmp_path / "out")


@pytest.mark.data
def test_the_tasks_read_what_is_laid_out(layout, shared_data, tmp_path):
    out = layout.lay_out(shared_data, tmp_path / "data")
    assert layout.lay_out(shared_data, out) == out  # a second time is no harm
    subject = Subject(tmp_path, data=out)
    sizes = {"cola": (8551, 1043), "mrpc": (3668, 408), "rte": (2490, 277), "sst2": (67349, 872)}
    for name, wanted in sizes.items():
        rows, dev = read_glue(name, subject)
        assert (len(rows), len(dev["dev"])) == wanted, name
        assert set(rows["labels"]) == {0, 1}
    mrpc, _ = read_glue("mrpc", subject)
    assert mrpc[0]["text"].startswith('Amrozi accused his brother, whom he called "the witness"')
    assert mrpc[0]["labels"] == 1
    assert (out / "stsbenchmark" / "sts-dev.tsv").resolve() == (shared_data / "sts-benchmark" / "sts-dev.tsv").resolve()
    assert len(list((out / "semeval-sts").glob("201[234]/*.test.tsv"))) == 13
    assert len(list((out / "word-similarity").glob("*.txt"))) == 10


@pytest.mark.data
def test_squad_is_split_by_article(layout, shared_data, tmp_path):
    subject = Subject(tmp_path, data=layout.lay_out(shared_data, tmp_path / "data"))
    for version, wanted in (("1.1", (2910, 838)), ("2.0", (4551, 1527))):
        train, dev = read_squad(version, subject)
        assert (len(train), len(dev)) == wanted
        assert not any(set(train[column]) & set(dev[column]) for column in ("context", "id"))
        titles = [
            {item["title"] for item in json.loads((tmp_path / "data" / "SQuAD" / name).read_text())["data"]}
            for name in (f"train-v{version}.json", f"dev-v{version}.json")
        ]
        assert not titles[0] & titles[1]
        assert all(answers["text"] for part in (train, dev) for answers in part["answers"]) == (version == "1.1")


@pytest.mark.data
def test_a_cut_copy_is_an_error(layout, shared_data, tmp_path):
    for file in shared_data.rglob("*"):
        place = tmp_path / "copy" / file.relative_to(shared_data)
        if file.is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(file)
    rte = tmp_path / "copy" / "glue-rte" / "dev.tsv"
    lines = rte.read_text(encoding="utf-8").splitlines(keepends=True)
    rte.unlink()
    rte.write_text("".join(lines[:-3]), encoding="utf-8")
    with pytest.raises(ValueError, match=r"RTE/dev\.tsv has 274 rows instead of 277; is the copy"):
        layout.lay_out(tmp_path / "copy", tmp_path / "out")
