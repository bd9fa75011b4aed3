"""Errors of tables, and what they are compared with: the spectrum, its bound, the neighbours."""

import json
import math

import pytest
import torch

import tiny
from measuring import LINES, measured
from vocabpress.embeddings import Dense
from vocabpress.evaluate.table import open_table
from vocabpress.neighbours import choose_queries, nearest_rows, shared_neighbours
from vocabpress.reconstruction import deviations, frequency_deciles, reconstruction, row_errors
from vocabpress.spectrum import gaussian_bound, singular_values

# --- the spectrum and its bound ---


def test_the_bound_of_two_components_by_hand():
    """Variances 4 and 1: the water reaches the second at half a bit a weight, one bit a row."""
    half, one, two = 0.25, 0.5, 1.0
    found = gaussian_bound(torch.tensor([2.0, 1.0]), 2, [0, half, one, two])
    # 0.5 bits of a row sink the water from 4 to 2: min(4, 2) + min(1, 2) of 5; 1 bit to 1; 2 bits to 1/2.
    assert found == pytest.approx([1.0, 3 / 5, 2 / 5, 1 / 5])


def test_the_bound_of_a_flat_spectrum_is_the_closed_form():
    rates = [0.02, 0.5, 1.0, 2.5, 8.0]
    assert gaussian_bound(torch.full((16,), 3.0), 16, rates) == pytest.approx([2 ** (-2 * rate) for rate in rates])


def test_the_bound_of_a_table_of_few_directions_spends_its_bits_on_those():
    values = torch.tensor([1.0, 1.0, 1e-9, 0.0])  # the last two are rounding errors
    assert gaussian_bound(values, 4, [1.0, 2.0]) == pytest.approx([2**-4, 2**-8])
    assert gaussian_bound(torch.zeros(3), 3, [0.1, 1.0]) == [0.0, 0.0]


def test_the_bound_falls_and_agrees_with_a_search_over_water_levels():
    variances = torch.rand(20, dtype=torch.float64).sort(descending=True).values
    rates = [0.05 * 1.4**step for step in range(16)]
    found = gaussian_bound(variances.sqrt(), 20, rates)
    assert found == sorted(found, reverse=True)
    for rate, error in zip(rates, found, strict=True):
        low, high = 0.0, float(variances[0])
        for _ in range(200):
            level = (low + high) / 2
            bits = (variances / level).log2().clamp(min=0).sum() / 2 / 20
            low, high = (level, high) if bits > rate else (low, level)
        assert error == pytest.approx(float(variances.clamp(max=low).sum() / variances.sum()), rel=1e-9)


def test_singular_values_are_those_of_the_centred_table():
    table = torch.randn(50, 8) + 3
    expected = torch.linalg.svdvals(table - table.mean(0))
    torch.testing.assert_close(singular_values(table).float(), expected, rtol=1e-4, atol=0)


# --- rows ---


def test_row_errors_by_hand():
    table = torch.tensor([[3.0, 4.0], [0.0, 2.0], [0.0, 0.0]])
    other = Dense.of(torch.tensor([[6.0, 8.0], [2.0, 0.0], [0.0, 1.0]]), torch.float32)
    errors = row_errors(table, other)
    assert errors.squared_error.tolist() == [25.0, 8.0, 1.0]
    assert errors.cosine.tolist() == pytest.approx([1.0, 0.0, 0.0])
    assert errors.norm_ratio.tolist() == pytest.approx([2.0, 1.0, math.nan], nan_ok=True)
    weights = torch.tensor([2.0, 1.0, 1.0])  # mean row (1.5, 2.5)
    assert deviations(table, weights).tolist() == pytest.approx([4.5, 2.5, 8.5])
    assert reconstruction(table, other, weights).relative_error == pytest.approx((50 + 8 + 1) / (9 + 2.5 + 8.5))
    assert reconstruction(table, other, weights).mean_cosine == pytest.approx(0.5)


def test_deciles_are_by_count_the_most_frequent_first():
    counts = torch.zeros(25)
    counts[[7, 3, 20]] = torch.tensor([9.0, 5.0, 9.0])
    groups = frequency_deciles(counts)
    assert [len(ids) for ids in groups] == [3] * 5 + [2] * 5
    assert groups[0].tolist() == [7, 20, 3]
    assert groups[1].tolist() == [0, 1, 2]


def test_neighbours_by_hand_and_by_brute_force():
    angles = torch.tensor([0.0, 10.0, 25.0, 90.0, 130.0]).deg2rad()
    table = torch.stack([angles.cos(), angles.sin()], dim=1)
    assert nearest_rows(table, torch.tensor([0, 3]), 2).tolist() == [[1, 2], [4, 2]]
    assert nearest_rows(table, torch.tensor([0, 3]), 2, torch.tensor([2])).tolist() == [[1, 3], [4, 1]]
    turned = table[[0, 1, 3, 2, 4]] * 5  # rows 2 and 3 change places: 10 and 90 degrees are near row 0 now
    # Of row 0: {1, 2} -> {1, 3}; of row 3, at 25 degrees now: {4, 2} -> {1, 0}.
    assert shared_neighbours(table, turned, torch.tensor([0, 3]), 2).tolist() == [0.5, 0.0]
    first = torch.randn(300, 12)
    second = first + 0.4 * torch.randn(300, 12)
    ids = torch.arange(300)
    shares = shared_neighbours(first, second, ids, 10)
    sets = []
    for rows in (first, second):
        cosines = torch.nn.functional.cosine_similarity(rows[:, None], rows[None], dim=-1).fill_diagonal_(-2)
        sets.append([set(row.topk(10).indices.tolist()) for row in cosines])
    expected = [len(a & b) / 10 for a, b in zip(*sets, strict=True)]
    assert shares.tolist() == pytest.approx(expected)
    assert 0.2 < shares.mean() < 0.95


