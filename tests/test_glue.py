"""The tasks of GLUE: layouts of files, metrics, and the sets they are also measured on."""

import datasets
import pytest
import scipy.stats
import torch

from measuring import write_lines
from vocabpress.evaluate import GLUE, TASKS, Subject
from vocabpress.evaluate.finetuned.glue import TASK_METRICS, Glue, choose, score_predictions
from vocabpress.evaluate.finetuned.glue_data import LAYOUTS, read_glue, read_rows
from vocabpress.evaluate.finetuned.squad import Squad

pytestmark = pytest.mark.usefixtures("little_garbage")


def metrics_of(task, logits, labels):
    return {metric: score_predictions(metric, logits, labels) for metric in TASK_METRICS[task]}


def test_metrics_against_scipy():
    draw = torch.Generator().manual_seed(3)
    logits, labels = torch.randn(60, 2, generator=draw), torch.randint(2, (60,), generator=draw)
    predicted = logits.argmax(-1)
    # The Matthews correlation of two binary variables is their Pearson correlation.
    wanted = 100 * scipy.stats.pearsonr(predicted.numpy(), labels.numpy()).statistic
    assert metrics_of("cola", logits, labels)["matthews"] == pytest.approx(wanted, abs=1e-3)
    hits = int(((predicted == 1) & (labels == 1)).sum())
    f1 = 200 * hits / int((predicted == 1).sum() + (labels == 1).sum())
    right = 100 * float((predicted == labels).double().mean())
    assert metrics_of("mrpc", logits, labels) == pytest.approx({"accuracy": right, "f1": f1}, abs=1e-3)
    assert metrics_of("mnli", torch.eye(3)[[0, 2, 1, 0]], torch.tensor([0, 2, 1, 1]))["accuracy"] == pytest.approx(75)
    scores = torch.randint(6, (60,), generator=draw).float()
    found = metrics_of("stsb", logits[:, :1].round(decimals=1), scores)
    given = logits[:, 0].round(decimals=1).double().numpy()
    assert found["pearson"] == pytest.approx(100 * scipy.stats.pearsonr(given, scores).statistic, abs=1e-4)
    assert found["spearman"] == pytest.approx(100 * scipy.stats.spearmanr(given, scores).statistic, abs=1e-4)


def test_one_prediction_for_all_is_no_correlation():
    ones = torch.ones(6, 1)
    assert metrics_of("stsb", ones, torch.arange(6.0)) == {"pearson": 0.0, "spearman": 0.0}
    assert metrics_of("cola", torch.eye(2)[[1] * 6], torch.tensor([0, 1] * 3)) == {"matthews": 0.0}


def test_a_subset_is_the_same_for_all_seeds():
    rows = datasets.Dataset.from_dict({"labels": list(range(100))})

    def chosen(subset):
        return list(choose(rows, subset)["labels"])

    assert chosen(None) == list(range(100))
    assert len(set(chosen(20))) == 20
    assert chosen(20) == chosen(30)[:20] != list(range(20))
    assert chosen(200) == chosen(100)


