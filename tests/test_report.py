import base64
import hashlib
import json
import math
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from vocabpress.cli import main
from vocabpress.report import page as page_module
from vocabpress.report.charts import BOUND, rate_distortion, rate_quality
from vocabpress.report.collect import collect, group
from vocabpress.report.markdown import escape, to_markdown
from vocabpress.report.names import figure, method, metric, places
from vocabpress.report.page import to_page, write_whole
from vocabpress.report.repeat import commands, warnings
from vocabpress.report.tablecharts import deciles, parts, spectrum, storage
from vocabpress.report.tables import overview, recovery
from vocabpress.results import Result, write_results

BENCHMARKS = Path(__file__).parents[1] / "benchmarks" / "results"
FLOAT32 = 100_000
EVIL = "<script>alert(1)</script>"
TOKEN = "<img src=x onerror=alert(1)>"
PLACE = {"commit": "c" * 40, "versions": {"torch": "2.13.0"}, "python": "3.11", "uncommitted_changes": False}


def result(measured="rte", variant="svd", times=25, metrics=None, seed=0, details=None, environment=None, **settings):
    known = {"model": "m", "method": variant.split(",")[0], "ratio": times, "recovered": None, "seed": seed}
    counted = {"table": round(FLOAT32 / times), "table_float32": FLOAT32}
    return Result(
        measured,
        variant,
        known | settings,
        counted,
        metrics or {"accuracy": 70.0},
        1.5,
        details or {},
        environment or PLACE,
    )


def original(task="rte", metrics=None, **settings):
    return result(task, "original", 2, metrics, ratio=None, **settings)


def details(error, words=("king",)):
    return {
        "spectrum": [4.0, 2.0, 1.0, 0.5],
        "bound": [{"bits_per_weight": bits, "relative_error": 4.0**-bits} for bits in (0.25, 0.5, 1.0, 2.0, 4.0)],
        "deciles": [{"tokens": 5, "share": 0.1, "relative_error": error, "mean_cosine": 0.9} for _ in range(10)],
        "storage": [
            {"name": "inner.codes", "dtype": "uint8", "bytes": 3000},
            {"name": "basis.codes", "dtype": "uint8", "bytes": 900},
            {"name": "basis.scales", "dtype": "float16", "bytes": 90},
            {"name": "bias", "dtype": "float16", "bytes": 10},
        ],
        "neighbours": [{"word": w, "original": ["queen", TOKEN], "compressed": ["queen", "lamp"]} for w in words],
    }


def everything(model="m"):
    """Two of ours, one recovered, and a peer; three tasks, one of them unknown."""
    recovered = {"mode": "table", "steps": 400, "seed": 0, "steps_taken": 350, "held_out_before": 1.25}
    rows = [original("reconstruction", {"relative_error": 0.0}, model=model), original(model=model)]
    for variant, better in (("svd", 0.0), ("lighttoken", 0.1)):
        for ratio in (25, 100):
            error = 0.3 + ratio / 400 - better
            found = {"relative_error": error, "mean_cosine": 1 - error / 2}
            rows.append(
                result("reconstruction", variant, ratio, found, details=details(error, (TOKEN, "king")), model=model)
            )
            rows.append(result("rte", variant, ratio, {"accuracy": 70 - 10 * error}, model=model))
    rows.append(result("rte", "svd", 25, {"accuracy": 68.5}, recovered=recovered, model=model))
    rows.append(result("zebra", "svd", 25, {"stripes_per_metre": 12.0}, model=model))
    rows.append(result("rte", "PQ $x$ | peer", 50, {"accuracy": 64.0}, peer=True, method="pq", ratio=None, model=model))
    return rows


