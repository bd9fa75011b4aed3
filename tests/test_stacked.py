"""One method on the residual of another: names, fields, budgets, and an optimum that is known."""

import json

import pytest
import torch

from cases import low_rank_table
from command import run
from vocabpress import SVD, Budget, LightToken, Stacked, make_method
from vocabpress.methods import is_method, method_name, method_settings
from vocabpress.report.repeat import compress_commands
from vocabpress.sweep.reading import read_method


def test_names_and_fields_make_the_same_method_again():
    made = make_method("svd+svd+lighttoken", **{"share": "0.2", "first.factors": "int8", "second.second.epochs": "2"})
    assert made == Stacked(SVD("int8"), Stacked(SVD(), LightToken(epochs=2)), 0.2)
    assert method_name(made) == "svd+svd+lighttoken"
    assert make_method(method_name(made), **method_settings(made)) == made
    assert read_method("plan", "svd+svd", {"first": {"factors": "int4"}}) == Stacked(SVD("int4"), SVD())


def test_two_low_ranks_are_one_of_their_common_rank():
    table = low_rank_table()
    fitted = Stacked(SVD(), SVD(), share=0.5).fit(table, budget=Budget.ratio(4))
    ranks = [part["inner"]["embedding_dim"] for part in fitted.config()["parts"]]
    left = torch.linalg.svdvals(table - table.mean(0))[sum(ranks) :].square().sum()  # Eckart and Young
    error = (fitted.dense() - table).square().sum()
    assert left * 0.9999 <= error <= left * 1.01


def test_by_hand_what_is_left_of_rank_two_is_rank_one():
    # Two orthogonal directions about a mean of zero: the first takes the long one, the second all of the short one.
    table = torch.tensor([[4.0, 0.0], [-4.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    fitted = Stacked(SVD(), SVD(), share=0.5).fit(table, budget=Budget.ratio(1.0))
    first, second = fitted.config()["parts"]
    assert first["inner"]["embedding_dim"] == second["inner"]["embedding_dim"] == 1
    torch.testing.assert_close(
        fitted.parts[0].lookup(torch.arange(4)), table * torch.tensor([1.0, 0.0]), atol=1e-3, rtol=0
    )
    torch.testing.assert_close(fitted.dense(), table, atol=1e-3, rtol=0)


def test_the_searched_share_is_the_best_of_those_tried():
    table, budget = low_rank_table(), Budget.ratio(6)
    errors = {}
    for share in (1 / 32, 1 / 8, 1 / 4, 1 / 2, 3 / 4, None):
        try:
            fitted = Stacked(SVD(), SVD("int4"), share).fit(table, budget=budget)
        except ValueError:
            continue  # too small for a rank of one
        errors[share] = float((fitted.dense().detach() - table).square().sum())
    assert len(errors) > 2
    assert errors[None] == pytest.approx(min(errors.values()), rel=1e-6)


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("svd+origami", {}, "unknown method 'origami'"),
        ("svd+", {}, "unknown method ''"),
        ("svd+svd", {"share": "half"}, "share takes a number"),
        ("svd+svd", {"share": "2"}, "between 0 and 1, got 2"),
        ("svd+svd", {"third.rank": 1}, "no field 'third.rank'"),
        ("svd+svd", {"first.bits": 1}, "method svd has no field 'bits'"),
    ],
)
def test_what_makes_no_method_is_refused(name, settings, words):
    with pytest.raises(ValueError, match=words):
        make_method(name, **settings)
    assert is_method("svd+svd")
    assert not is_method("svd+")


def test_a_budget_for_one_of_them_only_is_refused_in_words():
    with pytest.raises(ValueError, match=r"too little for two methods.*the least that SVD can store"):
        Stacked(SVD(), SVD()).fit(low_rank_table(), budget=Budget.ratio(80))


def test_the_command_line_takes_a_plus_and_the_report_gives_it_back(source, tmp_path, capsys):
    out = tmp_path / "out"
    words = ("compress", source, "-o", out, "--method", "svd+svd", "--ratio", "4", "--json")
    code, said, err = run(capsys, *words, "--set", "second.factors=int8", "--set", "share=0.25")
    assert code == 0, err
    report = json.loads(said.splitlines()[-1])
    assert report["method"] == "svd+svd"
    tables = json.loads((out / "config.json").read_text())["quantization_config"]["tables"]
    assert [table["form"] for table in tables.values()] == ["sum"]
    assert report["budget"] == {"amount": 4.0, "unit": "ratio", "reference": "float32"}
    (command,) = compress_commands("MODEL", report | {"fields": report["settings"]})
    assert "--method svd+svd --ratio 4" in command
    assert "--set second.factors=int8 --set share=0.25" in command
    code, said, err = run(capsys, *words, "--set", "share=7")
    assert (code, said) == (2, "")
    assert "between 0 and 1" in err
