"""Results into rows: seeds, names, pairs."""

import math

import pytest

from reporting import BENCHMARKS, FLOAT32, everything, original, result
from vocabpress.report.collect import collect
from vocabpress.report.frame import group
from vocabpress.report.names import figure, method, metric, places
from vocabpress.report.tables import overview, recovery, task_sheet
from vocabpress.results import write_results


def test_seeds_become_a_mean_and_a_sample_standard_deviation():
    rows = [result(metrics={"accuracy": value}, seed=seed) for seed, value in enumerate((70.0, 72.0, 77.0))]
    (model,) = group(rows)
    (line,) = model.values.itertuples()
    assert line.mean == pytest.approx(73.0)
    assert line.spread == pytest.approx(math.sqrt((9 + 1 + 16) / 2))
    assert (line.n, line.ratio, line.bits) == (3, 25.0, 32 / 25)
    assert (line.label, line.table, line.float32, line.seconds) == ("SVD", 4000, FLOAT32, 4.5)


def test_what_a_recovery_measured_does_not_tell_seeds_apart():
    ways = [{"steps": 400, "seed": n, "steps_taken": 300 + n, "held_out_before": 0.1 * n} for n in range(3)]
    (model,) = group([result(recovered=way, seed=n, fit_seed=n) for n, way in enumerate(ways)])
    assert list(model.rows.label) == ["SVD, recovered"]
    assert len(model.runs[0]) == 3


def test_a_budget_as_text_and_as_fields_is_one(tmp_path):
    fields = {"amount": 25.0, "unit": "ratio", "reference": "float32"}
    rows = [result(ratio=None, budget=budget, seed=n) for n, budget in enumerate(("ratio 25 to float32", fields))]
    write_results(tmp_path / "a.json", rows)
    (model,) = group(collect([tmp_path]).results)
    assert len(model.rows) == 1
    assert all(run.settings["budget"] == fields for run in model.runs[0])


def test_settings_of_the_task_are_not_averaged():
    rows = [result(task={"epochs": epochs}) for epochs in (1, 3)]
    (model,) = group(rows)
    assert model.tasks == ["rte (epochs 1)", "rte (epochs 3)"]


def test_no_text_differs_from_some():
    (model,) = group([result(text=text) for text in ([], ["wiki.txt", "news.txt"])])
    assert sorted(model.tasks) == ["rte (text none)", "rte (text wiki.txt, news.txt)"]


def test_fields_join_the_name_only_where_one_size_has_several():
    one = [result(times=ratio, fields={"rank": rank}) for ratio, rank in ((25, 4), (50, 8))]
    assert set(group(one)[0].rows.name) == {"SVD"}
    two = [result(fields={"factors": f, "rank": None}) for f in ("int8", "float16")]
    assert set(group(two)[0].rows.name) == {"SVD (factors int8)", "SVD (factors float16)"}


def test_two_ways_to_recover_are_two_curves():
    rows = [result(recovered={"mode": mode, "steps": 400}) for mode in ("table", "model")]
    assert set(group(rows)[0].rows.recovered) == {"recovered (mode table)", "recovered (mode model)"}


def test_before_and_after_recovery_are_paired_by_task_variant_and_size():
    (model,) = group(everything())
    (pair,) = model.recovered().itertuples()
    assert (pair.task, pair.label, pair.asked) == ("rte", "SVD, recovered", "ratio 25")
    table = recovery(model)
    assert table is not None
    (row,) = table.rows
    assert table.heads[4:] == ["rte: accuracy\u00a0↑"]
    assert (row[0].text, row[4].text, row[4].remark) == ("SVD", "66.38 → 68.50", "+2.12, better")
    assert row[4].number == pytest.approx(68.5 - (70 - 10 * 0.3625))


def test_the_common_size_is_where_most_curves_are():
    (model,) = group(everything())
    assert model.common_size == FLOAT32 / 25  # svd, svd recovered and lighttoken, against two at ratio 100
    shown = model.at_common_size(model.rows[model.rows.task == "rte"])
    assert set(shown.label) == {"SVD", "SVD, recovered", "LightToken"}


def test_a_table_as_large_as_the_original_is_a_line_to_compare_with():
    (model,) = group([original(), result(), result(variant="rows shuffled", times=2)])
    assert list(model.rows.name[model.rows.reference]) == ["Original", "rows shuffled"]


