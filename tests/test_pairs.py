"""Rank correlations of pairs of sentences and of words, against scipy."""

import random

import pytest
import scipy.stats
import torch
from transformers import AutoModelForMaskedLM

from measuring import LONG_LINES, measured, write_lines
from vocabpress.evaluate import make_task
from vocabpress.evaluate.pairs import SEMEVAL, STSB, WORD_PAIRS, read_pairs, spearman
from vocabpress.evaluate.table import open_table


def sentence_pairs(count, seed):
    draw = random.Random(seed)
    return [(draw.choice(LONG_LINES), draw.choice(LONG_LINES), round(5 * draw.random(), 1)) for _ in range(count)]


@pytest.fixture
def data(tmp_path):
    rows = sentence_pairs(20, "stsb")
    stsb = [f"genre\tfile\tyear\t{i}\t{score}\t{a}\t{b}\textra" for i, (a, b, score) in enumerate(rows)]
    write_lines(tmp_path / "data/stsbenchmark/sts-dev.tsv", stsb)
    for name in ("one", "two"):
        lines = [f"{score}\t{a}\t{b}" for a, b, score in sentence_pairs(15, name)]
        write_lines(tmp_path / f"data/semeval-sts/2012/{name}.test.tsv", [*lines, "", '\t"unscored\tpair'])
    write_lines(tmp_path / "data/word-similarity/EN-A-1.txt", ["w1 w2 3", "w1 w3 1", "w4\tw5\t2.5", "w4 unheard 9"])
    write_lines(tmp_path / "data/word-similarity/EN-B.txt", ["w7 w2 3", "w7 w3 1", "w8 w5 2", "w9 w5 0.5"])
    return tmp_path / "data"


def sentence_cosine(model, first, second):
    """Mean pooling by hand."""
    sides = []
    for line in (first, second):
        with torch.no_grad():
            out = model.base_model(torch.tensor([[int(word[1:]) for word in line.split()]]))
        sides.append(out.last_hidden_state[0].mean(0))
    return float(torch.nn.functional.cosine_similarity(*sides, dim=0))


def test_sts_of_a_tiny_encoder_is_scipys(masked, data):
    source, _ = masked
    found = measured("sts", source, data=data)
    model = AutoModelForMaskedLM.from_pretrained(source).eval()

    def expected(rows):
        cosines = [sentence_cosine(model, a, b) for a, b, _ in rows]
        return 100 * scipy.stats.spearmanr(cosines, [score for *_, score in rows]).statistic

    one, two = sentence_pairs(15, "one"), sentence_pairs(15, "two")
    assert found.metrics["stsb_dev"] == pytest.approx(expected(sentence_pairs(20, "stsb")), abs=1e-3)
    assert found.metrics["sts12"] == pytest.approx(expected(one + two), abs=1e-3)  # all files of a year as one
    assert found.metrics["mean"] == pytest.approx((found.metrics["stsb_dev"] + found.metrics["sts12"]) / 2)
    assert found.details["files"]["2012/two.test.tsv"]["spearman"] == pytest.approx(expected(two), abs=1e-3)
    assert found.details["files"]["2012/two.test.tsv"]["pairs"] == 15
    alone = measured("sts", source, settings={"sets": "sts12"}, data=data)
    assert alone.metrics.keys() == {"sts12"}


def test_the_test_split_is_read_only_when_asked_for(masked, data):
    source, _ = masked
    with pytest.raises(ValueError, match=r"has no stsbenchmark/sts-test.tsv"):
        measured("sts", source, settings={"split": "test"}, data=data)
    (data / "stsbenchmark/sts-dev.tsv").rename(data / "stsbenchmark/sts-test.tsv")
    assert "stsb_test" in measured("sts", source, settings={"split": "test", "sets": "stsb"}, data=data).metrics
    with pytest.raises(ValueError, match=r"has no stsbenchmark/sts-dev.tsv"):
        measured("sts", source, data=data)


