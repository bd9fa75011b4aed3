"""The page, the Markdown and the command."""

import base64
import hashlib
import json
import math
import re
import sys
from dataclasses import asdict, replace

import pytest

from command import run
from reporting import BENCHMARKS, EVIL, PLACE, TOKEN, Page, everything, original, result
from vocabpress import Budget, results as results_module
from vocabpress.report.collect import Collection, collect
from vocabpress.report.frame import group
from vocabpress.report.names import method
from vocabpress.report.page import to_page
from vocabpress.report.repeat import commands, warnings
from vocabpress.report.tables import escape, overview, to_markdown
from vocabpress.results import write_results, write_whole


def test_nothing_of_others_is_markup(report_html):
    page = Page(report_html)
    assert [script.get("type") for script in page.of("script")] == ["application/json", None, None]
    assert page.of("img") == page.of("b") == []
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    text = page.text("script", "style")
    assert EVIL in text  # the model's name, as text
    assert TOKEN in text
    assert "Report of <b>tables</b>" in text


def test_only_our_script_may_run_and_nothing_is_fetched(report_html):
    page = Page(report_html)
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "action", "srcset"):
            assert (attributes.get(name) or "#").startswith("#")
    assert "@import" not in report_html
    assert "url(http" not in report_html
    data, *scripts = re.findall(r"<script(?: [^>]*)?>(.*?)</script>", report_html, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert json.loads(data)["specs"]
    assert "<" not in data  # names in it end no element
    (policy,) = [meta["content"] for meta in page.of("meta") if "http-equiv" in meta]
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digests[0]}' 'sha256-{digests[1]}';" in policy


def test_ids_are_unique_and_references_hold(report_html):
    page = Page(report_html)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids)) >= 3
    assert {attributes["href"][1:] for attributes in page.of("a")} <= set(ids)
    places = [attributes for attributes in page.of("div") if attributes.get("class") == "chart"]
    drawn = json.loads(report_html.partition('id="charts">')[2].partition("</script>")[0])["specs"]
    assert sorted(int(place["data-chart"]) for place in places) == list(range(len(drawn)))
    assert all(place["role"] == "img" and place["aria-label"] for place in places)


def test_every_variant_task_and_metric_appears(report_html):
    text = Page(report_html).text("script", "style")
    for words in (
        "SVD",
        "LightToken",
        "SVD, recovered",
        "PQ $x$ | peer",
        "by others",
        "zebra: stripes per metre",
        "Gaussian rate-distortion bound",
    ):
        assert words in text
    assert "3 variants, 1 of them by others, from 1.00 kB (ratio 100) to 4.00 kB (ratio 25)" in text
    assert "in float32 the table takes 100.00 kB" in text


def test_tables_sort_by_values(report_html):
    page = Page(report_html)
    heads = [attributes for attributes in page.of("th") if attributes.get("scope") == "col"]
    assert heads
    assert {head["aria-sort"] for head in heads} == {"none"}
    assert {head["data-sort"] for head in heads} == {"text", "number"}
    assert len(page.of("button")) == len(heads)
    for cell in page.of("td"):
        if cell.get("class") == "number":
            assert cell["data-value"] == "" or math.isfinite(float(cell["data-value"]))
    assert '<td class="number" data-value="4000.0">4.00 kB</td>' in report_html


def test_changed_neighbours_are_marked(report_html):
    text = Page(report_html).text("script", "style")
    assert "Neighbours of king" in text
    assert "queen, +lamp" in text
    assert "+queen" not in text


def test_answers_are_below_their_prompt():
    shown = [{"prompt": "Who?", "answer": TOKEN, "original": "Jane."}, {"prompt": "Why?", "answer": "So."}]
    rows = [
        result("generation", name, metrics={"tokens_per_second": 9.0}, details={"answers": shown})
        for name in ("svd", "uniform")
    ]
    page = Page(to_page(Collection(rows, 1, 0), "Answers"))
    assert page.of("img") == []
    text = " ".join(page.text("script", "style").split())
    assert "Jane." in text.partition("Who?")[2].partition(TOKEN)[0]
    assert text.count("Jane.") == 1
    assert text.count(TOKEN) == 2
    assert "Why?" not in text  # nothing to compare with


VERSION_1 = [BENCHMARKS / name for name in ("sts.json", "lighttoken.json")]


@pytest.mark.parametrize("places", [VERSION_1, pytest.param([BENCHMARKS], marks=pytest.mark.slow)], ids=["old", "all"])
def test_results_of_version_1_render(places):
    found = collect(places)
    text = Page(to_page(found, "Benchmarks")).text("script", "style")
    assert found.results
    for row in found.results:
        assert method(row.variant) in text


