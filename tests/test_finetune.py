"""The rule of fine-tuning, how an interrupted run goes on, predictions, and settings."""

import json

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from measuring import write_lines
from tuning import NAMES, sentences
from vocabpress.evaluate import Subject, make_task
from vocabpress.evaluate.finetuned.glue import Glue
from vocabpress.evaluate.finetuned.squad import Squad
from vocabpress.evaluate.finetuned.trainer import TrainingBar, fine_tune, last_checkpoint, predict
from vocabpress.evaluate.finetuned.training import need, prepare
from vocabpress.evaluate.run import evaluate
from vocabpress.hf.modules import TokenEmbedding

pytestmark = pytest.mark.usefixtures("little_garbage")
QUICK = {"epochs": 6, "batch_size": 16, "learning_rate": 3e-3, "max_length": 16}


@pytest.mark.parametrize("name", NAMES)
def test_fine_tuning_learns_and_goes_elsewhere(name, checkpoints, labelled_data, capsys):
    measured = Glue("sst2", **QUICK).measure(Subject(checkpoints[name], data=labelled_data))
    assert measured.metrics["accuracy"] >= 90
    assert measured.metrics["imdb_accuracy"] >= 90
    assert measured.details["rows"] == {"train": 320, "dev": 80, "imdb_accuracy": 20}
    out, err = capsys.readouterr()
    assert (out, err) == ("", "")


def sst2(**settings):
    return Glue("sst2", max_length=16, **settings)


def rows_for(tokenizer, count=48, seed="rows"):
    texts, labels = zip(*sentences(count, seed), strict=True)
    return sst2().encode(tokenizer, Dataset.from_dict({"text": texts, "labels": labels}))


def tuned(folder, task, rows=48, **more):
    """The model, its state before, and logits."""
    whom = Subject(folder, **more)
    model, tokenizer = prepare(whom, AutoModelForSequenceClassification, 16, num_labels=2)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    encoded = rows_for(tokenizer, rows)
    fine_tune(model, tokenizer, encoded, task, whom)
    found = predict(model, tokenizer, encoded, ("logits",), task)
    return model, before, torch.stack([row for (row,) in found])


@pytest.mark.parametrize("name", NAMES)
def test_all_that_is_continuous_trains_and_codes_stay(name, checkpoints):
    model, before, _ = tuned(checkpoints[name], sst2(epochs=1, learning_rate=1e-2))
    parameters = dict(model.named_parameters())
    assert any(key.startswith("bert.embeddings.word_embeddings") for key in parameters)
    for key, after in model.state_dict().items():
        assert torch.equal(before[key], after) == (key not in parameters), key
    codes = [key for key, value in before.items() if value.dtype == torch.uint8]
    assert len(codes) == (2 if name == "svd int8" else 0)


@pytest.mark.parametrize("name", NAMES)
def test_a_frozen_table_is_frozen_for_all(name, checkpoints):
    model, before, _ = tuned(checkpoints[name], sst2(epochs=1, learning_rate=1e-2, train_table=False))
    changed = {key for key, after in model.state_dict().items() if not torch.equal(before[key], after)}
    table = "bert.embeddings.word_embeddings."
    assert changed == {key for key, _ in model.named_parameters() if not key.startswith(table)}


def test_the_tuned_table_holds_what_a_checkpoint_stores(checkpoints):
    model, _, _ = tuned(checkpoints["svd"], sst2(epochs=1, learning_rate=1e-2))
    table = model.get_input_embeddings()
    assert isinstance(table, TokenEmbedding)
    for parameter in table.parameters():
        assert torch.equal(parameter, parameter.half().float())


def test_seeds(checkpoints):
    recipe = sst2(epochs=1)
    first, again, other = (tuned(checkpoints["svd"], recipe, seed=seed)[2] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)


def test_bfloat16_changes_little_and_float32_runs_after_it(checkpoints):
    recipe = {"epochs": 1, "learning_rate": 1e-4}
    exact, rounded, after = (
        tuned(checkpoints["svd"], sst2(**recipe, precision=precision))[2]
        for precision in ("float32", "bfloat16", "float32")
    )
    assert torch.equal(exact, after)
    assert 0 < float((exact - rounded).abs().max()) < 0.1


