import math

import pytest
import torch

from vocabpress.calibrate.calibration import token_weights
from vocabpress.calibrate.counts import count_tokens, tfidf, vocabulary_order
from vocabpress.texts import read_lines


class Words:
    """A tokenizer of eight words; 0 is special, 3 was never used."""

    vocabulary = ("[CLS]", "the", "cat", "[unused0]", "sat", "mat", "on", "dog")
    all_special_ids = (0,)

    def __call__(self, text, *, add_special_tokens):
        assert not add_special_tokens
        return {"input_ids": [[self.vocabulary.index(word) for word in line.split()] for line in text]}

    def convert_ids_to_tokens(self, ids):
        return [self.vocabulary[i] if i < len(self.vocabulary) else None for i in ids]


def test_counting_by_hand():
    counts = count_tokens(["the cat sat", "the cat on the mat"], Words(), 10)
    assert counts.tolist() == [0, 3, 2, 0, 1, 1, 1, 0, 0, 0]


def test_counting_streams_in_batches():
    counts = count_tokens(("the cat" for _ in range(2000)), Words(), 8)
    assert counts[1] == counts[2] == 2000


def test_text_files_are_read_line_by_line(tmp_path):
    (tmp_path / "a.txt").write_text("the cat\n\n  sat  \n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("on the mat", encoding="utf-8")
    assert list(read_lines([tmp_path / "a.txt", tmp_path / "b.txt"])) == ["the cat", "sat", "on the mat"]


def test_vocabulary_order_passes_over_what_text_does_not_hold():
    prior = vocabulary_order(Words(), 10)
    # the, cat, sat, mat, on, dog are of rank 1 to 6; special, unused and missing rows get the least, 1/6.
    expected = [1 / 6, 1, 1 / 2, 1 / 6, 1 / 3, 1 / 4, 1 / 5, 1 / 6, 1 / 6, 1 / 6]
    torch.testing.assert_close(prior, torch.tensor(expected))


def test_weights_from_counts_by_hand():
    # Counts plus 1: 1, 4, 25; square roots 1, 2, 5. Frequencies 1/100 and 8/100 are as counts 1 and 8.
    weights = token_weights(torch.tensor([0.0, 3.0, 24.0]))
    torch.testing.assert_close(weights / weights[0], torch.tensor([1.0, 2.0, 5.0]))
    weights = token_weights(torch.tensor([0.0, 0.01, 0.08]))
    torch.testing.assert_close(weights / weights[0], torch.tensor([1.0, 2**0.5, 3.0]))
    assert float(weights.mean()) == pytest.approx(1.0)
    # A million tokens count as 350,000, so that 90,000 of them are 31,500.
    weights = token_weights(torch.tensor([0.0, 910_000.0, 90_000.0]))
    torch.testing.assert_close(weights / weights[0], torch.tensor([1.0, 318501.0, 31501.0]).sqrt())
    assert torch.equal(token_weights(torch.tensor([0.0, 3.0, 24.0]), exponent=0.0), torch.ones(3))
    assert torch.equal(token_weights(torch.ones(5)), torch.ones(5))


def test_tfidf_by_hand():
    # Six documents and a blank one. "the" is in four, "cat" in two, "dog" in one; df starts at one, and one is added.
    texts = ["the cat the", "the dog", "cat", "the", "the mat", "", "mat on"]
    ln2 = math.log(2)
    the = 0.1 * (1 + 1 + 1 + 1) / 6 * 1  # 6 / (2 + 4) = 1
    cat = 0.1 * (1 / 2 + 1) / 6 * (1 + math.log(6 / 4))
    dog = 0.1 * 1 / 6 * (1 + ln2)
    mat, on = 0.1 * (1 + 1) / 6 * (1 + math.log(6 / 4)), 0.1 * 1 / 6 * (1 + ln2)
    # [CLS], the, cat, [unused0], sat, mat, on, dog, and a row without a token
    expected = torch.tensor([0, the, cat, 0, 0, mat, on, dog, 0]) + 1 / 6
    torch.testing.assert_close(tfidf(texts, Words(), 9), expected)
    everywhere = tfidf(texts, Words(), 9, alpha=0.5, beta=0.1)
    torch.testing.assert_close(everywhere[0], torch.tensor(0.5 * (1 + math.log(6 / 2)) + 1 / 6))
    torch.testing.assert_close(everywhere[1], torch.tensor(0.5 + the + 1 / 6))
    # 1,200 documents, more than a batch, 800 of them with "the".
    many = torch.tensor(the * (1 + math.log(1200 / 802)) + 1 / 1200)
    torch.testing.assert_close(tfidf(texts * 200, Words(), 9)[1], many)


def test_bad_sources_are_refused(tmp_path):
    (tmp_path / "empty.txt").write_text("\n  \n", encoding="utf-8")
    (tmp_path / "latin.txt").write_bytes("fine\ncaf\xe9".encode("latin-1"))
    cases = [
        (lambda: list(read_lines([tmp_path / "none.txt"])), "no such text file"),
        (lambda: list(read_lines([tmp_path / "empty.txt"])), "holds no text"),
        (lambda: list(read_lines([tmp_path / "latin.txt"])), r"not UTF-8 text \(line 2\)"),
        (lambda: count_tokens([], Words(), 8), "holds no token"),
        (lambda: count_tokens(["the dog"], Words(), 4), "gives id 7, the table has 4 rows"),
        (lambda: tfidf(["", ""], Words(), 8), "holds no token"),
        (lambda: tfidf(["the dog"], Words(), 4), "gives id 7, the table has 4 rows"),
        (lambda: token_weights(torch.zeros(3)), "all token counts are zero"),
        (lambda: token_weights(torch.ones(3), -1), "the exponent of the counts is 0 to 2, got -1"),
    ]
    for make, words in cases:
        with pytest.raises(ValueError, match=words):
            make()
