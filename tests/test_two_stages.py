"""Two stages: a compressed model learns from the original on text, then from a fine-tuned one on a task's rows."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

import tiny
from command import run
from measuring import save_maskable, write_lines
from tuning import sentences, stopped_at_the_second_look
from vocabpress import Budget, NearestKronecker, compress
from vocabpress.evaluate import evaluate, run as run_module
from vocabpress.evaluate.finetuned.glue import Glue
from vocabpress.hf.checkpoint import named_class, open_model, open_tokenizer
from vocabpress.hf.modules import CompressedLinear, owned_tables
from vocabpress.recover import OBJECTIVES, Recovery, recover
from vocabpress.recover.lesson import Source
from vocabpress.recover.pair import open_pair

pytestmark = pytest.mark.usefixtures("little_garbage")
TUNED = Glue("sst2", epochs=6, batch_size=16, learning_rate=3e-3, max_length=16)
STAGE_ONE = {"steps": 40, "batch_size": 16, "max_length": 16, "held_out": 16, "evaluate_every": 20}
STAGE_TWO = {"steps": 100, "batch_size": 16, "max_length": 16, "held_out": 32, "evaluate_every": 20}


@pytest.fixture(scope="module")
def folder(labelled_data, tmp_path_factory):
    """The original, a fine-tuned teacher, and a student after stage one."""
    place = tmp_path_factory.mktemp("stages")
    save_maskable(place / "bert")
    write_lines(place / "text.txt", [text for text, _ in sentences(200, "text")])
    (result,) = evaluate(place / "bert", {"sst2": TUNED}, data=labelled_data, keep=place / "tuned")
    assert result.metrics["accuracy"] >= 90
    linears = {"attention": "16x16", "ffn": "2x8"}
    small = {"method": NearestKronecker(width=4), "budget": Budget.ratio(4), "calibration": "uniform"}
    compress(place / "bert", place / "small", linears=linears, **small)
    recover(
        place / "small",
        place / "one",
        teacher=place / "bert",
        text=[place / "text.txt"],
        settings=Recovery(mode="model", learning_rate=0.01, **OBJECTIVES["kroneckerbert"], **STAGE_ONE),
        device="cpu",
    )
    return place


def stage_two(folder, data, output, student="one", **settings):
    chosen = {"mode": "model", "learning_rate": 0.05, **OBJECTIVES["kroneckerbert"], **STAGE_TWO, **settings}
    return recover(
        folder / student,
        output,
        teacher=folder / "tuned" / "sst2-seed0",
        task="sst2",
        data=data,
        settings=Recovery(**chosen),
        device="cpu",
    )


def test_the_second_stage_learns_the_task_and_stays_compressed(folder, labelled_data, tmp_path):
    report = stage_two(folder, labelled_data, tmp_path / "two")
    assert not report.kept_input
    assert report.held_out_after < 0.5 * report.held_out_before
    assert (report.task, report.training_sequences, report.held_out_sequences) == ("sst2", 288, 32)
    assert set(report.terms_after) == {"embedding", "attention", "ffn", "logits", "student"}
    assert report.terms_after["student"] < report.terms_before["student"]
    assert report.metrics_after["accuracy"] >= 90
    assert report.metrics_after["accuracy"] > report.metrics_before["accuracy"]
    before, after = (load_file(place / "model.safetensors") for place in (folder / "one", tmp_path / "two"))
    tables = [key for key in before if ".table." in key]
    assert len(tables) > 12
    assert all((before[key].shape, before[key].dtype) == (after[key].shape, after[key].dtype) for key in tables)
    said = json.loads((tmp_path / "two" / "config.json").read_text())
    assert said["architectures"] == ["BertForSequenceClassification"]
    recovered = said["quantization_config"]["fitted_by"]["recovered"]
    assert (recovered["task"], recovered["teacher"], recovered["before"]["mode"]) == ("sst2", "sst2-seed0", "model")
    card = (tmp_path / "two" / "README.md").read_text()
    assert "## Recovered for sst2" in card
    assert "| sst2 dev, accuracy |" in card


def test_what_is_reported_is_what_the_written_folder_scores(folder, labelled_data, tmp_path):
    report = stage_two(folder, labelled_data, tmp_path / "two", steps=20)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "two").eval()
    assert sum(isinstance(module, CompressedLinear) for module in model.modules()) == 12
    tokenizer = open_tokenizer(tmp_path / "two")
    rows = [line.split("\t") for line in (labelled_data / "SST-2" / "dev.tsv").read_text().splitlines()[1:]]
    right = 0
    for text, label in rows:
        with torch.no_grad():
            right += int(model(**tokenizer(text, return_tensors="pt")).logits.argmax()) == int(label)
    assert report.metrics_after["accuracy"] == pytest.approx(100 * right / len(rows))


def test_the_student_gets_the_teachers_prediction_layer_and_keeps_its_own_body(folder):
    settings = Recovery(**{**STAGE_TWO, **OBJECTIVES["kroneckerbert"]})
    pair = open_pair(folder / "one", folder / "tuned" / "sst2-seed0", settings, Source(task="sst2"))
    for name in ("classifier.weight", "classifier.bias", "bert.pooler.dense.weight"):
        assert torch.equal(pair.student.get_parameter(name), pair.teacher.get_parameter(name)), name
    first = open_model(folder / "one", named_class(folder / "one"))
    mine, theirs = owned_tables(pair.student), owned_tables(first)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name].dense(), theirs[name].dense()) for name in mine)
    norm = "bert.encoder.layer.0.output.LayerNorm.weight"
    assert torch.equal(pair.student.get_parameter(norm), first.get_parameter(norm))
    assert not torch.equal(pair.student.get_parameter(norm), pair.teacher.get_parameter(norm))


def test_a_result_that_is_worse_is_not_kept_and_is_a_classifier_all_the_same(folder, labelled_data, tmp_path):
    report = stage_two(folder, labelled_data, tmp_path / "two", learning_rate=1000.0, steps=20)
    assert report.kept_input
    assert report.held_out_after == report.held_out_before
    assert report.metrics_after == report.metrics_before
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "two")
    teacher = AutoModelForSequenceClassification.from_pretrained(folder / "tuned" / "sst2-seed0")
    assert torch.equal(model.classifier.weight, teacher.classifier.weight)
    before, after = (load_file(place / "model.safetensors") for place in (folder / "one", tmp_path / "two"))
    shared = [key for key in before if key in after]
    assert len(shared) > 40
    assert all(torch.equal(before[key], after[key]) for key in shared)


def test_a_stopped_run_goes_on_to_the_same_numbers(folder, labelled_data, tmp_path, monkeypatch):
    more = {"steps": 12, "evaluate_every": 4}
    stage_two(folder, labelled_data, tmp_path / "whole", **more)
    stopped_at_the_second_look(monkeypatch, lambda: stage_two(folder, labelled_data, tmp_path / "stopped", **more))
    assert stage_two(folder, labelled_data, tmp_path / "stopped", **more).steps == 12
    whole, stopped = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "stopped"))
    assert all(torch.equal(whole[key], stopped[key]) for key in whole)


def test_without_a_teachers_voice_it_is_plain_fine_tuning(folder, labelled_data, tmp_path):
    nothing = {"embedding": 0.0, "attention": 0.0, "ffn": 0.0, "logits": 0.0}
    report = stage_two(folder, labelled_data, tmp_path / "two", steps=20, learning_rate=0.01, **nothing)
    assert set(report.terms_after) == {"student"}
    assert report.held_out_after < report.held_out_before


def test_scores_are_regressed(folder, tmp_path):
    rows = [f"{i}\tg\tf\ty\to\ts1\ts2\t{text}\t{text}\t{5.0 if label else 1.0}" for i, (text, label) in
            enumerate(sentences(64, "stsb"))]  # fmt: skip
    header = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore"
    for split in ("train", "dev"):
        write_lines(tmp_path / "STS-B" / f"{split}.tsv", [header, *rows])
    task = Glue("stsb", epochs=1, batch_size=16, learning_rate=1e-3, max_length=16)
    evaluate(folder / "bert", {"stsb": task}, data=tmp_path, keep=tmp_path / "tuned")
    report = recover(
        folder / "one",
        tmp_path / "two",
        teacher=tmp_path / "tuned" / "stsb-seed0",
        task="stsb",
        data=tmp_path,
        settings=Recovery(**{**STAGE_TWO, "steps": 20, "mode": "model"}),
        device="cpu",
    )
    assert set(report.metrics_after) == {"pearson", "spearman"}
    assert report.held_out_after < report.held_out_before


def test_keeping_a_fine_tuned_model(folder, labelled_data, tmp_path, monkeypatch):
    quick = {"sst2": Glue("sst2", epochs=1, batch_size=16, learning_rate=3e-3, max_length=16)}
    options = {"data": labelled_data, "output": tmp_path / "results", "keep": tmp_path / "kept"}
    (first,) = evaluate(folder / "small", quick, seeds=(1,), **options)
    kept = tmp_path / "kept" / "sst2-seed1"
    model = AutoModelForSequenceClassification.from_pretrained(kept)
    assert len(owned_tables(model)) == 13
    assert model.config.problem_type == "single_label_classification"
    assert len(open_tokenizer(kept)) == tiny.VOCAB
    ran = []
    measured = run_module._measured
    monkeypatch.setattr(run_module, "_measured", lambda *given: ran.append(1) or measured(*given))
    assert evaluate(folder / "small", quick, seeds=(1,), **options) == [first]
    assert ran == []  # result and model are there
    numbers = load_file(kept / "model.safetensors")
    for file in kept.iterdir():
        file.unlink()
    kept.rmdir()
    (again,) = evaluate(folder / "small", quick, seeds=(1,), **options)
    assert (len(ran), again.metrics) == (1, first.metrics)
    assert all(torch.equal(numbers[key], value) for key, value in load_file(kept / "model.safetensors").items())
    (tmp_path / "results" / "sst2-seed1.json").unlink()
    with pytest.raises(ValueError, match="sst2-seed1 exists and is not empty"):
        evaluate(folder / "small", quick, seeds=(1,), **options)


def test_the_commands(folder, labelled_data, tmp_path, capsys):
    settings = [f"--set={name}={value}" for name, value in STAGE_TWO.items() if name != "steps"]
    command = (
        "recover",
        folder / "one",
        "--teacher",
        folder / "tuned" / "sst2-seed0",
        "--task",
        "sst2",
        "--mode",
        "model",
    )
    where = ("--data", labelled_data, "-o", tmp_path / "two", "--device", "cpu", "--objective", "kroneckerbert")
    code, out, err = run(capsys, *command, *where, "--steps", "20", *settings, "--json")
    assert code == 0, err
    report = json.loads(out.splitlines()[-1])
    assert report["task"] == "sst2"
    assert "ffn" in report["terms_after"]
    assert "sst2, development rows" in err
    code, _, err = run(capsys, "evaluate", folder / "bert", "--task", "mlm", "--keep", tmp_path / "kept")
    assert code == 2
    assert "no chosen task fine-tunes the model; leave it out" in err


def bad_inputs(folder, data, tmp):
    (tmp / "short" / "SST-2").mkdir(parents=True)
    for split in ("train", "dev"):
        write_lines(tmp / "short" / "SST-2" / f"{split}.tsv", ["sentence\tlabel", "w5 w6\t1", "w7\t0"])
    tuned = ("--teacher", folder / "tuned" / "sst2-seed0")
    sst2 = ("--task", "sst2", "--data", data)
    return {
        "no lesson": (("--teacher", folder / "bert"), "give one of --text and --task"),
        "unknown task": ((*tuned, "--task", "squad"), "unknown task 'squad'; choose from cola, sst2"),
        "no classifier": (("--teacher", folder / "bert", *sst2), "is a BertForMaskedLM with 2 labels, sst2 needs a"),
        "other classes": (
            (*tuned, "--task", "mnli", "--data", data),
            "with 2 labels, mnli needs a sequence",
        ),
        "no rows": ((*tuned, "--task", "rte", "--data", data), "has no RTE/train.tsv and no rte/train.tsv"),
        "few rows": (
            (*tuned, "--task", "sst2", "--data", tmp / "short"),
            "sst2 has 2 training rows, recovery needs",
        ),
        "too long": ((*tuned, *sst2, "--set", "max_length=600"), "max_length is 600, the model reads 512 tokens"),
    }


NAMES = ["no lesson", "unknown task", "no classifier", "other classes", "no rows", "few rows", "too long"]


@pytest.mark.parametrize("name", NAMES)
def test_bad_input_is_one_line(name, folder, labelled_data, tmp_path, capsys):
    cases = bad_inputs(folder, labelled_data, tmp_path)
    assert list(cases) == NAMES
    arguments, words = cases[name]
    code, out, err = run(capsys, "recover", folder / "one", "-o", tmp_path / "out", *arguments)
    assert (code, out) == (2, "")
    (line,) = [line for line in err.replace("\r", "\n").splitlines() if line.startswith("vocabpress: ")]
    assert words in line
    assert not (tmp_path / "out").exists()
