"""Charts: what they hold and what they say."""

from dataclasses import replace

from reporting import Page, everything, original, result
from vocabpress.report.charts import BOUND, rate_distortion, rate_quality
from vocabpress.report.collect import group
from vocabpress.report.tablecharts import deciles, parts, spectrum, storage


def test_the_rate_distortion_chart_holds_every_method_and_the_bound():
    (model,) = group(everything())
    chart = rate_distortion(model, "c")
    assert chart is not None
    text = Page(chart.svg).text("title")
    for words in ("SVD", "LightToken", BOUND, "bits per weight", "relative error", "ratio to float32"):
        assert words in text
    without = [replace(row, details={}) for row in everything()]
    plain = rate_distortion(group(without)[0], "c")
    assert plain is not None
    assert BOUND not in plain.svg
    assert plain.svg.count("<path") < chart.svg.count("<path")


def test_the_rate_quality_chart_draws_the_original_the_recovered_and_dollar_names_as_they_are():
    (model,) = group(everything())
    chart = rate_quality(model, "rte", "accuracy", "c")
    assert chart is not None
    text = Page(chart.svg).text("title")
    for words in ("Original", "dashed, hollow: recovered", "PQ $x$ | peer", "bytes of the table", "accuracy\u00a0↑"):
        assert words in text
    assert chart.caption == "Thin lines: methods by others."
    assert "stroke-dasharray" in chart.svg


def test_at_one_size_each_curve_is_a_dot_the_best_first():
    rows = [
        result(variant=name, metrics={"accuracy": value}) for name, value in (("a", 60.0), ("b", 80.0), ("c", 70.0))
    ]
    (model,) = group([original(metrics={"accuracy": 90.0}), *rows])
    chart = rate_quality(model, "rte", "accuracy", "c")
    assert chart is not None
    heights = {
        data: float(attributes["y"])
        for (tag, attributes), data in zip(
            [tag for tag in Page(chart.svg).tags if tag[0] == "text"],
            [data for tag, data in Page(chart.svg).texts if tag == "text"],
            strict=True,
        )
        if data in ("a", "b", "c")
    }
    assert sorted(heights, key=lambda name: heights[name]) == ["b", "c", "a"]
    assert "All tables at about 4.00 kB" in chart.caption


def test_a_count_that_all_rows_share_is_no_chart():
    rows = [result(times=ratio, metrics={"accuracy": ratio, "tokens": 500}) for ratio in (25, 50)]
    (model,) = group(rows)
    assert rate_quality(model, "rte", "tokens", "c") is None
    assert rate_quality(model, "rte", "accuracy", "c") is not None


def test_spectrum_deciles_and_parts():
    (model,) = group(everything())
    chart = spectrum(model, "c")
    assert chart is not None
    assert chart.caption == "Half of the variance lies in the first 1 of 4 directions."  # 16 of 21.25
    chart = deciles(model, "relative_error", "c")
    assert chart is not None
    assert "tenth of the vocabulary" in chart.svg
    assert "The first tenth makes up 10% of the text." in chart.caption
    row = next(row for row in model.rows if row.details("storage"))
    assert parts(row) == {"codes of the tokens": 3000, "decoder": 990, "mean or bias": 10}
    chart = storage(model, "c")
    assert chart is not None
    assert "other, each below 1%" in chart.svg


def test_details_of_another_shape_are_left_out():
    odd = {
        "storage": [{"part": 1}, "x"],
        "neighbours": [{"word": "a"}],
        "bound": "none",
        "deciles": [3],
        "spectrum": [None],
    }
    (model,) = group([result("reconstruction", metrics={"relative_error": 0.5}, details=odd)])
    assert [spectrum(model, "c"), deciles(model, "relative_error", "c"), storage(model, "c")] == [None, None, None]
    assert rate_distortion(model, "c") is not None
