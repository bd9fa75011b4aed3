import gc
import json
import random

import numpy as np
import pytest
import scipy.stats
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

import tiny
from vocabpress import Budget, compress, make_method
from vocabpress.evaluate import GLUE, TASKS, Subject, make_task
from vocabpress.evaluate import resume as resume_module
from vocabpress.evaluate.finetune import Recipe, need, predict, prepare, train
from vocabpress.evaluate.glue import METRICS, Glue, choose
from vocabpress.evaluate.glue_data import LAYOUTS, read_rows, read_task
from vocabpress.evaluate.resume import last_checkpoint
from vocabpress.evaluate.rows import padding, tokenise
from vocabpress.evaluate.run import evaluate
from vocabpress.evaluate.squad import Squad, squad_metrics
from vocabpress.evaluate.squad_data import Question, read_questions
from vocabpress.evaluate.windows import answers, best_span, cut
from vocabpress.hf.modules import TokenEmbedding

QUICK = {"epochs": 6, "batch_size": 16, "learning_rate": 3e-3, "max_length": 16}
NAMES = ("original", "svd", "svd int8")


@pytest.fixture(autouse=True, scope="module")
def _little_garbage():
    """Accelerate collects garbage at the start of each training, and would search all that was imported each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("models")
    source = tiny.save("bert", base / "source")
    compress(source, base / "svd", method="svd", budget=Budget.ratio(2.5))
    compress(source, base / "int8", method=make_method("svd", factors="int8"), budget=Budget.ratio(5))
    return dict(zip(NAMES, (source, base / "svd", base / "int8"), strict=True))


def sentences(count, seed):
    """Words at random; the label says whether w7 is among them."""
    draw = random.Random(seed)
    for index in range(count):
        words = [f"w{draw.randrange(20, 60)}" for _ in range(draw.randrange(3, 7))]
        label = index % 2
        if label:
            words[draw.randrange(len(words))] = "w7"
        yield " ".join(words), label


def write(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """SST-2 with an IMDb of the same words, and one SQuAD of each version, in their own layouts."""
    base = tmp_path_factory.mktemp("data")
    for split, count in (("train", 320), ("dev", 80)):
        rows = [f"{text}\t{label}" for text, label in sentences(count, split)]
        write(base / "SST-2" / f"{split}.tsv", ["sentence\tlabel", *rows])
    for index, (text, label) in enumerate(sentences(20, "imdb")):
        write(base / "aclImdb" / "test" / ("neg", "pos")[label] / f"{index}.txt", [text + "<br /><br />w20"])
    for version in ("1.1", "2.0"):
        for split, count in (("train", 200), ("dev", 40)):
            stored = {"version": version, "data": [squad_article(count, version, split)]}
            write(base / "SQuAD" / f"{split}-v{version}.json", [json.dumps(stored)])
    return base


def squad_article(count, version, seed):
    """The answer is where w7 is; in version 2.0 every third paragraph has none."""
    paragraphs = []
    for index in range(count):
        none = version == "2.0" and index % 3 == 0
        text = next(text for text, label in sentences(2, f"{seed}{index}") if label == (not none))
        found = [] if none else [{"text": "w7", "answer_start": f"{text} ".index("w7 ")}]
        item = {"id": f"{seed}{index}", "question": "w3 w4", "answers": found, "is_impossible": none}
        paragraphs.append({"context": text, "qas": [item]})
    return {"title": str(seed), "paragraphs": paragraphs}


def subject(folder, data=None, **more):
    return Subject(folder, data=data, **more)


@pytest.mark.parametrize("name", NAMES)
def test_fine_tuning_learns_and_goes_elsewhere(name, folders, data, capsys):
    measured = Glue("sst2", **QUICK).measure(subject(folders[name], data))
    assert measured.metrics["accuracy"] >= 90
    assert measured.metrics["imdb_accuracy"] >= 90
    assert measured.details["rows"] == {"train": 320, "dev": 80, "imdb_accuracy": 20}
    out, err = capsys.readouterr()
    assert (out, err) == ("", "")


def rows_for(tokenizer, count=48, seed="rows"):
    texts, labels = zip(*sentences(count, seed), strict=True)
    return tokenise(tokenizer, [(text, None) for text in texts], labels, 16)


def tuned(folder, recipe, rows=48, **more):
    """State before and after, whether each parameter was trained, and logits."""
    whom = subject(folder, **more)
    model, tokenizer = prepare(whom, AutoModelForSequenceClassification, 16, num_labels=2)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    encoded = rows_for(tokenizer, rows)
    train(model, encoded, padding(tokenizer), recipe, whom)
    found = predict(model, encoded, padding(tokenizer), ("logits",), recipe, whom)
    return model, before, torch.stack([row for (row,) in found])


@pytest.mark.parametrize("name", NAMES)
def test_all_that_is_continuous_trains_and_codes_stay(name, folders):
    model, before, _ = tuned(folders[name], Recipe(epochs=1, learning_rate=1e-2))
    parameters = dict(model.named_parameters())
    assert any(key.startswith("bert.embeddings.word_embeddings") for key in parameters)
    for key, after in model.state_dict().items():
        assert torch.equal(before[key], after) == (key not in parameters), key
    codes = [key for key, value in before.items() if value.dtype == torch.uint8]
    assert len(codes) == (2 if name == "svd int8" else 0)


@pytest.mark.parametrize("name", NAMES)
def test_a_frozen_table_is_frozen_for_all(name, folders):
    model, before, _ = tuned(folders[name], Recipe(epochs=1, learning_rate=1e-2, train_table=False))
    changed = {key for key, after in model.state_dict().items() if not torch.equal(before[key], after)}
    table = "bert.embeddings.word_embeddings."
    assert changed == {key for key, _ in model.named_parameters() if not key.startswith(table)}


def test_the_tuned_table_holds_what_a_checkpoint_stores(folders):
    model, _, _ = tuned(folders["svd"], Recipe(epochs=1, learning_rate=1e-2))
    table = model.get_input_embeddings()
    assert isinstance(table, TokenEmbedding)
    for parameter in table.parameters():
        assert torch.equal(parameter, parameter.half().float())


def test_seeds(folders):
    recipe = Recipe(epochs=1)
    first, again, other = (tuned(folders["svd"], recipe, seed=seed)[2] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)


def test_bfloat16_changes_little_and_float32_runs_after_it(folders):
    recipe = {"epochs": 1, "learning_rate": 1e-4}
    exact, rounded, after = (
        tuned(folders["svd"], Recipe(**recipe, precision=precision))[2]
        for precision in ("float32", "bfloat16", "float32")
    )
    assert torch.equal(exact, after)
    assert 0 < float((exact - rounded).abs().max()) < 0.1


class Interrupted(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize("name", NAMES)
def test_an_interrupted_run_goes_on_to_the_same_numbers(name, folders, tmp_path, monkeypatch):
    recipe = Recipe(epochs=3, batch_size=16, learning_rate=1e-3)
    whole, _, expected = tuned(folders[name], recipe)
    steps = []

    def interrupt(self, args, state, control, **kwargs):
        steps.append(state.global_step)
        if state.global_step == 4:  # in the second epoch of three steps each
            raise Interrupted

    monkeypatch.setattr(resume_module.Bar, "on_step_begin", interrupt)
    with pytest.raises(Interrupted):
        tuned(folders[name], recipe, work=tmp_path / "work")
    assert steps == [0, 1, 2, 3, 4]
    (run,) = (tmp_path / "work").iterdir()
    write(run / "checkpoint-9" / "trainer_state.json", ['{"global_step": 9, "cut'])  # as if it had been stopped there
    steps.clear()
    monkeypatch.setattr(resume_module.Bar, "on_step_begin", lambda *args, **kwargs: steps.append(1))
    resumed, _, found = tuned(folders[name], recipe, work=tmp_path / "work")
    assert len(steps) == 6
    assert torch.equal(found, expected)
    for key, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key
    steps.clear()
    tuned(folders[name], recipe, work=tmp_path / "work")  # trained to the end already
    assert steps == []
    tuned(folders[name], Recipe(epochs=3, batch_size=16), work=tmp_path / "work")  # another recipe starts afresh
    assert len(steps) == 9


def test_an_interrupted_evaluation_gives_the_metrics_of_a_whole_one(folders, data, tmp_path, monkeypatch):
    tasks = {"sst2": Glue("sst2", **QUICK | {"epochs": 2, "subset": 64})}
    (whole,) = evaluate(folders["svd"], tasks, data=data)

    def interrupt(self, args, state, control, **kwargs):
        if state.epoch and state.epoch > 1:
            raise Interrupted

    with monkeypatch.context() as patched:
        patched.setattr(resume_module.Bar, "on_step_end", interrupt)
        with pytest.raises(Interrupted):
            evaluate(folders["svd"], tasks, data=data, output=tmp_path)
    assert list((tmp_path / "sst2-seed0.work").rglob("model.safetensors"))
    (resumed,) = evaluate(folders["svd"], tasks, data=data, output=tmp_path)
    assert resumed.metrics == whole.metrics
    assert [file.name for file in tmp_path.iterdir()] == ["sst2-seed0.json"]


def test_the_last_whole_checkpoint(tmp_path):
    assert last_checkpoint(tmp_path) is None
    for step in (20, 100, 3):
        write(tmp_path / f"checkpoint-{step}" / "trainer_state.json", [json.dumps({"global_step": step})])
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-100")


def test_predictions_come_in_the_order_of_the_rows(folders):
    whom = subject(folders["original"])
    model, tokenizer = prepare(whom, AutoModelForSequenceClassification, 16, num_labels=2)
    rows = rows_for(tokenizer, 30)
    assert len(set(rows.lengths())) > 1
    found = predict(model, rows, padding(tokenizer), ("logits",), Recipe(batch_size=4), whom)
    for row, (logits,) in enumerate(found):
        alone = model(input_ids=torch.tensor([rows.unlabelled(row)["input_ids"]])).logits[0]
        torch.testing.assert_close(logits, alone, atol=1e-5, rtol=1e-4)


def test_a_diverged_model_is_an_error(folders):
    whom = subject(folders["original"])
    model, tokenizer = prepare(whom, AutoModelForSequenceClassification, 16, num_labels=2)
    model.classifier.bias.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="lower its learning_rate"):
        predict(model, rows_for(tokenizer), padding(tokenizer), ("logits",), Recipe(), whom)


def test_a_head_of_another_shape_starts_fresh_and_a_lost_weight_is_an_error(folders, tmp_path):
    model, tokenizer = prepare(subject(folders["svd"]), AutoModelForSequenceClassification, 16, num_labels=5)
    model.save_pretrained(tmp_path / "five")
    tokenizer.save_pretrained(tmp_path / "five")
    other, _ = prepare(subject(tmp_path / "five"), AutoModelForSequenceClassification, 16, num_labels=2)
    assert other.classifier.out_features == 2
    assert torch.equal(other.get_input_embeddings().weight, model.get_input_embeddings().weight)
    tensors = load_file(tmp_path / "five" / "model.safetensors")
    del tensors["bert.encoder.layer.0.output.dense.weight"]
    save_file(tensors, tmp_path / "five" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"it holds no bert\.encoder\.layer\.0\.output\.dense\.weight that fits"):
        prepare(subject(tmp_path / "five"), AutoModelForSequenceClassification, 16, num_labels=2)


def test_metrics_against_scipy():
    draw = torch.Generator().manual_seed(3)
    logits, labels = torch.randn(60, 2, generator=draw), torch.randint(2, (60,), generator=draw)
    predicted = logits.argmax(-1)
    # The Matthews correlation of two binary variables is their Pearson correlation.
    wanted = 100 * scipy.stats.pearsonr(predicted.numpy(), labels.numpy()).statistic
    assert METRICS["cola"](logits, labels)["matthews"] == pytest.approx(wanted, abs=1e-3)
    hits = int(((predicted == 1) & (labels == 1)).sum())
    f1 = 200 * hits / int((predicted == 1).sum() + (labels == 1).sum())
    right = 100 * float((predicted == labels).double().mean())
    assert METRICS["mrpc"](logits, labels) == pytest.approx({"accuracy": right, "f1": f1}, abs=1e-3)
    assert METRICS["mnli"](torch.eye(3)[[0, 2, 1, 0]], torch.tensor([0, 2, 1, 1]))["accuracy"] == pytest.approx(75)
    scores = torch.randint(6, (60,), generator=draw).float()
    found = METRICS["stsb"](logits[:, :1].round(decimals=1), scores)
    given = logits[:, 0].round(decimals=1).double().numpy()
    assert found["pearson"] == pytest.approx(100 * scipy.stats.pearsonr(given, scores).statistic, abs=1e-4)
    assert found["spearman"] == pytest.approx(100 * scipy.stats.spearmanr(given, scores).statistic, abs=1e-4)


def test_one_prediction_for_all_is_no_correlation():
    ones = torch.ones(6, 1)
    assert METRICS["stsb"](ones, torch.arange(6.0)) == {"pearson": 0.0, "spearman": 0.0}
    assert METRICS["cola"](torch.eye(2)[[1] * 6], torch.tensor([0, 1] * 3)) == {"matthews": 0.0}


def test_a_subset_is_the_same_for_all_seeds():
    rows = list(range(100))
    assert choose(rows, None) == rows
    assert len(set(choose(rows, 20))) == 20
    assert choose(rows, 20) == choose(rows, 30)[:20] != rows[:20]
    assert choose(rows, 200) == choose(rows, 100)


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


@pytest.mark.parametrize("name", GLUE)
@pytest.mark.parametrize("lower", [False, True])
def test_each_layout(name, lower, tmp_path):
    lines, wanted = FILES[name]
    folder = LAYOUTS[name].folder
    splits = ["train", "dev_matched", "dev_mismatched"] if name == "mnli" else ["train", "dev"]
    for split in splits:
        kept = lines if split == "train" else [*lines, ""]
        write(tmp_path / (folder.lower() if lower else folder) / f"{split}.tsv", kept)
    rows, dev = read_task(name, subject(tmp_path, tmp_path))
    assert rows == wanted
    assert dev == dict.fromkeys(splits[1:], wanted)
    assert TASKS[name] == Glue(name)


BAD = {
    "label": (
        "rte",
        ["index\tsentence1\tsentence2\tlabel", "0\tA.\tB.\tmaybe"],
        "line 2: unknown label 'maybe'; it is",
    ),
    "score": ("stsb", ["sentence1\tsentence2\tscore", "A.\tB.\t5.5"], "line 2: unknown score '5.5'; it is a number"),
    "no number": ("stsb", ["sentence1\tsentence2\tscore", "A.\tB.\t-"], "line 2: unknown score '-'"),
    "cut short": ("rte", [*FILES["rte"][0], "2\tE."], "line 4: 2 columns of 4; the row is cut short"),
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
    file = write(tmp_path / "train.tsv", lines)
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
    write(file, [header, *(rows * 500), "3\t2"])
    assert len(read_rows(file, LAYOUTS["qqp"])) == 1000


def test_a_missing_file_names_both_places(tmp_path, folders):
    with pytest.raises(ValueError, match=r"has no RTE/train\.tsv and no rte/train\.tsv; give"):
        Glue("rte").measure(subject(folders["original"], tmp_path))


def test_paws_and_hans(folders, tmp_path):
    for task, splits in (("rte", ("train", "dev")), ("mrpc", ("train", "dev"))):
        for split in splits:
            write(tmp_path / LAYOUTS[task].folder / f"{split}.tsv", FILES[task][0])
    (tmp_path / "HANS").mkdir()
    once = {"epochs": 1, "max_length": 16}
    with pytest.raises(ValueError, match=r"has no heuristics_evaluation_set\.txt"):
        Glue("rte", **once).measure(subject(folders["original"], tmp_path))
    rows = [f"{label}\tx\tA.\tB.\tex{index}" for index, label in enumerate(["entailment", "non-entailment"] * 2)]
    write(
        tmp_path / "HANS" / "heuristics_evaluation_set.txt", ["gold_label\tparse\tsentence1\tsentence2\tpairID", *rows]
    )
    found = Glue("rte", **once).measure(subject(folders["original"], tmp_path))
    assert found.metrics["hans_accuracy"] == 50  # four times the same pair
    assert found.details["rows"]["hans_accuracy"] == 4
    found = Glue("mrpc", **once).measure(subject(folders["original"], tmp_path))
    assert list(found.metrics) == ["accuracy", "f1"]
    write(tmp_path / "PAWS" / "test.tsv", ["id\tsentence1\tsentence2\tlabel", "1\tA.\tB.\t0", "2\tA.\tB.\t1"])
    found = Glue("mrpc", **once).measure(subject(folders["original"], tmp_path))
    assert found.metrics["paws_accuracy"] == 50


def test_mnli_names_both_development_sets_and_stsb_is_a_regression(folders, tmp_path):
    for task in ("mnli", "stsb"):
        for split in ("train", *(own for own, _ in LAYOUTS[task].dev)):
            write(tmp_path / LAYOUTS[task].folder / f"{split}.tsv", FILES[task][0])
    found = Glue("mnli", epochs=1, max_length=16).measure(subject(folders["original"], tmp_path))
    assert set(found.metrics) == {"accuracy_matched", "accuracy_mismatched"}
    found = Glue("stsb", epochs=1, max_length=16).measure(subject(folders["original"], tmp_path))
    assert set(found.metrics) == {"pearson", "spearman"}


def test_without_data_the_hub_is_asked(folders, monkeypatch):
    import datasets

    splits = {
        "train": {"sentence1": ["A.", "C."], "sentence2": ["B.", "D."], "label": [1, 0]},
        "validation": {"sentence1": ["A."], "sentence2": ["B."], "label": [0]},
    }
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *names: asked.append(names) or splits)
    rows, dev = read_task("rte", subject(folders["original"]))
    assert (rows, dev) == ([("A.", "B.", 1), ("C.", "D.", 0)], {"dev": [("A.", "B.", 0)]})
    assert asked == [("nyu-mll/glue", "rte")]

    def fail(*names):
        raise ConnectionError("no route to host\nand more")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    for task in (Glue("rte"), Squad()):
        with pytest.raises(ValueError, match=r"can't download .*no route to host\); give the folder .*--data"):
            task.measure(subject(folders["original"]))


def test_settings_are_read_and_checked():
    task = make_task("rte", epochs="1", subset="40", train_table="no", precision="bfloat16", learning_rate="1e-4")
    assert task == Glue("rte", epochs=1, subset=40, train_table=False, precision="bfloat16", learning_rate=1e-4)
    assert make_task("squad2", subset="7") == Squad("2.0", subset=7)
    for name, field, value, words in (
        ("rte", "precision", "int8", "unknown precision 'int8'; choose from float32, bfloat16"),
        ("rte", "epochs", "0", "epochs and batch_size are at least 1"),
        ("rte", "subset", "0", "subset at least 1"),
        ("rte", "task", "xyz", "unknown GLUE task 'xyz'"),
        ("squad", "version", "3", "unknown version '3' of SQuAD"),
        ("squad", "stride", "380", "max_length is at least stride"),
    ):
        with pytest.raises(ValueError, match=words):
            make_task(name, **{field: value})


def test_what_the_model_and_the_machine_can_not_do(folders, data):
    with pytest.raises(ValueError, match="max_length is 600, the model reads 512 tokens"):
        Glue("sst2", max_length=600).measure(subject(folders["original"], data))
    with pytest.raises(ValueError, match=r"needs no_such_package; install it with: pip install 'vocabpress\[train\]'"):
        need("no_such_package")


def tokenizer_of(folder):
    return subject(folder).tokenizer()


def question(context, *found, text="w1 w2", key="q"):
    return Question(key, text, context, tuple((answer, context.index(answer)) for answer in found))


def planted(windows, spans):
    """Logits that are high at the first and the last token of these characters, for each question."""
    logits = []
    for place, offsets in zip(windows.question, windows.offsets, strict=True):
        start, end = torch.zeros(len(offsets) + 3), torch.zeros(len(offsets) + 3)  # three of padding
        first, last = spans[place]
        start[: len(offsets)][torch.from_numpy(offsets[:, 0] == first)] = 5
        end[: len(offsets)][torch.from_numpy(offsets[:, 1] == last)] = 5
        logits.append((start, end))
    return logits


def test_a_planted_span_is_found_in_the_windows(folders):
    """Forty words in windows of at most 14; the answer lies in several of them, whole or in part."""
    context = " ".join(f"w{index}" for index in range(100, 140))
    asked = [question(context, "w117 w118 w119"), question("w9 w8 w7", "w8", key="short")]
    windows = cut(asked, tokenizer_of(folders["original"]), 16, 4)
    assert windows.question == [0, 0, 0, 0, 1]  # 14 words, then 10 new ones each: 14 + 10 + 10 + 6
    spans = [(context.index("w117"), context.index("w119") + 4), (3, 5)]
    assert answers(asked, windows, planted(windows, spans), may_be_absent=False) == ["w117 w118 w119", "w8"]


def test_windows_know_where_the_answer_is(folders):
    """Windows of w100-w113, w110-w123, w120-w133 after two words of question; overlap of four."""
    context = " ".join(f"w{index}" for index in range(100, 134))
    windows = cut([question(context, "w112 w113 w114")], tokenizer_of(folders["original"]), 16, 4)
    starts, ends = windows.rows.labels["start_positions"], windows.rows.labels["end_positions"]
    assert list(zip(starts, ends, strict=True)) == [(0, 0), (4, 6), (0, 0)]
    assert windows.rows.inputs["input_ids"][1].tolist() == [1, 2, *range(110, 124)]
    assert windows.offsets[1][:3].tolist() == [[-1, -1], [-1, -1], [50, 54]]


def test_a_long_question_is_cut_and_the_paragraph_kept(folders):
    asked = question("w100 w101", "w101", text=" " + " ".join(f"w{index}" for index in range(60)))
    windows = cut([asked], tokenizer_of(folders["original"]), 24, 4)
    assert windows.rows.inputs["input_ids"][0].tolist() == [*range(12), 100, 101]


def test_best_span_against_all_pairs():
    """At most 30 tokens, in order, inside the paragraph; here the best of all is among the 20 best of either end."""
    draw = np.random.default_rng(5)
    for _ in range(20):
        start, end = (torch.from_numpy(draw.normal(size=50)) for _ in range(2))
        offsets = np.stack([np.arange(50) * 3, np.arange(50) * 3 + 2], axis=1)
        offsets[:10] = -1
        pairs = [(float(start[i] + end[j]), i, j) for i in range(10, 50) for j in range(i, min(50, i + 30))]
        starts, ends = set(start.topk(20).indices.tolist()), set(end.topk(20).indices.tolist())
        score, first, last = max(pair for pair in pairs if pair[1] in starts and pair[2] in ends)
        found = best_span(start, end, offsets)
        assert found == (pytest.approx(score), first * 3, last * 3 + 2)
    assert best_span(torch.tensor([1.0]), torch.tensor([1.0]), np.array([[-1, -1]])) is None


def test_no_answer_where_the_null_score_is_higher(folders):
    asked = [question("w5 w6 w7", "w6")]
    windows = cut(asked, tokenizer_of(folders["original"]), 16, 0)
    ((start, end),) = planted(windows, [(3, 5)])
    for null, wanted in ((4.9, "w6"), (5.0, "w6"), (5.1, "")):  # at 0: the span wins where they are equal
        start[windows.absent[0]] = end[windows.absent[0]] = null
        assert answers(asked, windows, [(start, end)], may_be_absent=True) == [wanted]
        assert answers(asked, windows, [(start, end)], may_be_absent=False) == ["w6"]


def test_squad_metrics_by_hand():
    asked = [
        Question("a", "?", "", (("the big cat", 0), ("cat", 0))),
        Question("b", "?", "", (("blue whale", 0),)),
        Question("c", "?", "", ()),
        Question("d", "?", "", ()),
    ]
    # a: articles and capitals don't count. b: one of two words right, none too many: F1 2/3. c: right. d: wrong.
    found = squad_metrics(asked, ["Big cat!", "whale", "", "whale"])
    wanted = {
        "exact_match": 50,
        "f1": 100 * (1 + 2 / 3 + 1 + 0) / 4,
        "exact_match_answerable": 50,
        "f1_answerable": 100 * (1 + 2 / 3) / 2,
        "accuracy_unanswerable": 50,
    }
    assert found == pytest.approx(wanted, abs=1e-3)
    assert set(squad_metrics(asked[:2], ["", ""])) == {"exact_match", "f1"}


@pytest.mark.parametrize("version", ["1.1", "2.0"])
def test_squad_learns(version, folders, data, capsys):
    task = Squad(version, epochs=8, batch_size=16, learning_rate=3e-3, max_length=24, stride=4)
    found = task.measure(subject(folders["svd"], data)).metrics
    assert found["exact_match"] >= 90
    assert found["f1"] >= 90
    assert ("accuracy_unanswerable" in found) == (version == "2.0")
    assert capsys.readouterr().out == ""


SQUAD = {"title": "t", "paragraphs": [{"context": "A cat.", "qas": [{"id": "q1", "question": "Who?", "answers": []}]}]}


def test_bad_squad_files(tmp_path):
    def stored(*found, times=1):
        item = SQUAD["paragraphs"][0]["qas"][0] | {"answers": [{"text": t, "answer_start": a} for t, a in found]}
        return json.dumps({"data": [SQUAD | {"paragraphs": [{"context": "A cat.", "qas": [item]}] * times}]})

    whole = stored(("cat", 2))
    file = write(tmp_path / "train.json", [whole])
    assert read_questions(file, "1.1") == [Question("q1", "Who?", "A cat.", (("cat", 2),))]
    for text, version, words in (
        (whole[:50], "1.1", r"is not whole JSON \(line \d+, column \d+\)"),
        (stored(("cat", 3)), "1.1", "question q1: the answer 'cat' is not at character 3"),
        (stored(("cat", -4)), "2.0", "the answer 'cat' is not at character -4"),
        (stored(), "1.1", "question q1 has no answer; that is version 2.0"),
        (stored(("cat", 2), times=2), "1.1", "the id q1 occurs twice"),
        (json.dumps({"data": []}), "1.1", "holds no paragraph"),
        (json.dumps({"data": [{"title": "t", "paragraphs": []}]}), "2.0", "holds no paragraph"),
        ("[1, 2]", "1.1", "is not in SQuAD's layout"),
        (json.dumps({"data": [{"title": "t"}]}), "1.1", r"is not in SQuAD's layout \('paragraphs'\)"),
    ):
        write(file, [text])
        with pytest.raises(ValueError, match=words):
            read_questions(file, version)
    write(file, [stored()])
    assert read_questions(file, "2.0")[0].answers == ()
