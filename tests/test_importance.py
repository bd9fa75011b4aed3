"""Where counts and weights come from, and that each reaches the fit and the report."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import tiny
from command import run
from sweeping import PLAN, names
from vocabpress import SVD, Budget, compress
from vocabpress.hf.checkpoint import open_model, open_tokenizer
from vocabpress.hf.importance import find_importance
from vocabpress.weights import count_tokens, save_counts, save_weights, tfidf, token_weights, vocabulary_order

LINES = [f"w1 w{2 + i % 7} w{3 + i * i % 40}" for i in range(60)]


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(LINES), encoding="utf-8")
    return tmp_path / "text.txt"


def fitted(source, weights):
    table = open_model(source).get_input_embeddings().weight.detach()
    return SVD().fit(table, budget=Budget.ratio(6), token_weights=weights).dense()


def test_each_source_gives_its_counts_and_weights(source, text, tmp_path):
    tokenizer = open_tokenizer(source)
    counts, scores = count_tokens(LINES, tokenizer, tiny.VOCAB), tfidf(LINES, tokenizer, tiny.VOCAB)
    order = vocabulary_order(tokenizer, tiny.VOCAB)
    save_weights(scores, tmp_path / "w")
    save_counts(counts, tmp_path / "c")
    cases = [
        ((), None, None, order, token_weights(order), "vocabulary order"),
        ((), "vocabulary-order", None, order, token_weights(order), "vocabulary order"),
        ((), None, 0.25, order, token_weights(order, 0.25), "vocabulary order, to the power 0.25"),
        ((), "uniform", None, None, None, "uniform"),
        ((), "uniform", scores, None, scores, "given weights"),
        ([text], None, None, counts, token_weights(counts), "text"),
        ([text], None, "0.25", counts, token_weights(counts, 0.25), "text, to the power 0.25"),
        ((), tmp_path / "c", 1.0, counts, token_weights(counts, 1.0), "saved counts, to the power 1"),
        ([text], None, "tfidf", counts, scores, "TF-IDF of text"),
        ([text], None, tmp_path / "w", counts, scores, "saved weights"),
        ((), tmp_path / "c", str(tmp_path / "w"), counts, scores, "saved weights"),
        ((), None, scores, order, scores, "given weights"),
    ]
    for files, tally, weights, expected_counts, expected_weights, source_word in cases:
        found = find_importance(source, tiny.VOCAB, files, tally, weights, False)
        assert found.source == source_word
        for got, expected in ((found.counts, expected_counts), (found.weights, expected_weights)):
            assert (got is None) == (expected is None), source_word
            assert got is None or torch.equal(got, expected), source_word


def test_without_a_tokenizer_every_token_counts_alike(source, tmp_path):
    bare = Path(shutil.copytree(source, tmp_path / "bare", ignore=shutil.ignore_patterns("*token*", "vocab*")))
    report = compress(bare, tmp_path / "out", method="svd", budget=Budget.ratio(6))
    assert (report.weighted_by, report.weighted_relative_error) == ("uniform", None)
    with pytest.raises(ValueError, match="no tokenizer"):
        compress(bare, tmp_path / "b", method="svd", budget=Budget.ratio(6), counts="vocabulary-order")


def test_weights_reach_the_fit_and_counts_the_report(source, text, tmp_path):
    scores = tfidf(LINES, open_tokenizer(source), tiny.VOCAB)
    report = compress(source, tmp_path / "out", method="svd", budget=Budget.ratio(6), text=[text], weights="tfidf")
    assert report.weighted_by == "TF-IDF of text"
    assert report.weighted_relative_error is not None
    rows = open_model(tmp_path / "out").get_input_embeddings()(torch.arange(tiny.VOCAB))
    torch.testing.assert_close(rows, fitted(source, scores), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(rows, fitted(source, None), rtol=1e-3, atol=1e-3)
    said = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["fitted_by"]
    assert said["token_weights"] == "TF-IDF of text"


def test_the_command_line_takes_weights(source, text, tmp_path, capsys):
    save_weights(torch.arange(1.0, tiny.VOCAB + 1), tmp_path / "w")
    common = ("compress", source, "--method", "discblock", "--ratio", "3", "--json")
    code, out, err = run(capsys, *common, "-o", tmp_path / "a", "--weights", tmp_path / "w")
    assert code == 0, err
    report = json.loads(out.splitlines()[-1])
    assert report["weighted_by"] == "saved weights"
    assert report["weighted_relative_error"] > 0  # by the vocabulary's order
    code, out, err = run(capsys, *common, "-o", tmp_path / "b", "--weights", "tfidf", "--text", text)
    assert code == 0, err
    assert json.loads(out.splitlines()[-1])["weighted_by"] == "TF-IDF of text"
    for arguments, words in (
        (("--weights", "tfidf"), "TF-IDF needs the text itself, its lines are the documents; give --text"),
        (("--weights", "none"), "no such weights file: none"),
        (("--weights", "0.5", "--counts", "uniform"), "0.5 are a power of the counts, and there are none; give --text"),
        (("--weights", "-1", "--text", text), "the power of the counts is 0 to 2, got -1"),
        (("--weights", text), "is not a weights file"),
        (("--weights", tmp_path / "w", "--set", "blocks=300"), "blocks should be less than or equal to 256, got '300'"),
    ):
        code, out, err = run(capsys, *common, "-o", tmp_path / "c", *arguments)
        assert (code, out) == (2, "")
        assert words in err
        assert err.strip().splitlines()[-1].startswith("vocabpress: error: ")
        assert not (tmp_path / "c").exists()


def test_weights_make_cells_of_their_own_and_no_weights_change_no_name(place):
    save_weights(torch.ones(tiny.VOCAB), place / "w")
    before = names(place)
    rated = names(place, PLAN.replace("weighted_by_text = true", 'weighted_by_text = true\nweights = "tfidf"'))
    filed = names(place, PLAN.replace("weighted_by_text = true", 'weighted_by_text = true\nweights = "w"'))
    for other in (rated, filed):
        # Of two rows one changes: its two presses, and what measures them, two tasks of one and two seeds.
        assert len(set(before) - set(other)) == 2 + 2 * 3
    save_weights(torch.arange(1.0, tiny.VOCAB + 1), place / "w")
    again = names(place, PLAN.replace("weighted_by_text = true", 'weighted_by_text = true\nweights = "w"'))
    assert len(set(again) - set(filed)) == 2 + 2 * 3
