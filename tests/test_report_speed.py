"""The section on speed and memory: which results it takes, its ratios, its charts, its place on the page."""

import json
import re
from dataclasses import replace

import pytest

from command import run
from reporting import EVIL, PLACE, Page, original, result
from vocabpress.report.collect import Collection, collect, group, group_timings
from vocabpress.report.markdown import to_markdown
from vocabpress.report.page import to_page
from vocabpress.report.speed.crossing import crossing
from vocabpress.report.speed.curves import fits, forward_passes, growth
from vocabpress.report.speed.forms import DENSE, FASTER, FLOOR, SLOWER, beside_dense
from vocabpress.report.speed.memory import over_file, peaks
from vocabpress.report.speed.section import parts, warn
from vocabpress.report.speed.tables import figures, ratios
from vocabpress.report.speed.timed import pairs, ratio, time_name
from vocabpress.results import Result, write_results

CPU = PLACE | {"device": "CPU", "machine": "x86_64", "threads": 2}
SHAPES = ((1000, 64), (500, 32))


def timing(task, variant, metrics, stored: int | None = 1000, seed=0, environment=None, **settings):
    sizes = {"table": stored} if stored else {}
    return Result(task, variant, settings | {"seed": seed}, sizes, metrics, 1.0, environment=environment or CPU)


def head(variant, time, stored, shape=SHAPES[0], dense=8.0, floor: float | None = 0.5, **more):
    metrics = {"logits_1_ms": time, "logits_1_dense_ms": dense, "top_ms": 2 * time, "top_dense_ms": 2 * dense, **more}
    metrics |= {"logits_64_ms": 10 * time, "logits_64_dense_ms": 20 * dense, "logits_8_ms": 9.0}
    metrics |= {"floor_ms": floor} if floor else {}
    return timing("heads", variant, metrics, stored, rows=shape[0], columns=shape[1], dtype="bfloat16", few=4)


def heads():
    ways = {f"{way}_{count}_ms": count * (1.0 + (way == "tiles")) for way in ("tables", "tiles") for count in (1, 2, 4)}
    rows = [head(EVIL, 16.0, 4000, shape) for shape in SHAPES]
    return rows + [head("fastscan", 2.0, 1000, shape, floor=0.25, **ways) for shape in SHAPES]


def readings():
    times = {"ms_1x16": 3.0, "ms_1x16_original": 2.0, "ms_8x128": 9.0, "ms_8x128_original": 10.0}
    return [timing("reading", way, times, model=model) for way in ("as stored", "resident") for model in ("a", "b")]


def growths():
    return [
        timing("scaling", name, {"seconds": rows / 100, "memory_over_table": 3.0}, ratio=times, rows=rows, columns=64)
        for name, times in (("svd", 25.0), ("svd", 100.0), ("tcq", 25.0))
        for rows in (4000, 1000, 16000)
    ]


def memories():
    sizes = {"table_before": 10**9, "model_before": 10**10, "limit": 4 * 10**9, "table": 10**8}
    made = timing("memory", "svd", {"anonymous": 2.5e9, "resident": 3.5e9}, ratio=10.0, rows=1000, columns=64)
    held = [
        timing("resident", way, {"memory_over_file": over}, model="a", ratio=10.0)
        for way, over in (("as stored", 1.5), ("dense", 10.0))
    ]
    return [replace(row, bytes=sizes) for row in (made, *held)]


