"""The page of speed and memory: its ratios, its charts, and that it holds every figure."""

import importlib.util
import json
import math
import sys
from dataclasses import replace

import pytest
import vl_convert

from reporting import BENCHMARKS, EVIL, PLACE, Page
from vocabpress.report.charts import CONFIG
from vocabpress.report.page import render
from vocabpress.results import Result

CPU = PLACE | {"device": "CPU", "machine": "x86_64", "threads": 2}
SHAPES = ((1000, 64), (500, 32))


@pytest.fixture(scope="module")
def speed(monkeypatch_module):
    monkeypatch_module.syspath_prepend(str(BENCHMARKS.parent))
    spec = importlib.util.spec_from_file_location("speed_page", BENCHMARKS.parent / "speed_page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch
    sys.modules.pop("mdtable", None)


def timing(task, variant, metrics, stored=1000, seed=0, environment=CPU, **settings):
    return Result(task, variant, settings | {"seed": seed}, {"table": stored}, metrics, 1.0, environment=environment)


def head(variant, time, stored, shape=SHAPES[0], **more):
    metrics = {"logits_1_ms": time, "logits_1_dense_ms": 8.0, "top_ms": 2 * time, "top_dense_ms": 16.0}
    metrics |= {"logits_64_ms": 10 * time, "logits_64_dense_ms": 160.0, "logits_8_ms": 9.0, "floor_ms": 0.25, **more}
    return timing("heads", variant, metrics, stored, rows=shape[0], columns=shape[1], dtype="bfloat16", few=4)


def heads():
    ways = {f"{way}_{count}_ms": count * (1.0 + (way == "tiles")) for way in ("tables", "tiles") for count in (1, 4)}
    rows = [head(EVIL, 16.0, 4000, shape) for shape in SHAPES]
    return rows + [head("fastscan", 2.0, 1000, shape, **ways) for shape in SHAPES]


def readings():
    times = {"ms_1x16": 3.0, "ms_1x16_original": 2.0, "ms_8x128": 9.0, "ms_8x128_original": 10.0}
    return [timing("reading", way, times, model=model) for way in ("as stored", "resident") for model in ("a", "b")]


def growths():
    return [
        timing("scaling", name, {"seconds": rows / 100, "working_set": 2e8}, ratio=times, rows=rows, columns=64)
        for name, times in (("svd", 25.0), ("svd", 100.0), ("tcq", 25.0))
        for rows in (4000, 1000, 16000)
    ]


def memories():
    sizes = {"table_before": 10**9, "model_before": 10**10, "limit": 4 * 10**9, "table": 10**8}
    made = timing("memory", "svd", {"anonymous": 2.5e9, "resident": 3.5e9}, ratio=10.0, rows=1000, columns=64)
    loaded = timing("resident", "as stored", {"memory_over_file": 1.5}, model="a", ratio=10.0)
    return [replace(row, bytes=sizes) for row in (made, loaded)]


def gpu():
    times = {"lookup_ms": 0.5, "lookup_ms_dense": 0.25, "lookup_graph_ms": 0.3, "lookup_graph_ms_dense": 0.2}
    return [timing("gpu", "svd", times, rows=1000, columns=64, environment=CPU | {"device": "a GPU"})]


def drawn(chart):
    return vl_convert.vegalite_to_svg({**chart.spec, "width": 400}, config=CONFIG)


def charts_of(speed, task, results):
    return {chart.title: chart for chart in speed.charts(task, speed.measurements(results))}


def test_a_ratio_is_of_one_run_and_seeds_become_its_mean(speed):
    times = [{"lookup_ms": a, "lookup_ms_dense": b} for a, b in ((1.0, 2.0), (9.0, 6.0))]
    found = speed.ratios(speed.measurements([timing("gpu", "x", run, seed=n) for n, run in enumerate(times)]))
    assert found.speed_up.tolist() == [pytest.approx((2 / 1 + 6 / 9) / 2)]
    alone = speed.measurements([timing("gpu", "x", {"lookup_ms": 1.0})])
    assert speed.ratios(alone).empty
    assert speed.ratio_sheets(alone, over=False) == []


def test_ratios_by_hand_a_table_for_each_shape(speed):
    first, second = speed.ratio_sheets(speed.measurements(heads()), over=False)
    assert first.caption == "Speed-up over the dense table in the same run: 1,000 x 64"
    assert second.caption.endswith("500 x 32")
    heads_of = ["logits, 1\u00a0↑", "logits, 64\u00a0↑", "top 50, 1\u00a0↑"]
    assert first.heads == ["variant", "bytes of the table", *heads_of]
    (row,) = [row for row in first.rows if row[0].text == "Fast-scan codes"]
    assert [entry.number for entry in row[1:]] == [1000, 8 / 2, 160 / 20, 8 / 2]
    assert row[2].remark == "2 vs. 8 ms"
    (first, _) = speed.ratio_sheets(speed.measurements(readings()), over=True)
    assert first.caption == "Time over the dense table in the same run: a"
    assert [entry.number for entry in first.rows[0][2:]] == [pytest.approx(3 / 2), pytest.approx(9 / 10)]


def test_every_figure_is_in_a_table(speed):
    sheet = speed.figures(speed.measurements(memories()[:1]))
    names = ["anonymous", "resident", "table before", "model before", "limit"]
    assert sheet.heads == ["variant", "measured on", "bytes of the table", "rows", *names]
    texts = [entry.text for entry in sheet.rows[0]]
    assert texts == ["SVD", "1,000 x 64", "100.00 MB", "1,000", "2.50 GB", "3.50 GB", "1.00 GB", "10.00 GB", "4.00 GB"]
    sheet = speed.figures(speed.measurements(heads()))
    assert len(sheet.rows) == 4
    assert {entry.number for row in sheet.rows for entry in row[4:]} == {
        number for result in heads() for number in result.metrics.values()
    } | {None}


def test_forms_stand_beside_floor_and_dense_table_the_smallest_first(speed):
    found = charts_of(speed, "heads", heads())
    assert len(found) == 4
    svg = drawn(found["Logits of one call: 1,000 x 64"])
    assert all(words in svg for words in ("bandwidth floor", "dense", "as stored", "milliseconds", "&lt;script&gt;"))
    assert svg.index("Fast-scan codes") < svg.index("alert(1)")
    assert found["Two ways to logits: 500 x 32"].caption == "Solid: tables of inner products. Dashed: decoded tiles."
    assert list(charts_of(speed, "gpu", gpu())) == ["Lookup of one call: 1,000 x 64"]  # no logits were timed


def test_forward_passes_are_drawn_over_the_original(speed):
    found = charts_of(speed, "reading", readings())
    assert list(found) == ["Forward passes: a", "Forward passes: b"]
    svg = drawn(found["Forward passes: a"])
    assert all(words in svg for words in ("as stored", "1x16", "8x128", "time over the original"))


def test_fits_are_curves_over_rows_with_what_proportion_would_be(speed):
    found = charts_of(speed, "scaling", growths())
    assert list(found) == ["Seconds: 64 columns", "Bytes besides the table: 64 columns"]
    points = [point for rows in found["Seconds: 64 columns"].spec["datasets"].values() for point in rows]
    assert {point["name"] for point in points} == {"SVD, 25x", "SVD, 100x", "Trellis codes, 25x"}
    ends = sorted(p["value"] for p in points if p["kind"] == speed.PROPORTIONAL and p["name"] == "SVD, 25x")
    assert ends == [10.0, 160.0]
    assert all(math.isfinite(point["value"]) for point in points)


def test_memory_stands_beside_table_checkpoint_and_file(speed):
    (chart,) = charts_of(speed, "memory", memories()[:1]).values()
    assert all(name in drawn(chart) for name in speed.PEAKS.values())
    (chart,) = charts_of(speed, "resident", memories()[1:]).values()
    assert {point["value"] for rows in chart.spec["datasets"].values() for point in rows} == {1.5, 10.0}


def test_the_page_has_every_section_and_escapes_names(speed):
    results = [*heads(), *readings(), *growths(), *memories(), *gpu()]
    tasks = ("heads", "gpu", "reading", "scaling", "memory", "resident")
    text = render("t", "lead", [], [speed.section(results, task) for task in tasks])
    page = Page(text)
    assert EVIL in page.text("script", "style")
    assert EVIL in json.dumps(json.loads(text.partition('id="charts">')[2].partition("</script>")[0]))
    assert [tag.get("type") for tag in page.of("script")] == ["application/json", None, None]
    words = ["Output heads", "On a GPU", "Forward passes", "Fits as tables grow", "Peak memory", "Every figure"]
    assert all(word in page.text("script", "style") for word in words)


def test_machines_are_kept_apart(speed):
    rows = [head("svd", 1.0, 10), replace(head("svd", 2.0, 10), environment=CPU | {"threads": 8})]
    found = speed.measurements(rows)
    assert set(found["where"]) == {"1,000 x 64, CPU, x86_64, 2 threads", "1,000 x 64, CPU, x86_64, 8 threads"}