def test_what_the_original_scores_is_known_from_results_of_the_compressed_too():
    (model,) = group([result("mlm", metrics={"perplexity_head_compressed": 12.0, "perplexity_original": 9.5})])
    found = model.of("mlm", "perplexity_head_compressed")
    assert list(found["mean"][found.original]) == [9.5]
    assert not model.of("mlm", "perplexity_original").original.any()


def test_version_1_holds_float32_as_a_ratio():
    (model,) = group(collect([BENCHMARKS / "sts.json"]).results)
    assert set(model.rows.float32) == {30522 * 384 * 4}
    assert model.metrics("sts")[0] == "sts_dev_spearman"
    assert "ratio_to_float32" not in model.metrics("sts")  # a column of its own
    assert model.of("sts", "sts_dev_spearman").original.any()


def test_every_number_of_the_benchmarks_is_in_the_frame():
    found = collect([BENCHMARKS / "minilm"])
    (model,) = group(found.results)
    assert sum(map(len, model.runs)) == len(found.results) == 388
    for line in model.values[model.values.metric != "over_bound"].itertuples():
        values = [run.metrics[line.metric] for run in model.runs[line.row] if line.metric in run.metrics]
        assert line.mean == pytest.approx(sum(values) / len(values))


def test_copies_count_once_and_other_json_is_skipped(result_folder, tmp_path):
    rows = [result(seed=seed) for seed in range(2)]
    write_results(tmp_path / "a.json", rows)
    write_results(tmp_path / "deep" / "copy.json", rows)
    write_results(tmp_path / "task.work" / "unfinished.json", [result(seed=9)])
    (tmp_path / "deep" / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "lines.json").write_text("[1, 2]")
    found = collect([tmp_path, tmp_path / "a.json"])
    assert (len(found.results), found.files, found.skipped) == (2, 2, 2)


def test_decibels_over_the_bound_by_hand():
    def measured(error, times):
        rates = (0.25, 0.5, 1.0, 2.0)
        bound = [{"bits_per_weight": bits, "relative_error": 4.0**-bits} for bits in rates]
        return result(task="reconstruction", metrics={"relative_error": error}, times=times, details={"bound": bound})

    (model,) = group([measured(0.5, 32), measured(2 * 4.0**-1.6, 20), measured(0.0, 25), measured(0.1, 8)])
    (table,) = [task_sheet(model, task) for task in model.tasks]
    assert table.heads[-2:] == ["dB over the bound\u00a0↓", "seconds"]
    cells = {row[2].number: row[-2].number for row in table.rows}
    assert cells[32] == pytest.approx(10 * math.log10(2))  # one bit: the bound is 1/4
    assert cells[20] == pytest.approx(10 * math.log10(2))  # between two points of the curve
    assert cells[25] is None  # exact
    assert cells[8] is None  # four bits, beyond the curve


def test_numbers_and_names():
    assert [places(values) for values in ([1, 20], [0.5], [72.5, 3.25], [123.4], [5e4 + 0.5], [0.006, 0.6])] == [
        0, 3, 2, 1, 0, 4,
    ]  # fmt: skip
    assert places([0.0, -0.0]) == 0
    assert places([0.9990, 0.9998]) == 5
    assert places([86.41, 86.42]) == 3
    assert figure(12345.678, 1) == "12,345.7"
    assert method("autoencoder, int4 factors") == "Autoencoder (direction), int4 factors"
    assert method("svdish") == "svdish"
    assert metric("weighted_relative_error").better == "lower"
    assert metric("accuracy_mismatched").label == "accuracy, mismatched"
    assert (metric("sts14").label, metric("stripes_per_metre").label) == ("STS14", "stripes per metre")


def test_an_original_that_only_the_compressed_know_has_a_line():
    (model,) = group([result("clm", metrics={"perplexity": 30.0, "perplexity_original": 20.0})])
    for table in (overview(model), task_sheet(model, "clm")):
        assert table.rows[0][0].text == "Original"
        assert any(cell.text == "20" or cell.text.startswith("20.") for cell in table.rows[0])
        assert {len(row) for row in table.rows} == {len(table.heads)}
    (measured,) = group([original("clm", {"perplexity": 20.0}), result("clm", metrics={"perplexity": 30.0})])
    assert len(overview(measured).rows) == 2