GOOD = "g\tf\ty\t1\t2.5\ta\tb"
BAD = {
    "commas": (["g,f,y,1,2.5,a,b", GOOD], r"sts-dev.tsv, line 1: 1 columns separated by tabs, 7 are needed"),
    "cut off": ([GOOD, GOOD, "g\tf\ty\t1\t2.5\ta"], r"sts-dev.tsv, line 3: 6 columns .* is it cut off\?"),
    "score above 5": ([GOOD, "g\tf\ty\t1\t5.5\ta\tb"], r"line 2: a score is a number from 0 to 5, got '5.5'"),
    "score below 0": ([GOOD, "g\tf\ty\t1\t-1\ta\tb"], r"line 2: a score is a number from 0 to 5, got '-1'"),
    "score that is none": ([GOOD, "g\tf\ty\t1\thigh\ta\tb"], r"line 2: a score is a number from 0 to 5, got 'high'"),
    "score that is no number": ([GOOD, "g\tf\ty\t1\tnan\ta\tb"], r"line 2: a score is a number from 0 to 5, got 'nan'"),
    "empty text": ([GOOD, "g\tf\ty\t1\t2\ta\t "], r"line 2: one of the two texts is empty"),
    "empty file": ([], r"sts-dev.tsv holds 0 scored pairs; it is empty"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_named_with_their_line(name, masked, data):
    lines, words = BAD[name]
    write_lines(data / "stsbenchmark/sts-dev.tsv", lines)
    with pytest.raises(ValueError, match=words):
        measured("sts", masked[0], data=data)


def test_bad_sets_and_folders(masked, data):
    (data / "stsbenchmark/sts-dev.tsv").write_bytes("g\tf\ty\t1\t2\tcaf\xe9\tb".encode("latin-1"))
    with pytest.raises(ValueError, match=r"line 1: not UTF-8 text"):
        measured("sts", masked[0], data=data)
    with pytest.raises(ValueError, match="unknown set 'sts11' of STS; choose from stsb, sts12"):
        make_task("sts", sets="stsb,sts11")
    with pytest.raises(ValueError, match="split should be 'dev', 'test' or 'train', got 'dve'"):
        make_task("sts", split="dve")
    with pytest.raises(ValueError, match=r"has no semeval-sts/2016"):
        measured("sts", masked[0], settings={"sets": "sts16"}, data=data)
    write_lines(data / "word-similarity/EN-C.txt", ["w7 w2"])
    with pytest.raises(ValueError, match=r"EN-C.txt, line 1: 2 columns separated by white space, 3 are needed"):
        measured("similarity", masked[0], data=data)


def test_word_similarity_by_hand(masked, data):
    source, small = masked
    found = measured("similarity", small, source, data=data)
    for folder, ending in ((small, ""), (source, "_original")):
        table = open_table(folder, "cpu").dense().detach()

        def cosine(a, b, table=table):
            return float(torch.nn.functional.cosine_similarity(table[a], table[b], dim=0))

        first = scipy.stats.spearmanr([cosine(1, 2), cosine(1, 3), cosine(4, 5)], [3, 1, 2.5]).statistic
        second = scipy.stats.spearmanr(
            [cosine(7, 2), cosine(7, 3), cosine(8, 5), cosine(9, 5)], [3, 1, 2, 0.5]
        ).statistic
        assert found.metrics[f"en_a_1{ending}"] == pytest.approx(100 * first)
        assert found.metrics[f"en_b{ending}"] == pytest.approx(100 * second)
        assert found.metrics[f"mean{ending}"] == pytest.approx(50 * (first + second))
    assert found.details["sets"] == {"en_a_1": {"pairs": 4, "known": 3}, "en_b": {"pairs": 4, "known": 4}}
    write_lines(data / "word-similarity/EN-A-1.txt", ["no word 1", "of it 2"])
    (data / "word-similarity/EN-B.txt").unlink()
    with pytest.raises(ValueError, match="knows none of the words"):
        measured("similarity", source, data=data)


def test_a_rank_correlation_with_equal_values_is_zero():
    assert spearman(torch.ones(4), torch.arange(4.0)) == 0
    assert spearman(torch.arange(4.0), torch.arange(4.0)) == pytest.approx(1)


@pytest.mark.data
def test_the_public_files_are_read_whole(shared_data):
    assert len(read_pairs(shared_data / "sts-benchmark" / "sts-dev.tsv", STSB)) == 1500
    years = {"2012": 2358, "2013": 1500, "2014": 3750}  # without MSRvid in 2012, SMT in 2013
    for year, count in years.items():
        files = (shared_data / "sts-semeval-2012-2014").glob(f"semeval-sts__{year}__*.test.tsv")
        assert sum(len(read_pairs(file, SEMEVAL)) for file in files) == count
    assert len(read_pairs(shared_data / "word-similarity" / "EN-WS-353-ALL.txt", WORD_PAIRS)) == 353