def test_queries_stand_for_all_rows():
    counts = 1.0 / torch.arange(1.0, 101.0)
    whole = choose_queries(100, 100, counts, 0)
    assert whole.ids.tolist() == list(range(100))
    assert whole.stands_for.tolist() == [1.0] * 100
    part = choose_queries(100, 40, counts, 0)
    assert part.ids[:20].tolist() == list(range(20))
    assert len(set(part.ids.tolist())) == 40
    assert part.stands_for.tolist() == [1.0] * 20 + [4.0] * 20
    plain = choose_queries(100, 40, None, 0)
    assert plain.stands_for.tolist() == [2.5] * 40
    assert plain.ids.tolist() != choose_queries(100, 40, None, 1).ids.tolist()


# --- task reconstruction ---


def test_a_table_compared_with_itself(source):
    found = measured("reconstruction", source, source)
    metrics = found.metrics
    assert metrics["relative_error"] == metrics["weighted_relative_error"] == 0
    assert metrics["neighbours_kept"] == metrics["weighted_neighbours_kept"] == 1
    assert metrics["mean_cosine"] == pytest.approx(1)  # of the padding token's row of zeros, too
    assert metrics["norm_ratio"] == pytest.approx(1)
    assert found.details["weighted_by"] == "vocabulary order"
    assert found.details["storage"] == [{"name": "rows", "dtype": "float32", "bytes": tiny.VOCAB * 32 * 4}]


def test_the_errors_are_those_that_compress_reports(source, small, text):
    folder, report = small
    found = measured("reconstruction", folder, source, text=[text])
    metrics, details = found.metrics, found.details
    assert metrics["relative_error"] == pytest.approx(report.relative_error)
    assert metrics["mean_cosine"] == pytest.approx(report.mean_cosine)
    assert metrics["weighted_relative_error"] == pytest.approx(report.weighted_relative_error)
    assert metrics["weighted_mean_cosine"] == pytest.approx(report.weighted_mean_cosine)
    assert 0 < metrics["neighbours_kept"] < metrics["weighted_neighbours_kept"] < 1  # fitted to the text
    assert details["weighted_by"] == "text"
    assert sum(item["bytes"] for item in details["storage"]) == report.table_bytes_after
    assert len(details["spectrum"]) == 32
    assert len(details["bound"]) == 40
    assert [details["bound"][i]["bits_per_weight"] for i in (0, -1)] == pytest.approx([0.02, 8])
    deciles = details["deciles"]
    assert sum(tenth["tokens"] for tenth in deciles) == tiny.VOCAB
    assert sum(tenth["share"] for tenth in deciles) == pytest.approx(1)
    assert deciles[0]["share"] > deciles[1]["share"] > deciles[-1]["share"] == 0
    table, rebuilt = (open_table(place, "cpu").dense().detach() for place in (source, folder))
    words = [word for line in LINES for word in line.split()]
    first = sorted(range(tiny.VOCAB), key=lambda i: -words.count(f"w{i}"))[:22]
    errors = (rebuilt - table)[first].square().sum() / (table - table.mean(0))[first].square().sum()
    assert deciles[0]["tokens"] == 22
    assert deciles[0]["relative_error"] == pytest.approx(float(errors), rel=1e-4)
    json.dumps(details, allow_nan=False)


def test_a_sample_of_queries_comes_near_to_all(source, small):
    folder, _ = small
    whole, part = (measured("reconstruction", folder, source, {"queries": n}) for n in (0, 120))
    assert part.details["queries"] == 120
    for name in ("neighbours_kept", "weighted_neighbours_kept"):
        assert part.metrics[name] == pytest.approx(whole.metrics[name], abs=0.06)


def test_neighbours_of_words(source, small):
    folder, _ = small
    found = measured("reconstruction", folder, source, {"words": "W9, w12 ,nothing,w3 w4"})
    shown = {entry["word"]: entry for entry in found.details["neighbours"]}
    assert list(shown) == ["W9", "w12"]  # in lower case where it is not known as it is; unknown words are left out
    table = open_table(source, "cpu").dense().detach()
    cosines = torch.nn.functional.cosine_similarity(table[9], table, dim=-1)
    cosines[[9, tiny.VOCAB - 1]] = -2  # itself, and the unknown token, which is special
    assert shown["W9"]["original"] == [f"w{i}" for i in cosines.topk(5).indices.tolist()]
    assert shown["W9"]["compressed"] != shown["W9"]["original"]


def test_a_model_without_a_tokenizer_has_no_weighted_errors(source, tmp_path, text):
    tiny.make("bert").save_pretrained(tmp_path / "bare")
    found = measured("reconstruction", tmp_path / "bare", source)
    assert "weighted_relative_error" not in found.metrics
    assert (found.details["weighted_by"], found.details["deciles"], found.details["neighbours"]) == (None, [], [])
    with pytest.raises(ValueError, match="has no tokenizer"):
        measured("reconstruction", tmp_path / "bare", source, text=[text])


def test_another_model_is_refused(source, tmp_path):
    small = tiny.BertConfig(**(tiny.BERT | {"hidden_size": 16}), vocab_size=tiny.VOCAB)
    tiny.BertForMaskedLM(small).save_pretrained(tmp_path / "small")
    with pytest.raises(ValueError, match=r"table \(211, 32\), the original \(211, 16\)"):
        measured("reconstruction", source, tmp_path / "small")
