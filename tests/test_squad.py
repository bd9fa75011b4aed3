"""SQuAD: windows, spans, metrics and files."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset

from measuring import write_lines
from vocabpress.evaluate import Subject
from vocabpress.evaluate.finetuned.squad import Squad, read_questions, squad_metrics
from vocabpress.evaluate.finetuned.windows import answers, best_span, split_paragraphs

pytestmark = pytest.mark.usefixtures("little_garbage")


def question(key, text, context, *found):
    """A row of the data set; each answer is (text, first character)."""
    answers = {"text": [text for text, _ in found], "answer_start": [start for _, start in found]}
    return {"id": key, "question": text, "context": context, "answers": answers}


def asking(context, *found, text="w1 w2", key="q"):
    return question(key, text, context, *((answer, context.index(answer)) for answer in found))


def windows_of(questions, folder, max_length, stride):
    return split_paragraphs(Dataset.from_list(questions), Subject(folder).tokenizer(), max_length, stride)


def planted(windows, spans):
    """Logits that are high at the first and the last token of these characters, for each question."""
    logits = []
    for window in windows:
        offsets = torch.tensor(window["offsets"])
        start, end = torch.zeros(len(offsets) + 3), torch.zeros(len(offsets) + 3)  # three of padding
        first, last = spans[window["question"]]
        start[: len(offsets)][offsets[:, 0] == first] = 5
        end[: len(offsets)][offsets[:, 1] == last] = 5
        logits.append((start, end))
    return logits


def test_a_planted_span_is_found_in_the_windows(checkpoints):
    """Forty words in windows of at most 14; the answer lies in several of them, whole or in part."""
    context = " ".join(f"w{index}" for index in range(100, 140))
    asked = [asking(context, "w117 w118 w119"), asking("w9 w8 w7", "w8", key="short")]
    windows = windows_of(asked, checkpoints["original"], 16, 4)
    assert list(windows["question"]) == [0, 0, 0, 0, 1]  # 14 words, then 10 new ones each: 14 + 10 + 10 + 6
    spans = [(context.index("w117"), context.index("w119") + 4), (3, 5)]
    contexts = [each["context"] for each in asked]
    assert answers(contexts, windows, planted(windows, spans), may_be_absent=False) == ["w117 w118 w119", "w8"]


def test_windows_know_where_the_answer_is(checkpoints):
    """Windows of w100-w113, w110-w123, w120-w133 after two words of question; overlap of four."""
    context = " ".join(f"w{index}" for index in range(100, 134))
    windows = windows_of([asking(context, "w112 w113 w114")], checkpoints["original"], 16, 4)
    starts, ends = windows["start_positions"], windows["end_positions"]
    assert list(zip(starts, ends, strict=True)) == [(0, 0), (4, 6), (0, 0)]
    assert windows[1]["input_ids"] == [1, 2, *range(110, 124)]
    assert windows[1]["offsets"][:3] == [[-1, -1], [-1, -1], [50, 54]]


def test_a_long_question_is_cut_and_the_paragraph_kept(checkpoints):
    asked = asking("w100 w101", "w101", text=" " + " ".join(f"w{index}" for index in range(60)))
    windows = windows_of([asked], checkpoints["original"], 24, 4)
    assert windows[0]["input_ids"] == [*range(12), 100, 101]


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


def test_no_answer_where_the_null_score_is_higher(checkpoints):
    windows = windows_of([asking("w5 w6 w7", "w6")], checkpoints["original"], 16, 0)
    ((start, end),) = planted(windows, [(3, 5)])
    for null, wanted in ((4.9, "w6"), (5.0, "w6"), (5.1, "")):  # at 0: the span wins where they are equal
        start[windows[0]["absent"]] = end[windows[0]["absent"]] = null
        assert answers(["w5 w6 w7"], windows, [(start, end)], may_be_absent=True) == [wanted]
        assert answers(["w5 w6 w7"], windows, [(start, end)], may_be_absent=False) == ["w6"]


def test_squad_metrics_by_hand():
    asked = [
        question("a", "?", "", ("the big cat", 0), ("cat", 0)),
        question("b", "?", "", ("blue whale", 0)),
        question("c", "?", ""),
        question("d", "?", ""),
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
def test_squad_learns(version, checkpoints, labelled_data, capsys):
    task = Squad(version, epochs=8, batch_size=16, learning_rate=3e-3, max_length=24, stride=4)
    found = task.measure(Subject(checkpoints["svd"], data=labelled_data)).metrics
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
    file = write_lines(tmp_path / "train.json", [whole])
    assert read_questions(file, "1.1").to_list() == [question("q1", "Who?", "A cat.", ("cat", 2))]
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
        write_lines(file, [text])
        with pytest.raises(ValueError, match=words):
            read_questions(file, version)
    write_lines(file, [stored()])
    assert read_questions(file, "2.0").to_list() == [question("q1", "Who?", "A cat.")]