class Interrupted(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize("name", NAMES)
def test_an_interrupted_run_goes_on_to_the_same_numbers(name, checkpoints, tmp_path, monkeypatch):
    recipe = sst2(epochs=3, batch_size=16, learning_rate=1e-3)
    whole, _, expected = tuned(checkpoints[name], recipe)
    steps = []

    def interrupt(self, args, state, control, **kwargs):
        steps.append(state.global_step)
        if state.global_step == 4:  # in the second epoch of three steps each
            raise Interrupted

    monkeypatch.setattr(TrainingBar, "on_step_begin", interrupt)
    with pytest.raises(Interrupted):
        tuned(checkpoints[name], recipe, work=tmp_path / "work")
    assert steps == [0, 1, 2, 3, 4]
    (run,) = (tmp_path / "work").iterdir()
    cut = ['{"global_step": 9, "cut']  # as if it had been stopped while this was written
    write_lines(run / "checkpoint-9" / "trainer_state.json", cut)
    steps.clear()
    monkeypatch.setattr(TrainingBar, "on_step_begin", lambda *args, **kwargs: steps.append(1))
    resumed, _, found = tuned(checkpoints[name], recipe, work=tmp_path / "work")
    assert len(steps) == 6
    assert torch.equal(found, expected)
    for key, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key
    steps.clear()
    tuned(checkpoints[name], recipe, work=tmp_path / "work")  # trained to the end already
    assert steps == []
    tuned(checkpoints[name], sst2(epochs=3, batch_size=16), work=tmp_path / "work")  # another recipe starts afresh
    assert len(steps) == 9


def test_an_interrupted_evaluation_gives_the_metrics_of_a_whole_one(checkpoints, labelled_data, tmp_path, monkeypatch):
    tasks = {"sst2": Glue("sst2", **QUICK | {"epochs": 2, "subset": 64})}
    (whole,) = evaluate(checkpoints["svd"], tasks, data=labelled_data)

    def interrupt(self, args, state, control, **kwargs):
        if state.epoch and state.epoch > 1:
            raise Interrupted

    with monkeypatch.context() as patched:
        patched.setattr(TrainingBar, "on_step_end", interrupt)
        with pytest.raises(Interrupted):
            evaluate(checkpoints["svd"], tasks, data=labelled_data, output=tmp_path)
    assert list((tmp_path / "sst2-seed0.work").rglob("model.safetensors"))
    (resumed,) = evaluate(checkpoints["svd"], tasks, data=labelled_data, output=tmp_path)
    assert resumed.metrics == whole.metrics
    assert [file.name for file in tmp_path.iterdir()] == ["sst2-seed0.json"]


def test_the_last_whole_checkpoint(tmp_path):
    assert last_checkpoint(tmp_path) is None
    for step in (20, 100, 3):
        write_lines(tmp_path / f"checkpoint-{step}" / "trainer_state.json", [json.dumps({"global_step": step})])
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-100")


def test_predictions_come_in_the_order_of_the_rows(checkpoints):
    whom = Subject(checkpoints["original"])
    model, tokenizer = prepare(whom, AutoModelForSequenceClassification, 16, num_labels=2)
    rows = rows_for(tokenizer, 30)
    assert len(set(map(len, rows["input_ids"]))) > 1
    found = predict(model, tokenizer, rows, ("logits",), sst2(batch_size=4))
    for row, (logits,) in enumerate(found):
        alone = model(input_ids=torch.tensor([rows[row]["input_ids"]])).logits[0]
        torch.testing.assert_close(logits, alone, atol=1e-5, rtol=1e-4)


def test_a_diverged_model_is_an_error(checkpoints):
    whom = Subject(checkpoints["original"])
    model, tokenizer = prepare(whom, AutoModelForSequenceClassification, 16, num_labels=2)
    model.classifier.bias.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="lower its learning_rate"):
        predict(model, tokenizer, rows_for(tokenizer), ("logits",), sst2())


def test_a_head_of_another_shape_starts_fresh_and_a_lost_weight_is_an_error(checkpoints, tmp_path):
    model, tokenizer = prepare(Subject(checkpoints["svd"]), AutoModelForSequenceClassification, 16, num_labels=5)
    model.save_pretrained(tmp_path / "five")
    tokenizer.save_pretrained(tmp_path / "five")
    other, _ = prepare(Subject(tmp_path / "five"), AutoModelForSequenceClassification, 16, num_labels=2)
    assert other.classifier.out_features == 2
    assert torch.equal(other.get_input_embeddings().weight, model.get_input_embeddings().weight)
    tensors = load_file(tmp_path / "five" / "model.safetensors")
    del tensors["bert.encoder.layer.0.output.dense.weight"]
    save_file(tensors, tmp_path / "five" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"it holds no bert\.encoder\.layer\.0\.output\.dense\.weight that fits"):
        prepare(Subject(tmp_path / "five"), AutoModelForSequenceClassification, 16, num_labels=2)


def test_settings_are_read_and_checked():
    task = make_task("rte", epochs="1", subset="40", train_table="no", precision="bfloat16", learning_rate="1e-4")
    assert task == Glue("rte", epochs=1, subset=40, train_table=False, precision="bfloat16", learning_rate=1e-4)
    assert make_task("squad2", subset="7") == Squad("2.0", subset=7)
    for name, field, value, words in (
        ("rte", "precision", "int8", "precision should be 'float32' or 'bfloat16', got 'int8'"),
        ("rte", "epochs", "0", "epochs should be greater than or equal to 1"),
        ("rte", "subset", "0", "subset should be greater than or equal to 1"),
        ("rte", "learning_rate", "0", "learning_rate should be greater than 0"),
        ("rte", "task", "xyz", "unknown GLUE task 'xyz'"),
        ("squad", "version", "3", "version should be '1.1' or '2.0', got '3'"),
        ("squad", "stride", "380", "max_length is at least stride"),
    ):
        with pytest.raises(ValueError, match=words):
            make_task(name, **{field: value})


def test_what_the_model_and_the_machine_can_not_do(checkpoints, labelled_data):
    with pytest.raises(ValueError, match="max_length is 600, the model reads 512 tokens"):
        Glue("sst2", max_length=600).measure(Subject(checkpoints["original"], data=labelled_data))
    with pytest.raises(ValueError, match=r"needs no_such_package; install it with: pip install 'vocabpress\[train\]'"):
        need("no_such_package")