class Page(HTMLParser):
    """What a browser would see: tags with attributes, and the text of each."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self._open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        self.texts.append((self._open[-1] if self._open else "", data))

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def text(self, *but):
        return " ".join(data for tag, data in self.texts if tag not in but)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("results")
    for number, row in enumerate(everything(EVIL)):
        write_results(place / f"{number % 3}" / f"{number}.json", [row])
    return place


@pytest.fixture(scope="module")
def html(folder):
    return to_page(collect([folder]), "Report of <b>tables</b>")


# Rows


def test_seeds_become_a_mean_and_a_sample_standard_deviation():
    rows = [result(metrics={"accuracy": value}, seed=seed) for seed, value in enumerate((70.0, 72.0, 77.0))]
    (model,) = group(rows)
    (row,) = model.rows
    assert row.metrics["accuracy"].mean == pytest.approx(73.0)
    assert row.metrics["accuracy"].spread == pytest.approx(math.sqrt((9 + 1 + 16) / 2))
    assert row.metrics["accuracy"].n == 3
    assert (row.ratio, row.bits_per_weight) == (25.0, 32 / 25)


def test_what_a_recovery_measured_does_not_tell_seeds_apart():
    ways = [{"steps": 400, "seed": n, "steps_taken": 300 + n, "held_out_before": 0.1 * n} for n in range(3)]
    (model,) = group([result(recovered=way, seed=n, fit_seed=n) for n, way in enumerate(ways)])
    assert [row.label for row in model.rows] == ["SVD, recovered"]
    assert len(model.rows[0].results) == 3


def test_settings_of_the_task_are_not_averaged():
    rows = [result(task={"epochs": epochs}) for epochs in (1, 3)]
    (model,) = group(rows)
    assert model.tasks == ["rte (epochs 1)", "rte (epochs 3)"]


def test_fields_join_the_name_only_where_one_size_has_several():
    one = [result(times=ratio, fields={"rank": rank}) for ratio, rank in ((25, 4), (50, 8))]
    assert {row.name for row in group(one)[0].rows} == {"SVD"}
    two = [result(fields={"factors": f, "rank": None}) for f in ("int8", "float16")]
    assert {row.name for row in group(two)[0].rows} == {"SVD (factors int8)", "SVD (factors float16)"}


def test_two_ways_to_recover_are_two_curves():
    rows = [result(recovered={"mode": mode, "steps": 400}) for mode in ("table", "model")]
    assert {row.recovered for row in group(rows)[0].rows} == {"recovered (mode table)", "recovered (mode model)"}


def test_before_and_after_recovery_are_paired_by_task_variant_and_size():
    (model,) = group(everything())
    pairs = [(before.task, before.label, after.label, before.place) for before, after in model.pairs()]
    assert pairs == [("rte", "SVD", "SVD, recovered", "ratio 25")]
    table = recovery(model)
    assert table is not None
    (row,) = table.rows
    assert table.heads[3:] == ["rte: accuracy\u00a0↑"]
    assert (row[0].text, row[3].text, row[3].remark) == ("SVD", "66.38 → 68.50", "+2.12, better")
    assert row[3].number == pytest.approx(68.5 - (70 - 10 * 0.3625))


def test_the_common_size_is_where_most_curves_are():
    (model,) = group(everything())
    assert model.common_size == FLOAT32 / 25  # svd, svd recovered and lighttoken, against two at ratio 100
    assert {row.label for row in model.at_common_size(model.of("rte"))} == {"SVD", "SVD, recovered", "LightToken"}


def test_a_table_as_large_as_the_original_is_a_line_to_compare_with():
    (model,) = group([original(), result(), result(variant="rows shuffled", times=2)])
    assert [row.name for row in model.rows if model.is_reference(row)] == ["Original", "rows shuffled"]


def test_version_1_says_float32_as_a_ratio(tmp_path):
    found = collect([BENCHMARKS / "sts.json"])
    (model,) = found.models
    assert {row.float32 for row in model.rows} == {30522 * 384 * 4}
    assert model.metrics("sts")[0] == "sts_dev_spearman"
    assert "ratio_to_float32" not in model.metrics("sts")  # a column of its own
    assert model.original("sts", "sts_dev_spearman") is not None


def test_copies_count_once_and_other_json_is_skipped(folder, tmp_path):
    rows = [result(seed=seed) for seed in range(2)]
    write_results(tmp_path / "a.json", rows)
    write_results(tmp_path / "deep" / "copy.json", rows)
    write_results(tmp_path / "task.work" / "unfinished.json", [result(seed=9)])
    (tmp_path / "deep" / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "lines.json").write_text("[1, 2]")
    found = collect([tmp_path, tmp_path / "a.json"])
    assert (len(found.results), found.files, found.skipped) == (2, 2, 2)


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


# Charts


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


# Page


def test_nothing_of_others_is_markup(html):
    page = Page(html)
    assert len(page.of("script")) == 1
    assert page.of("img") == page.of("b") == []
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    text = page.text("script", "style")
    assert EVIL in text  # the model's name, as text
    assert TOKEN in text
    assert "Report of <b>tables</b>" in text


def test_only_our_script_may_run_and_nothing_is_fetched(html):
    page = Page(html)
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "action", "srcset"):
            assert (attributes.get(name) or "#").startswith("#")
    assert "@import" not in html
    assert "url(http" not in html
    (script,) = [data for tag, data in page.texts if tag == "script"]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [meta["content"] for meta in page.of("meta") if "http-equiv" in meta]
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


def test_ids_are_unique_and_references_hold(html):
    page = Page(html)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids)) > 100
    targets = {attributes["href"][1:] for attributes in page.of("use") + page.of("a")}
    clips = {attributes["clip-path"][5:-1] for _, attributes in page.tags if "clip-path" in attributes}
    assert targets
    assert clips
    assert targets | clips <= set(ids)
    for svg in page.of("svg"):
        assert svg["role"] == "img"
        assert svg["aria-labelledby"] in ids


def test_every_variant_task_and_metric_appears(html):
    text = Page(html).text("script", "style")
    for words in (
        "SVD",
        "LightToken",
        "SVD, recovered",
        "PQ $x$ | peer",
        "by others",
        "zebra: stripes per metre",
        BOUND,
    ):
        assert words in text
    assert "3 variants, 1 of them by others, from 1.00 kB (ratio 100) to 4.00 kB (ratio 25)" in text
    assert "in float32 the table takes 100.00 kB" in text


def test_tables_sort_by_values(html):
    page = Page(html)
    heads = [attributes for attributes in page.of("th") if attributes.get("scope") == "col"]
    assert heads
    assert {head["aria-sort"] for head in heads} == {"none"}
    assert {head["data-sort"] for head in heads} == {"text", "number"}
    assert len(page.of("button")) == len(heads)
    for cell in page.of("td"):
        if cell.get("class") == "number":
            assert cell["data-value"] == "" or math.isfinite(float(cell["data-value"]))
    assert '<td class="number" data-value="4000.0">4.00 kB</td>' in html


def test_changed_neighbours_are_marked_in_words_too(html):
    assert "<ins>lamp</ins>" in html
    assert "<ins>queen</ins>" not in html
    assert "SVD: 1 of 2 kept" in html


def test_results_of_version_1_render():
    found = collect([BENCHMARKS])
    text = Page(to_page(found, "Benchmarks")).text("script", "style")
    for row in found.results:
        assert method(row.variant) in text


@pytest.mark.parametrize("package", ["jinja2", "matplotlib.figure"])
def test_a_missing_package_is_named_with_its_extra(package, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=r"pip install 'vocabpress\[report\]'"):
        to_page(collect([folder]), "t")


# How to repeat it


def test_commands_say_how_each_table_was_made():
    fields = {"factors": "int8", "rank": None}
    rows = [
        result(ratio=25.0, budget="ratio 25 to bfloat16", fields=fields, fit_seed=3, token_weights="vocabulary order"),
        result(ratio=None, budget="1.5 bits per weight", variant="lighttoken", token_weights="text"),
        result(ratio=None, budget="2,000 bytes", variant="autoencoder"),
        result(variant="PQ", method="pq", peer=True),
        result(recovered={"mode": "model", "steps": 50, "learning_rate": 0.01, "seed": 1, "steps_taken": 40}),
    ]
    (model,) = group([replace(row, settings=row.settings | {"model": "my model"}) for row in rows])
    assert sorted(commands(model)) == sorted(
        [
            "vocabpress compress 'my model' -o OUTPUT --method svd --ratio 25 --reference bfloat16 --set factors=int8 "
            "--counts vocabulary-order --seed 3",
            "vocabpress compress 'my model' -o OUTPUT --method lighttoken --bits-per-weight 1.5 --text TEXT --seed 0",
            "vocabpress compress 'my model' -o OUTPUT --method autoencoder --size 2000 --seed 0",
            "vocabpress recover OUTPUT --teacher 'my model' --text TEXT -o RECOVERED --mode model --steps 50 --seed 1 "
            "--set learning_rate=0.01",
        ]
    )


def test_warnings_name_what_stands_against_comparing():
    other = PLACE | {"commit": "d" * 40, "uncommitted_changes": True}
    rows = [result(seed=0), result(seed=0, environment=other), replace(result("cola"), bytes={})]
    found = " ".join(warnings(rows, group(rows)))
    assert "2 commits: cccccccccc (2), dddddddddd (1)" in found
    assert "1 of 3 results were measured with uncommitted changes" in found
    assert "no result of the original" in found
    assert "more than once with the same seeds, and averaged: rte: SVD" in found
    assert "no size is known" in found
    assert warnings([original(), result()], group([original(), result()])) == []


# Markdown


def test_markdown_has_the_same_rows_and_no_markup():
    (model,) = group(everything("a|b"))
    text = to_markdown([model], f"T {EVIL}")
    lines = text.splitlines()
    assert lines[0] == "# T &lt;script&gt;alert(1)&lt;/script&gt;"
    assert "## a\\|b" in lines
    (peer,) = [line for line in lines if line.startswith("| PQ \\$x\\$ \\| peer by others | 2.00 kB")][:1]
    cells = [cell.strip() for cell in peer.replace("\\|", "").strip("|").split("|")]
    assert len(cells) == len(overview(model).heads)
    assert escape("a\nb *c* `d` <e>") == "a b \\*c\\* \\`d\\` &lt;e&gt;"


# Command


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command_writes_page_and_markdown(folder, html, tmp_path, capsys):
    output, markdown = tmp_path / "deep" / "r.html", tmp_path / "r.md"
    title = ("--title", "Report of <b>tables</b>")
    code, out, err = run(capsys, "report", folder, "-o", output, "--markdown", markdown, *title, "--json")
    assert code == 0, err
    said = json.loads(out.splitlines()[-1])
    assert said["results"] == len(everything())
    assert said["models"] == [EVIL]
    assert output.read_text(encoding="utf-8") == html  # the same each time
    assert markdown.read_text(encoding="utf-8").startswith("# Report of &lt;b&gt;tables&lt;/b&gt;\n")


def bad_inputs(tmp):
    """Name -> (arguments, words of the one line)."""
    good, text, config = tmp / "good.json", tmp / "text.json", tmp / "config.json"
    write_results(good, [result()])
    text.write_text("no JSON")
    config.write_text('{"a": 1}')
    rows = json.loads(good.read_text())
    (tmp / "newer.json").write_text(json.dumps([rows[0] | {"schema_version": 7}]))
    (tmp / "partial.json").write_text(json.dumps([{"task": "rte", "schema_version": 2}]))
    (tmp / "typed.json").write_text(json.dumps([rows[0] | {"metrics": {"accuracy": "high"}}]))
    (tmp / "listed.json").write_text(json.dumps([rows[0] | {"settings": []}]))
    (tmp / "none").mkdir()
    (tmp / "none" / "config.json").write_text("{}")
    (tmp / "broken").mkdir()
    (tmp / "broken" / "a.json").write_text('[{"schema_version"')
    out = ("-o", tmp / "out.html")
    return {
        "missing": ((tmp / "nowhere", *out), "no such file or folder"),
        "no result": ((tmp / "none", *out), "no results in"),
        "not JSON": ((text, *out), "is not JSON"),
        "broken in a folder": ((tmp / "broken", *out), "is not JSON"),
        "not ours": ((config, *out), "is not a list of results"),
        "newer": ((tmp / "newer.json", *out), "has schema version 7"),
        "partial": ((tmp / "partial.json", *out), "not whole"),
        "typed": ((tmp / "typed.json", *out), "accuracy is no number ('high')"),
        "listed": ((tmp / "listed.json", *out), "settings is no object"),
        "output is a folder": ((good, "-o", tmp / "none"), "is a folder; give a file"),
        "output is an input": ((good, "-o", good), "is one of the results"),
        "output not writable": ((good, "-o", "/proc/nowhere/r.html"), "can't write /proc/nowhere/r.html"),
    }


NAMES = [
    "missing", "no result", "not JSON", "broken in a folder", "not ours", "newer", "partial", "typed", "listed",
    "output is a folder", "output is an input", "output not writable",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_bad_input_is_one_line_and_writes_nothing(name, tmp_path, capsys):
    cases = bad_inputs(tmp_path)
    assert list(cases) == NAMES
    arguments, words = cases[name]
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run(capsys, "report", *arguments)
    lines = [line for line in err.replace("\r", "\n").splitlines() if line.startswith("vocabpress: ")]
    assert code == 2
    assert len(lines) == 1
    assert words in lines[0]
    assert out == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_a_page_that_cannot_be_written_leaves_the_earlier_one(tmp_path, monkeypatch):
    output = tmp_path / "r.html"
    output.write_text("earlier")

    def fail(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(page_module.Path, "replace", fail)
    with pytest.raises(ValueError, match="No space left on device"):
        write_whole(output, "later")
    assert output.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [output]
