"""Charts: what they hold, and that they can be drawn."""

import math
from dataclasses import replace

import pytest
import vl_convert

from reporting import everything, original, result
from vocabpress.report.charts import (
    CONFIG,
    by_frequency,
    bytes_by_part,
    kind_of_part,
    quality,
    rate_distortion,
    spectrum_chart,
)
from vocabpress.report.frame import group


def texts(chart):
    """What a reader sees of a chart, drawn as SVG."""
    assert chart is not None
    return vl_convert.vegalite_to_svg({**chart.spec, "width": 400}, config=CONFIG)


def points(chart):
    """All data that a chart holds."""
    return [row for rows in chart.spec["datasets"].values() for row in rows]


def test_the_rate_distortion_chart_holds_every_method_and_the_bound():
    (model,) = group(everything())
    chart = rate_distortion(model)
    for words in ("SVD", "LightToken", "bits per weight; times smaller than float32", "relative error", "25x"):
        assert words in texts(chart)
    assert "Dotted: the Gaussian bound." in chart.caption
    assert {"bits_per_weight": 1.0, "relative_error": 0.25} in points(chart)
    plain = rate_distortion(group([replace(row, details={}) for row in everything()])[0])
    assert "bound" not in plain.caption
    assert not any("bits_per_weight" in point for point in points(plain))


def test_a_chart_holds_the_numbers_of_the_results():
    rows = [result(metrics={"accuracy": value}, seed=seed) for seed, value in enumerate((70.0, 72.0, 77.0))]
    (model,) = group([original(metrics={"accuracy": 80.0}), *rows, result(times=50, metrics={"accuracy": 60.0})])
    found = {point.get("table"): point for point in points(quality(model, "rte", "accuracy"))}
    assert found[4000.0]["mean"] == 73.0
    assert found[4000.0]["spread"] == pytest.approx(math.sqrt(13), rel=1e-4)
    assert found[4000.0]["n"] == 3
    assert (found[2000.0]["mean"], found[2000.0]["spread"], found[2000.0]["ratio"]) == (60.0, None, 50.0)
    assert found[None]["mean"] == 80.0  # the line of the original


def test_the_quality_chart_draws_the_original_the_recovered_and_names_as_they_are():
    (model,) = group(everything())
    chart = quality(model, "rte", "accuracy")
    for words in ("Original", "PQ $x$ | peer", "bytes; times smaller than float32", "accuracy\u00a0↑", "2kB", "50x"):
        assert words in texts(chart)
    assert chart.caption == "Dashed across: Original. Thin lines: methods by others. Dashed, hollow: recovered."


def test_at_one_size_each_curve_is_a_dot_the_best_first():
    rows = [
        result(variant=name, metrics={"accuracy": value}) for name, value in (("a", 60.0), ("b", 80.0), ("c", 70.0))
    ]
    (model,) = group([original(metrics={"accuracy": 90.0}), *rows])
    chart = quality(model, "rte", "accuracy")
    drawn = texts(chart)
    assert sorted("abc", key=lambda name: drawn.index(f">{name}<")) == ["b", "c", "a"]
    assert "All tables at about 4.00 kB" in chart.caption


def test_a_count_that_all_rows_share_is_no_chart():
    rows = [result(times=ratio, metrics={"accuracy": ratio, "tokens": 500}) for ratio in (25, 50)]
    (model,) = group(rows)
    assert quality(model, "rte", "tokens") is None
    assert quality(model, "rte", "accuracy") is not None


def test_spectrum_deciles_and_parts():
    (model,) = group(everything())
    chart = spectrum_chart(model)
    assert chart.caption == "Half of the variance lies in the first 1 of 4 directions."  # 16 of 21.25
    assert "singular value" in texts(chart)
    chart = by_frequency(model, "relative_error")
    assert "tenth of the vocabulary" in texts(chart)
    assert "The first tenth makes up 10% of the text." in chart.caption
    chart = bytes_by_part(model)
    found = {point["part"]: point["bytes"] for point in points(chart) if point["name"] == "SVD"}
    assert found == {"codes of the tokens": 3000, "decoder": 990, "other, each below 1%": 10}
    assert "other, each below 1%" in texts(chart)
    assert kind_of_part("inner.block_of") == "map to blocks"


def test_details_of_another_shape_are_left_out():
    odd = {
        "storage": [{"part": 1}, "x"],
        "neighbours": [{"word": "a"}],
        "bound": "none",
        "deciles": [3],
        "spectrum": [None],
    }
    (model,) = group([result("reconstruction", metrics={"relative_error": 0.5}, details=odd)])
    assert [spectrum_chart(model), by_frequency(model, "relative_error"), bytes_by_part(model)] == [None, None, None]
    assert rate_distortion(model) is not None