# Two rows of each task as GLUE has them, and what is to be read of them.
FILES = {
    "cola": (["gj04\t1\t\tShe left.", "gj04\t0\t*\tLeft she a."], [("She left.", None, 1), ("Left she a.", None, 0)]),
    "sst2": (["sentence\tlabel", "dull \t0", "grand\u2028fun \t1"], [("dull ", None, 0), ("grand\u2028fun ", None, 1)]),
    "mrpc": (
        ["\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String", '1\t7\t8\tA "word.\t"A word.', "0\t7\t8\tYes.\tNo."],
        [('A "word.', '"A word.', 1), ("Yes.", "No.", 0)],
    ),
    "stsb": (
        [
            "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
            "0\tg\tf\t2012\t1\tn\tn\tA.\tB.\t5.000",
            "1\tg\tf\t2012\t1\tn\tn\tC.\tD.\t0.25",
        ],
        [("A.", "B.", 5.0), ("C.", "D.", 0.25)],
    ),
    "qqp": (
        ["id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "1\t2\t3\tWhy?\tHow?\t0", "2\t2\t3\tWho?\tWho?\t1"],
        [("Why?", "How?", 0), ("Who?", "Who?", 1)],
    ),
    "mnli": (
        [
            "index\tpromptID\tsentence1\tsentence2\tlabel1\tgold_label",
            "0\t3\tA.\tB.\tneutral\tcontradiction",
            "1\t3\tC.\tD.\tneutral\tneutral",
        ],
        [("A.", "B.", 2), ("C.", "D.", 1)],
    ),
    "qnli": (
        ["index\tquestion\tsentence\tlabel", "0\tWhy?\tSo.\tentailment", "1\tWho?\tNo.\tnot_entailment"],
        [("Why?", "So.", 0), ("Who?", "No.", 1)],
    ),
    "rte": (
        ["index\tsentence1\tsentence2\tlabel", "0\tA.\tB.\tnot_entailment", "1\tC.\tD.\tentailment"],
        [("A.", "B.", 1), ("C.", "D.", 0)],
    ),
    "wnli": (
        ["index\tsentence1\tsentence2\tlabel", "0\tA.\tB.\t1", "1\tC.\tD.\t0"],
        [("A.", "B.", 1), ("C.", "D.", 0)],
    ),
}


def tuples(rows):
    """Sentence, second sentence or None, label."""
    return [(row["text"], row.get("text_pair"), row["labels"]) for row in rows]


@pytest.mark.parametrize("name", GLUE)
@pytest.mark.parametrize("lower", [False, True])
def test_each_layout(name, lower, tmp_path):
    lines, wanted = FILES[name]
    folder = LAYOUTS[name].folder
    splits = ["train", "dev_matched", "dev_mismatched"] if name == "mnli" else ["train", "dev"]
    for split in splits:
        written = lines if split == "train" else [*lines, ""]
        write_lines(tmp_path / (folder.lower() if lower else folder) / f"{split}.tsv", written)
    rows, dev = read_glue(name, Subject(tmp_path, data=tmp_path))
    assert tuples(rows) == wanted
    assert {split: tuples(part) for split, part in dev.items()} == dict.fromkeys(splits[1:], wanted)
    assert TASKS[name] == Glue(name)


BAD = {
    "label": (
        "rte",
        ["index\tsentence1\tsentence2\tlabel", "0\tA.\tB.\tmaybe"],
        "line 2: unknown label 'maybe'; it is",
    ),
    "score": (
        "stsb",
        ["sentence1\tsentence2\tscore", "A.\tB.\t5.5"],
        "line 2: a score is a number from 0 to 5",
    ),
    "no number": (
        "stsb",
        ["sentence1\tsentence2\tscore", "A.\tB.\t-"],
        "a score is a number from 0 to 5, got '-'",
    ),
    "cut short": ("rte", [*FILES["rte"][0], "2\tE."], "line 4: 2 columns of 4; the row is cut short"),
    "a tab too many": ("rte", [*FILES["rte"][0], "2\tE.\t\tF.\tentailment"], "line 4: 5 columns of 4"),
    "cut short, cola": ("cola", ["gj04\t1\tA."], "line 1: 3 columns of 4"),
    "commas": (
        "rte",
        ["index,sentence1,sentence2,label", "0,A.,B.,entailment"],
        "has no column 'sentence1', its first",
    ),
    "commas, cola": ("cola", ["gj04,1,,A."], "line 1: 1 columns of 4; the row is cut short, or not separated by tabs"),
    "empty": ("sst2", [], "holds no rows"),
    "header alone": ("sst2", ["sentence\tlabel"], "holds no rows"),
    "no column": ("sst2", ["sentence\tmark", "A.\t1"], "has no column 'label'"),
    "many cut short": ("qqp", [*FILES["qqp"][0], "3\t2"], "line 4: 2 columns of 6"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_named_with_their_line(name, tmp_path):
    task, lines, words = BAD[name]
    file = write_lines(tmp_path / "train.tsv", lines)
    with pytest.raises(ValueError, match=r"train\.tsv") as error:
        read_rows(file, LAYOUTS[task])
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_latin_1_is_an_error_and_few_corrupt_rows_of_qqp_are_not(tmp_path):
    file = tmp_path / "dev.tsv"
    file.write_bytes("sentence\tlabel\nfine\t1\ncaf\xe9\t1\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"dev\.tsv, line 3: not UTF-8"):
        read_rows(file, LAYOUTS["sst2"])
    header, *rows = FILES["qqp"][0]
    write_lines(file, [header, *(rows * 500), "3\t2"])
    assert len(read_rows(file, LAYOUTS["qqp"])) == 1000


def test_a_missing_file_names_both_places(tmp_path, checkpoints):
    with pytest.raises(ValueError, match=r"has no RTE/train\.tsv and no rte/train\.tsv; give"):
        Glue("rte").measure(Subject(checkpoints["original"], data=tmp_path))


def test_paws_and_hans(checkpoints, tmp_path):
    for task, splits in (("rte", ("train", "dev")), ("mrpc", ("train", "dev"))):
        for split in splits:
            write_lines(tmp_path / LAYOUTS[task].folder / f"{split}.tsv", FILES[task][0])
    (tmp_path / "HANS").mkdir()
    once = {"epochs": 1, "max_length": 16}
    with pytest.raises(ValueError, match=r"has no heuristics_evaluation_set\.txt"):
        Glue("rte", **once).measure(Subject(checkpoints["original"], data=tmp_path))
    rows = [f"{label}\tx\tA.\tB.\tex{index}" for index, label in enumerate(["entailment", "non-entailment"] * 2)]
    write_lines(
        tmp_path / "HANS" / "heuristics_evaluation_set.txt", ["gold_label\tparse\tsentence1\tsentence2\tpairID", *rows]
    )
    found = Glue("rte", **once).measure(Subject(checkpoints["original"], data=tmp_path))
    assert found.metrics["hans_accuracy"] == 50  # four times the same pair
    assert found.details["rows"]["hans_accuracy"] == 4
    found = Glue("mrpc", **once).measure(Subject(checkpoints["original"], data=tmp_path))
    assert list(found.metrics) == ["accuracy", "f1"]
    write_lines(tmp_path / "PAWS" / "test.tsv", ["id\tsentence1\tsentence2\tlabel", "1\tA.\tB.\t0", "2\tA.\tB.\t1"])
    found = Glue("mrpc", **once).measure(Subject(checkpoints["original"], data=tmp_path))
    assert found.metrics["paws_accuracy"] == 50


def test_mnli_names_both_development_sets_and_stsb_is_a_regression(checkpoints, tmp_path):
    for task in ("mnli", "stsb"):
        for split in ("train", *LAYOUTS[task].dev):
            write_lines(tmp_path / LAYOUTS[task].folder / f"{split}.tsv", FILES[task][0])
    found = Glue("mnli", epochs=1, max_length=16).measure(Subject(checkpoints["original"], data=tmp_path))
    assert set(found.metrics) == {"accuracy_matched", "accuracy_mismatched"}
    found = Glue("stsb", epochs=1, max_length=16).measure(Subject(checkpoints["original"], data=tmp_path))
    assert set(found.metrics) == {"pearson", "spearman"}


def test_without_data_the_hub_is_asked(checkpoints, monkeypatch):
    splits = {
        "train": {"sentence1": ["A.", "C."], "sentence2": ["B.", "D."], "label": [1, 0], "idx": [0, 1]},
        "validation": {"sentence1": ["A."], "sentence2": ["B."], "label": [0], "idx": [0]},
    }
    splits = {split: datasets.Dataset.from_dict(columns) for split, columns in splits.items()}
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *names: asked.append(names) or splits)
    rows, dev = read_glue("rte", Subject(checkpoints["original"]))
    assert tuples(rows) == [("A.", "B.", 1), ("C.", "D.", 0)]
    assert {split: tuples(part) for split, part in dev.items()} == {"dev": [("A.", "B.", 0)]}
    assert asked == [("nyu-mll/glue", "rte")]

    def fail(*names):
        raise ConnectionError("no route to host\nand more")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    for task in (Glue("rte"), Squad()):
        with pytest.raises(ValueError, match=r"can't download .*no route to host\); give the folder .*--data"):
            task.measure(Subject(checkpoints["original"]))