def timed():
    gpu = {"lookup_ms": 0.5, "lookup_ms_dense": 0.25, "lookup_graph_ms": 0.3, "lookup_graph_ms_dense": 0.2}
    device = CPU | {"device": "a GPU"}
    return [
        *heads(), *readings(), *growths(), *memories(),
        timing("gpu", "svd", gpu, rows=1000, columns=64, tokens=4096, environment=device),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def speed_html():
    results = [original(), result(), *timed()]
    models = group([original(), result()])
    return to_page(Collection(results, models, group_timings(results), 2, 0), "t")


# Rows and ratios


def test_timings_are_no_model_and_models_no_timings(tmp_path):
    write_results(tmp_path / "all.json", [original(), result(), *timed()])
    found = collect([tmp_path])
    assert [model.name for model in found.models] == ["m"]
    assert {row.task for row in found.timings} == {"heads", "gpu", "reading", "scaling", "memory", "resident"}
    assert len(found.timings) == len(timed())


def test_times_find_their_dense_peers_by_any_of_the_names():
    plain = ["logits_64_ms", "logits_64_dense_ms", "logits_8_ms", "logits_8_dense_ms", "floor_ms", "tables_1_ms"]
    named = ["lookup_ms", "lookup_ms_dense", "ms_1x16", "ms_1x16_original"]
    (row,) = group_timings([timing("gpu", "x", dict.fromkeys(plain + named, 1.0))])
    assert pairs([row]) == {
        "logits_8_ms": "logits_8_dense_ms",
        "logits_64_ms": "logits_64_dense_ms",
        "lookup_ms": "lookup_ms_dense",
        "ms_1x16": "ms_1x16_original",
    }
    assert list(pairs([row])) == ["logits_8_ms", "logits_64_ms", "lookup_ms", "ms_1x16"]
    names = ["logits_1_ms", "logits_8_ms", "ms_8x128", "top_ms", "lookup_graph_ms", "lookup_ms"]
    assert [time_name(name) for name in names] == [
        "logits, 1 vector", "logits, 8 vectors", "8 x 128", "top-k, 1 vector", "lookup in a CUDA graph", "lookup",
    ]  # fmt: skip


def test_a_ratio_is_of_one_run_and_seeds_become_its_mean():
    runs = [timing("gpu", "x", {"a_ms": a, "a_ms_dense": b}, seed=n) for n, (a, b) in enumerate([(1, 2), (9, 6)])]
    (row,) = group_timings(runs)
    found = ratio(row, "a_ms", "a_ms_dense")
    assert found is not None
    assert (found.mean, found.n) == (1.0, 2)  # (1/2 + 9/6) / 2, not (1 + 9) / (2 + 6)
    assert ratio(row, "a_ms", "nowhere") is None
    (row,) = group_timings([timing("gpu", "x", {"a_ms": 1.0, "a_ms_dense": 0.0})])
    assert ratio(row, "a_ms", "a_ms_dense") is None


def test_machines_are_not_averaged_and_a_reader_is_told():
    other = CPU | {"threads": 8}
    rows = group_timings([head("svd", 1.0, 10), timing("heads", "svd", {"x": 1.0}, environment=other)])
    assert len(rows) == 2
    (said,) = warn(rows)
    assert "2 machines (CPU, x86_64, 2 threads; CPU, x86_64, 8 threads)" in said
    assert warn(group_timings(heads())) == []


def test_ratios_by_hand_a_table_for_each_shape():
    first, second = ratios(group_timings(heads()), speedup=True, over_floor="logits_1_ms")
    assert first.caption == "Speed-up over the dense peer in the same run: 1,000 x 64"
    assert second.caption.endswith("500 x 32")
    assert first.heads == [
        "variant", "bytes of the table", "logits, 1 vector\u00a0↑", "logits, 64 vectors\u00a0↑",
        "top-k, 1 vector\u00a0↑", "logits, 1 vector, over the floor\u00a0↓",
    ]  # fmt: skip
    (row,) = [row for row in first.rows if row[0].text == "Fast-scan codes"]
    assert [cell.number for cell in row[1:]] == [1000, 8 / 2, 160 / 20, 8 / 2, 2 / 0.25]
    assert row[2].remark == "2 vs. 8 ms"
    (first, _) = ratios(group_timings(readings()))
    assert first.caption == "Time over the dense peer's in the same run: a"
    assert first.heads[2:] == ["1 x 16\u00a0↓", "8 x 128\u00a0↓"]
    assert [cell.number for cell in first.rows[0][2:]] == [3 / 2, 9 / 10]


def test_every_figure_is_in_a_table():
    rows = group_timings(growths())
    table = figures(rows, "c")
    assert table.heads[:3] == ["variant", "measured on", "bytes of the table"]
    assert {row[1].text for row in table.rows} == {f"{count:,} x 64" for count in (1000, 4000, 16000)}
    assert ratios(rows) == []
    table = figures(group_timings(memories()[:1]), "c")
    assert table.heads[2:] == [
        "bytes of the table", "limit", "model before", "table before", "memory of its own\u00a0↓",
        "memory with files\u00a0↓",
    ]  # fmt: skip
    assert [cell.text for cell in table.rows[0][2:]] == [
        "100.00 MB", "4.00 GB", "10.00 GB", "1.00 GB", "2.50 GB", "3.50 GB",
    ]  # fmt: skip


# Charts


def drawn_texts(svg):
    """Text -> the (x, y) at which the drawing has it."""
    page = Page(svg)
    places = [attributes for tag, attributes in page.tags if tag == "text"]
    said = [data for tag, data in page.texts if tag == "text"]
    return dict(zip(said, places, strict=True))


def test_a_form_stands_between_the_floor_and_the_dense_table():
    rows = [row for row in group_timings(heads()) if row.results[0].settings["rows"] == SHAPES[0][0]]
    chart = beside_dense(rows, "c", title="Logits", name="logits_1_ms", floor="floor_ms")
    assert chart is not None
    text = Page(chart.svg).text()
    labels = [FASTER, SLOWER, f"{DENSE}, bfloat16", FLOOR, "milliseconds", "speed-up"]
    for words in (*labels, EVIL, "0.500", "4", "1.00 kB"):
        assert words in text
    heights = {name: float(place["y"]) for name, place in drawn_texts(chart.svg).items() if "y" in place}
    assert heights["4"] < heights["0.500"]  # the smallest table first


def test_no_floor_and_no_peer():
    rows = group_timings([head("svd", 1.0, 10, floor=None)])
    chart = beside_dense(rows, "c", title="Logits", name="logits_1_ms", floor="floor_ms")
    assert chart is not None
    assert FLOOR not in chart.svg
    assert SLOWER not in chart.svg
    assert beside_dense(rows, "c", title="Logits", name="logits_8_ms") is None
    assert beside_dense(rows, "c", title="Logits", name="nowhere_ms") is None


def test_forward_passes_are_drawn_over_the_original():
    chart = forward_passes(group_timings(readings()[:1]), "c", title="Forward passes")
    assert chart is not None
    text = Page(chart.svg).text()
    for words in ("as stored", "Original", "1 x 16", "8 x 128", "time over the original's"):
        assert words in text
    assert forward_passes(group_timings([timing("reading", "x", {"ms_1x16": 1.0})]), "c", title="t") is None


def test_fits_are_curves_over_rows_told_apart_by_ratio():
    rows = group_timings(growths())
    curves = fits(rows, "seconds")
    assert [curve.name for curve in curves] == ["SVD, 25x", "SVD, 100x", "Trellis codes, 25x"]
    assert [(x, value.mean) for x, value in curves[0].points] == [(1000, 10.0), (4000, 40.0), (16000, 160.0)]
    assert [curve.name for curve in fits(rows[:1], "seconds")] == ["SVD"]
    chart = growth(rows, "c", title="Seconds", name="seconds")
    assert chart is not None
    for words in ("dotted: as the rows grow", "rows of the table", "1k", "16k"):
        assert words in Page(chart.svg).text()
    memory = growth(rows, "c", title="Memory", name="memory_over_table")
    assert memory is not None
    assert "the table in float32" in memory.svg
    assert "dotted" not in memory.svg
    assert growth(rows, "c", title="t", name="nowhere") is None
    held = [replace(row, metrics={"working_set": 2e8}) for row in growths()]
    flat = growth(group_timings(held), "c", title="Working set", name="working_set")
    assert flat is not None
    assert "200.00 MB" in flat.svg
    assert "dotted" not in flat.svg


def test_two_ways_to_logits_are_drawn_where_both_were_timed():
    rows = group_timings(heads())
    chart = crossing([row for row in rows if row.name == "Fast-scan codes"][:1], "c", title="t")
    assert chart is not None
    for words in ("Fast-scan codes", "solid: tables of inner products", "hollow: decoded tiles", "changes over"):
        assert words in Page(chart.svg).text()
    assert crossing([row for row in rows if row.name == EVIL], "c", title="t") is None


def test_memory_stands_beside_table_and_checkpoint():
    chart = peaks(group_timings(memories()[:1]), "c", title="Peak memory")
    assert chart is not None
    for words in ("SVD", "memory of its own", "mapped files", "the table", "the limit", "the whole checkpoint", "GB"):
        assert words in Page(chart.svg).text()
    assert peaks(group_timings(memories()[1:]), "c", title="t") is None


def test_a_loaded_table_stands_between_its_file_and_the_dense_one():
    chart = over_file(group_timings(memories()[1:]), "c", title="Memory")
    assert chart is not None
    for words in ("as stored", "1.500", "10", "the file", "the dense table in float32", "memory over the file's bytes"):
        assert words in Page(chart.svg).text()
    bare = [replace(row, bytes={}) for row in memories()[1:]]
    chart = over_file(group_timings(bare), "c", title="Memory")
    assert chart is not None
    assert "the dense table" not in chart.svg
    assert over_file(group_timings(heads()), "c", title="t") is None


def test_odd_settings_are_no_error():
    odd = [
        timing("heads", "x", {"logits_1_ms": 1.0, "logits_1_dense_ms": 2.0}, rows="many", columns=[1], few="x"),
        timing("scaling", "x", {"seconds": 1.0}, rows=None, ratio="x", columns=True),
        timing("reading", "x", {"ms_1x16": 1.0, "ms_1x16_original": 0.0}, stored=None, model={"a": 1}),
    ]
    for part in parts(group_timings(odd)):
        assert part.figures.rows
        assert all(draw("c") is None or part.title == "Output heads" for draw in part.draws + part.more_draws)


# Page, Markdown, command


def test_the_page_has_the_section_and_escapes_names(speed_html):
    page = Page(speed_html)
    text = page.text("script", "style")
    for words in (
        "Speed and memory",
        "Output heads",
        "On a GPU",
        "Forward passes",
        "Fits as tables grow",
        "Peak memory",
    ):
        assert words in text
    assert len(page.of("script")) == 1
    assert EVIL in text
    assert "#speed" in [attributes.get("href") for attributes in page.of("a")]
    assert f"2 results of 1 model and {len(timed())} results of speed and memory, from 2 files." in text
    assert "peak memory over the table Of the fit" in re.sub(r"\s+", " ", text)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_charts_come_by_kind_one_for_each_place():
    found = {part.title: part for part in parts(group_timings(timed()))}
    titles = [chart.title for draw in found["Output heads"].draws if (chart := draw("c"))]
    assert titles == ["Logits of one vector: 1,000 x 64", "Logits of one vector: 500 x 32"]
    assert len(found["Output heads"].more_draws) == 2
    titles = [chart.title for draw in found["Fits as tables grow"].draws if (chart := draw("c"))]
    assert titles == ["Seconds of a fit: 64 columns", "Memory of a fit: 64 columns"]
    titles = [chart.title for draw in found["Lookups and heads on a GPU"].draws if (chart := draw("c"))]
    assert titles == ["Lookup: 1,000 x 64"]  # no logits were timed


def test_a_page_without_timings_has_no_such_section(report_html):
    assert "Speed and memory" not in report_html
    assert "results of speed" not in report_html


def test_markdown_has_the_same_tables():
    text = to_markdown([], "t", group_timings(heads()))
    lines = text.splitlines()
    assert "## Speed and memory" in lines
    assert "### Output heads" in lines
    (row,) = [line for line in lines if line.startswith("| Fast-scan codes | 1.00 kB | 4 2 vs. 8 ms |")][:1]
    assert row.count("|") == 7
    assert EVIL not in text
    assert "Speed and memory" not in to_markdown(group([result()]), "t")


def test_the_command_takes_timings_alone(tmp_path, capsys):
    write_results(tmp_path / "heads.json", heads())
    output, markdown = tmp_path / "page.html", tmp_path / "page.md"
    code, out, err = run(capsys, "report", tmp_path / "heads.json", "-o", output, "--markdown", markdown, "--json")
    assert code == 0, err
    said = json.loads(out.splitlines()[-1])
    assert (said["timings"], said["models"]) == (len(heads()), [])
    assert "speed and memory" in err
    page = Page(output.read_text(encoding="utf-8")).text("script", "style")
    assert f"{len(heads())} results of speed and memory, from 1 file." in page
    assert "ratio to float32" not in page
    assert "## Speed and memory" in markdown.read_text(encoding="utf-8")