@pytest.mark.parametrize("package", ["jinja2", "vl_convert", "pandas", "altair"])
def test_a_missing_package_is_named_with_its_extra(package, result_folder, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    for name in [name for name in sys.modules if name.startswith("vocabpress.report.")]:
        monkeypatch.delitem(sys.modules, name)
    code, _, err = run(capsys, "report", result_folder, "-o", tmp_path / "page.html")
    assert code == 2
    assert err.endswith(f"a report needs {package}; pip install 'vocabpress[report]'\n")
    assert not list(tmp_path.iterdir())


# How to repeat it


def test_commands_say_how_each_table_was_made():
    fields = {"factors": "int8", "rank": None}
    rows = [
        result(
            ratio=25.0,
            budget=asdict(Budget.ratio(25, "bfloat16")),
            fields=fields,
            fit_seed=3,
            token_weights="vocabulary order",
        ),
        result(ratio=None, budget=asdict(Budget.bits_per_weight(1.5)), variant="lighttoken", token_weights="text"),
        result(ratio=None, budget=asdict(Budget.bytes(2000)), variant="autoencoder", token_weights="TF-IDF of text"),
        result(ratio=None, budget="900 bytes", variant="autoencoder", token_weights="saved weights"),
        result(ratio=None, budget="800 bytes", method="tcq", token_weights="text, to the power 0.3", metric=0.7),
        result(
            ratio=None,
            budget="700 bytes",
            method="tcq",
            token_weights="any words",
            metric=0.7,
            calibration={"source": "text", "exponent": 0.3, "metric_strength": 0.7},
        ),
        result(variant="PQ", method="pq", peer=True),
        result(recovered={"mode": "model", "steps": 50, "learning_rate": 0.01, "seed": 1, "steps_taken": 40}),
        result(ratio=8.0, variant="kronecker", method="kronecker", linears={"ffn": "2x8", "terms": 1}),
        result(
            ratio=9.0,
            variant="kronecker",
            method="kronecker",
            recovered={"mode": "model", "task": "rte", "teacher": "rte-seed0", "before": {"mode": "table"}},
        ),
    ]
    (model,) = group([replace(row, settings=row.settings | {"model": "my model"}) for row in rows])
    assert sorted(commands(model)) == sorted(
        [
            "vocabpress compress 'my model' -o OUTPUT --method svd --ratio 25 --reference bfloat16 --set factors=int8 "
            "--calibration vocabulary-order --seed 3",
            "vocabpress compress 'my model' -o OUTPUT --method lighttoken --bits-per-weight 1.5 --text TEXT --seed 0",
            "vocabpress calibrate 'my model' -o CALIBRATION --text TEXT --weights-from tfidf --no-metric",
            "vocabpress compress 'my model' -o OUTPUT --method autoencoder --size 2000 "
            "--calibration CALIBRATION --seed 0",
            "vocabpress calibrate 'my model' -o CALIBRATION --from WEIGHTS --no-metric",
            "vocabpress compress 'my model' -o OUTPUT --method autoencoder --size 900 "
            "--calibration CALIBRATION --seed 0",
            "vocabpress calibrate 'my model' -o CALIBRATION --text TEXT --exponent 0.3 --metric-strength 0.7",
            "vocabpress compress 'my model' -o OUTPUT --method tcq --size 800 --calibration CALIBRATION --seed 0",
            "vocabpress compress 'my model' -o OUTPUT --method tcq --size 700 --calibration CALIBRATION --seed 0",
            "vocabpress compress 'my model' -o OUTPUT --method kronecker --ratio 8 --linears ffn=2x8 --linears terms=1 "
            "--seed 0",
            "vocabpress recover OUTPUT --teacher rte-seed0 --task rte --data DATA -o RECOVERED --mode model",
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
    many = [replace(result("cola"), bytes={}, variant=f"variant {number:02}") for number in range(12)]
    found = " ".join(warnings(many, group(many)))
    assert "variant 07 and 4 more." in found
    assert "variant 08" not in found
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


def test_the_command_writes_page_and_markdown(result_folder, report_html, tmp_path, capsys):
    output, markdown = tmp_path / "deep" / "r.report_html", tmp_path / "r.md"
    title = ("--title", "Report of <b>tables</b>")
    code, out, err = run(capsys, "report", result_folder, "-o", output, "--markdown", markdown, *title, "--json")
    assert code == 0, err
    said = json.loads(out.splitlines()[-1])
    assert said["results"] == len(everything())
    assert said["models"] == [EVIL]
    assert output.read_text(encoding="utf-8") == report_html  # the same each time
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
    (tmp / "odd.json").write_text(json.dumps([rows[0] | {"settings": {"budget": "a lot"}}]))
    (tmp / "listed.json").write_text(json.dumps([rows[0] | {"settings": []}]))
    (tmp / "none").mkdir()
    (tmp / "none" / "config.json").write_text("{}")
    (tmp / "broken").mkdir()
    (tmp / "broken" / "a.json").write_text('[{"schema_version"')
    out = ("-o", tmp / "out.report_html")
    return {
        "missing": ((tmp / "nowhere", *out), "no such file or folder"),
        "no result": ((tmp / "none", *out), "no results in"),
        "not JSON": ((text, *out), "is not JSON"),
        "broken in a folder": ((tmp / "broken", *out), "is not JSON"),
        "not ours": ((config, *out), "is not a list of results"),
        "newer": ((tmp / "newer.json", *out), "has schema version 7"),
        "partial": ((tmp / "partial.json", *out), "not whole"),
        "typed": ((tmp / "typed.json", *out), "accuracy is no number ('high')"),
        "odd budget": ((tmp / "odd.json", *out), "'a lot' is no budget"),
        "listed": ((tmp / "listed.json", *out), "settings is no object"),
        "output is a folder": ((good, "-o", tmp / "none"), "is a folder; give a file"),
        "output is an input": ((good, "-o", good), "is one of the results"),
        "output not writable": ((good, "-o", "/proc/nowhere/r.report_html"), "can't write /proc/nowhere/r.report_html"),
    }


NAMES = [
    "missing", "no result", "not JSON", "broken in a folder", "not ours", "newer", "partial", "typed", "odd budget",
    "listed",    "output is a folder", "output is an input", "output not writable",
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
    output = tmp_path / "r.report_html"
    output.write_text("earlier")

    def fail(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(results_module.Path, "replace", fail)
    with pytest.raises(ValueError, match="No space left on device"):
        write_whole(output, "later")
    assert output.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [output]
