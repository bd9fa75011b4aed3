import json
import re
from dataclasses import asdict

import pytest
import torch

import tiny
from vocabpress import Budget, compress
from vocabpress.budget import largest
from vocabpress.evaluate.run import provenance
from vocabpress.hf.report import load_report


def test_the_three_ways_to_say_a_budget():
    assert Budget.ratio(25).max_bits(100, 8) == 100 * 8 * 32 // 25
    assert Budget.ratio(25, "bfloat16").max_bits(100, 8) == 100 * 8 * 16 // 25
    assert Budget.ratio(25, torch.float16).max_bits(100, 8) == 100 * 8 * 16 // 25
    assert Budget.bits_per_weight(1.25).max_bits(100, 8) == 1000
    assert Budget.bytes(1000).max_bits(100, 8) == 8000


@pytest.mark.parametrize(
    ("text", "size"), [("2MB", 2 * 10**6), ("2 MiB", 2 * 2**20), ("1.5kb", 1500), ("17", 17), (".5GB", 5 * 10**8)]
)
def test_sizes_in_words(text, size):
    assert Budget.bytes(text).max_bits(1, 1) == size * 8


def test_a_ratio_names_its_reference():
    assert str(Budget.ratio(25)) == "ratio 25 to float32"
    assert str(Budget.bits_per_weight(1.5)) == "1.5 bits per weight"
    assert str(Budget.bytes("2MB")) == "2,000,000 bytes"


BUDGETS = [Budget.ratio(25), Budget.ratio(12.5, "bfloat16"), Budget.bits_per_weight(1.5), Budget.bytes("2MB")]


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_a_budget_is_read_back_from_its_fields_and_from_the_text_of_earlier_versions(budget):
    assert Budget.read(json.loads(json.dumps(asdict(budget)))) == budget
    assert Budget.read(str(budget)) == budget


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Budget.ratio(0.5), "at least 1"),
        (lambda: Budget.ratio(float("nan")), "at least 1"),
        (lambda: Budget.ratio(float("inf")), "at least 1"),
        (lambda: Budget.ratio(2, "int8"), "unknown reference dtype"),
        (lambda: Budget.bits_per_weight(0), "positive"),
        (lambda: Budget.bits_per_weight(-1), "positive"),
        (lambda: Budget.bytes("two megabytes"), "is not a size"),
        (lambda: Budget.bytes("2 parsecs"), "is not a size"),
        (lambda: Budget.bytes(0), "positive"),
        (lambda: Budget.read("a lot"), "'a lot' is no budget"),
        (lambda: Budget.read({"amount": 25, "kind": "ratio"}), "its fields are amount, unit and reference"),
        (lambda: Budget.read("ratio 0.5 to float32"), "at least 1"),
        (lambda: Budget.read({"amount": 25, "unit": "parsecs"}), "unknown unit 'parsecs'"),
    ],
)
def test_what_is_no_budget_is_refused(make, word):
    with pytest.raises(ValueError, match=word):
        make()


def test_largest_finds_the_last_size_that_fits():
    for limit in range(3, 60):
        found = largest(lambda n: 3 * n + 1, limit, range(1, 18, 2))
        fitting = [n for n in range(1, 18, 2) if 3 * n + 1 <= limit]
        assert found == (max(fitting) if fitting else None)
    assert largest(lambda n: n, 5, range(0)) is None


def test_checkpoints_of_earlier_versions_whose_budget_is_text_are_read(tmp_path):
    compress(
        tiny.save("bert", tmp_path / "model"), tmp_path / "small", method="svd", budget=Budget.ratio(4), measure=False
    )
    report, source = load_report(tmp_path / "small"), provenance(tmp_path / "small")
    assert report is not None
    assert report.budget == Budget.ratio(4)
    fields = {"amount": 4.0, "unit": "ratio", "reference": "float32"}
    assert (source["budget"], source["ratio"]) == (fields, 4.0)
    for name in ("config.json", "vocabpress.json"):
        file = tmp_path / "small" / name
        text = file.read_text(encoding="utf-8")
        as_text = re.sub(r'"budget": \{[^}]*\}', '"budget": "ratio 4 to float32"', text)
        assert as_text != text
        file.write_text(as_text, encoding="utf-8")
    assert load_report(tmp_path / "small") == report
    assert provenance(tmp_path / "small") == source
