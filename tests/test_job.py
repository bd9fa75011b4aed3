"""The main job: its default, its searches, and recovery in the same command."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from command import run
from measuring import LONG_LINES, save_maskable, write_lines
from test_change import encoder
from vocabpress import TCQ, Budget, compress
from vocabpress.hf.report import load_report


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_maskable(tmp_path_factory.mktemp("job") / "gpt2", "gpt2")


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return write_lines(tmp_path_factory.mktemp("job") / "words.txt", [*LONG_LINES, *(f"{x} w3" for x in LONG_LINES)])


def test_without_a_size_the_smallest_table_of_quality_99_is_written(words, tmp_path):
    source = encoder(tmp_path / "in", None)
    report = compress(source, tmp_path / "out", method=TCQ(memory=8), text=[words])
    assert report.asked_quality == 99
    assert 99 <= report.change.quality < 99.8
    assert 1 <= report.fits <= 3
    assert report.budget.unit == "bits_per_weight"
    assert report.bits_per_weight <= report.budget.amount
    assert load_report(tmp_path / "out") == report
    fitted_by = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["fitted_by"]
    assert fitted_by["budget"]["amount"] == report.budget.amount
    assert "metric" in fitted_by
    assert fitted_by["calibration"]["texts"] == ["words.txt"]
    page = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert f"| {report.change.quality:.2f} |" in page
    gentle = compress(source, tmp_path / "gentle", method=TCQ(memory=8), text=[words], quality=99.8)
    assert gentle.bits_per_weight > report.bits_per_weight
    assert "--quality 99.8" in gentle.command


def test_a_quality_that_no_table_reaches_names_the_best(folder, words, tmp_path):
    with pytest.raises(ValueError, match=r"quality 99.9999; the best reached is \d+\.\d+, at"):
        compress(folder, tmp_path / "out", method="kronecker", text=[words], quality=99.9999)
    with pytest.warns(UserWarning, match="the best reached is .*; the best is written"):
        report = compress(folder, tmp_path / "out", method="kronecker", text=[words])
    assert report.change.quality < 99


def test_what_excludes_a_quality(folder, tmp_path, capsys):
    command = ("compress", folder, "-o", tmp_path / "out")
    for more, words in {
        ("--quality", "99", "--ratio", "5"): "--quality and --ratio both say how small; give one",
        ("--quality", "100"): "over 0 and below 100, got 100",
        ("--quality", "99", "--no-measure"): "a quality must be measured",
        ("--quality", "99", "--linears", "ffn=2x16"): "give a budget beside linear maps",
        ("--quality", "99", "--preset", "kronecker-8x"): "sets method, size and linear maps",
        ("--reference", "bfloat16"): "give --ratio",
        ("--recover", "0"): "a positive number, got 0",
        ("--recover", "1", "--ratio", "4"): "recovery needs 40 lines of text or more",
    }.items():
        code, out, err = run(capsys, *command, *more)
        assert (code, out) == (2, ""), err
        assert words in err
    assert not (tmp_path / "out").exists()


def test_a_dry_run_without_a_size_forecasts_the_first_fit(folder, tmp_path, capsys):
    code, out, _ = run(capsys, "compress", folder, "--dry-run", "--method", "svd", "--quality", "98")
    assert code == 0
    assert "2 bits per weight, the start of the search for quality 98" in " ".join(out.split())


def test_much_that_is_lost_is_a_warning_with_advice(folder, words, tmp_path):
    with pytest.warns(UserWarning, match=r"of 100; --quality 99, or --ratio \d+, is gentler, and vocabpress recover"):
        report = compress(folder, tmp_path / "out", method="svd", budget=Budget.ratio(16), text=[words])
    assert report.change.quality < 95
    assert compress(folder, tmp_path / "b", method="svd", budget=Budget.ratio(16), measure=False).change is None


def test_recovery_in_the_same_command(folder, words, tmp_path, capsys):
    out = tmp_path / "out"
    command = ("compress", folder, "-o", out, "--method", "svd", "--ratio", "6", "--text", words, "--recover", "0.05")
    code, printed, err = run(capsys, *command, "--json")
    assert code == 0, err
    report, plain = json.loads(printed), tmp_path / "plain"
    compress(folder, plain, method="svd", budget=Budget.ratio(6), text=[words])
    assert report["change"]["quality"] > report["change_unrecovered"]["quality"] > 0
    assert report["change_unrecovered"]["quality"] == pytest.approx(load_report(plain).change.quality)
    assert report["output"] == str(out)
    assert "--recover 0.05" in report["command"]
    assert len(report["recovered"]) == 1
    assert sorted(file.name for file in out.iterdir()) == sorted(file.name for file in plain.iterdir())
    assert "quality before the training" in err
    page = (out / "README.md").read_text(encoding="utf-8")
    assert "| quality before the training |" in page
    assert "## Recovered" in page
    trained, before = (load_file(place / "model.safetensors") for place in (out, plain))
    assert any(not torch.equal(trained[name], before[name]) for name in trained)
    AutoModelForCausalLM.from_pretrained(out)


def test_a_recovery_that_measures_worse_is_not_written(folder, words, tmp_path, monkeypatch):
    monkeypatch.setattr("vocabpress.job.recovery._measured", lambda *_: load_report(tmp_path / "plain").change)
    poor = compress(folder, tmp_path / "plain", method="svd", budget=Budget.ratio(12), text=[words])
    report = compress(folder, tmp_path / "out", method="svd", budget=Budget.ratio(4), text=[words], recover=0.02)
    assert report.change.quality > poor.change.quality
    assert (report.recovered, report.change_unrecovered) == ([], None)
