"""Plans: what they may say, and the cells they expand to."""

import json
import re
from pathlib import Path

import pytest

from sweeping import PLAN, names, sweep, write_plan
from vocabpress.cli import main
from vocabpress.sweep.expand import STAGES, expand
from vocabpress.sweep.plan import SweepPlan, read_plan


def files(place):
    return sorted(str(path.relative_to(place)) for path in place.rglob("*"))


BAD = {
    "not TOML": ("ratios = [4, 6]", "ratios = [4,", "is not TOML"),
    "unknown key": ("output", "colour = 1\noutput", "plan.toml: unknown key 'colour'; known are model, output"),
    "no model": ('model = "source"', "", "plan.toml: model is missing"),
    "no such folder": ('"source"', '"./none"', "no such model folder"),
    "type of a list": ("[4, 6]", "4", "ratios should be a valid list, got 4"),
    "type in a list": ("[4, 6]", '[4, "6"]', "ratios.1 should be a valid number"),
    "truth is no number": ("[4, 6]", "[4, true]", "ratios.1 should be a valid number, got True"),
    "ratio below 1": ("[4, 6]", "[0.5]", "ratios.0: a ratio is at least 1, got 0.5"),
    "no ratio": ("[4, 6]", "[]", "ratios is missing or empty; try ratios = [8, 25]"),
    "ratio twice": ("[4, 6]", "[4, 4.0]", "ratios: 4 occurs twice; name each once"),
    "seed below 0": ("data =", "seeds = [-1]\ndata =", "seeds.0 should be greater than or equal to 0"),
    "no seeds": ("data =", "seeds = 0\ndata =", "seeds list should have at least 1 item"),
    "workers": ("data =", "workers = 0\ndata =", "workers should be greater than or equal to 1, got 0"),
    "whole number": ("data =", "workers = 1.5\ndata =", "workers should be a valid integer, got 1.5"),
    "no data": ('"data"', '"nowhere"', "no such folder of data sets"),
    "no text": ('["text.txt"]', '["none.txt"]', "no such text file"),
    "ratio of a row": ("[methods.svd]", "[methods.svd]\nratios = [7]", "methods.svd: ratios names 7.0, the plan has"),
    "unknown method": ("[methods.svd]", "[methods.zip]", "methods.zip: unknown method 'zip'; set method to"),
    "no method table": ("[methods.svd]", "[methods]\nsvd = 3", "methods: svd must be a table"),
    "unknown field": ("[methods.svd]", "[methods.svd]\nrank = 3", "methods.svd: method svd has no field 'rank'"),
    "type of a field": ('factors = "int4"', "factors = 4", "factors should be 'float16', "),
    "value of a field": ('factors = "int4"', 'factors = "int5"', "'int8' or 'int4', got 'int5'"),
    "two weights": ("weighted_by_text", 'counts = "vocabulary-order"\nweighted_by_text', "give one of them"),
    "no counts": ("weighted_by_text = true", 'counts = "none"', "no such counts file: none; try vocabulary-order"),
    "no metric": ("weighted_by_text", 'metric = "none"\nweighted_by_text', "no such metric file: none; try `vocab"),
    "no weights": ("weighted_by_text", 'weights = "none"\nweighted_by_text', "no such weights file: none; try tfidf"),
    "no text to rate by": ("weighted_by_text = true", 'weights = "tfidf"', "'tfidf' needs weighted_by_text = true"),
    "power of nothing": ("[methods.svd]", "[methods.svd]\nweights = 0.3", "weights = 0.3 is a power of counts; add"),
    "no text to weigh by": ("text =", "fit_text = []\ntext =", "methods.svd, 4 bits needs text; name files"),
    "linear maps": ("[methods.svd]", "[methods.svd]\nlinears = {ffn = '2by8'}", "the shape of ffn is n1 x m1"),
    "role of maps": ("[methods.svd]", "[methods.svd]\nlinears = {mlp = '2x8'}", "unknown linear maps 'mlp'; choose"),
    "unknown task": ("[tasks.noise]", "[tasks.silence]", "tasks.silence: unknown task 'silence'; choose from"),
    "field of a task": ("scale", "size", "tasks.spread: task spread has no field 'size'; it has scale, fail_on"),
    "type in a task": ("scale = 2", 'scale = "2"', "tasks.spread: scale should be a valid number, got '2'"),
    "seeds of a task": ("scale = 2", "seeds = 2", "the result of spread depends on no seed; leave seeds out"),
    "recovery": ("steps = 2", "steps = 0", "recover: steps should be greater than or equal to 1, got 0"),
    "field of a recovery": ("steps = 2", "stops = 2", "recover: recover has no field 'stops'; it has batch_size"),
    "filter": ("ratios = [6]", "ratios = [7]", "recover.only.ratios names 7.0, the plan has [4.0, 6.0]"),
    "key of the filter": ("ratios = [6]", "ratio = 6", "recover.only: unknown key 'ratio'; known are methods"),
    "text of a recovery": ('text = ["text.txt"]', "fit_text = ['text.txt']", "recover needs text; name files in text"),
    "slurm": ("[recover]", "[slurm]\nslurm_colour = 1\n[recover]", "slurm: Unknown argument 'colour'"),
    "type in slurm": ("[recover]", "[slurm]\ntimeout_min = 'long'\n[recover]", 'slurm: Parameter "timeout_min"'),
    "output": ('"runs"', '"text.txt"', "the output text.txt is a file"),
    "nothing to do": (PLAN, 'model = "source"\noutput = "runs"', "there is nothing to do"),
}  # fmt: skip


def test_a_method_may_name_its_own_ratios(place):
    write_plan(place, PLAN.replace("[methods.svd]", "[methods.svd]\nratios = [6]"))
    pressed = [cell.name for cell in expand(read_plan(place / "plan.toml")) if cell.stage == "press"]
    assert not [name for name in pressed if name.startswith("svd-ratio4")]
    assert [name for name in pressed if name.startswith("svd-ratio6")]


@pytest.mark.parametrize("case", BAD)
def test_a_bad_plan_is_one_line_before_anything_runs(case, place, capsys):
    old, new, words = BAD[case]
    assert old in PLAN
    write_plan(place, PLAN.replace(old, new, 1))
    before = files(place)
    code, out, err = sweep(capsys, place)
    (line,) = err.strip().splitlines()
    assert (code, out) == (2, "")
    assert line.startswith("vocabpress: error: ")
    assert words in line
    assert files(place) == before


def test_a_plan_that_is_not_there(place, capsys):
    assert main(["sweep", str(place / "none.toml")]) == 2
    assert "can't read the plan" in capsys.readouterr().err


def test_values_are_read_as_their_fields_are_typed(place):
    plan = read_plan(place / "plan.toml")
    assert list(plan.methods) == ["svd", "svd, 4 bits"]
    assert [(row.name, row.seeds) for row in plan.tasks.values()] == [("spread", [0]), ("noise", [0, 1])]
    scale = plan.tasks["spread"].task.scale  # pyright: ignore[reportAttributeAccessIssue]
    assert (scale, type(scale)) == (2.0, float)
    assert plan.ratios == [4.0, 6.0]
    assert plan.text_of(plan.methods["svd"]) == []
    assert plan.text_of(plan.methods["svd, 4 bits"]) == ["text.txt"]


def test_dry_run_names_the_cells_and_writes_nothing(place, capsys):
    before = files(place)
    code, out, _ = sweep(capsys, place, "--dry-run", "--json")
    cells = json.loads(out.splitlines()[-1])["cells"]
    assert code == 0
    # 2 rows x 2 ratios; one of them recovered; 6 models x (1 + 2 seeds)
    assert [cell["stage"] for cell in cells] == ["press"] * 4 + ["recover"] + ["measure"] * 18
    assert {cell["state"] for cell in cells} == {"to run"}
    assert len({cell["name"] for cell in cells}) == 23
    assert files(place) == before


CHANGES = {
    # change: (old, new, what the names of the cells that change have in common)
    "a field of a method": ('"int4"', '"int8"', lambda name: name.startswith("svd-4-bits")),
    "a field of a task": ("scale = 2", "scale = 3", lambda name: "-spread" in name),
    "a setting of the recovery": ("steps = 2", "steps = 3", lambda name: "-recovered" in name),
    "the model": ('"source"', '"other"', lambda name: True),
    "the data": ('"data"', '"."', lambda name: "-spread" in name or "-noise" in name),
    "how it is run": ("data =", "workers = 2\nthreads = 3\ndevice = 'cuda'\ndata =", lambda name: False),
    "the output": ('"runs"', '"elsewhere"', lambda name: False),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_makes_new_cells_downstream_of_it_alone(change, place):
    old, new, concerned = CHANGES[change]
    assert old in PLAN
    before, after = names(place), names(place, PLAN.replace(old, new, 1))
    assert {name for name in before if name not in after} == {name for name in before if concerned(name)}
    slugs = [[name.rpartition("-")[0] for name in found] for found in (before, after)]
    assert slugs[0] == slugs[1]


def test_text_is_known_by_its_contents(place):
    before = names(place)
    (place / "text.txt").write_text("w5 w6\n" * 50, encoding="utf-8")
    changed = set(before) - set(names(place))
    assert changed == {name for name in before if "4-bits" in name or "-spread" in name or "-recovered" in name}


def test_another_ratio_leaves_the_cells_of_the_first_as_they_are(place):
    assert set(names(place)) < set(names(place, PLAN.replace("[4, 6]", "[4, 6, 8]")))


def test_rows_of_one_slug_are_different_cells(place):
    cells = names(
        place,
        PLAN.replace("[methods.svd]", '[methods."SVD: 4 bits"]\nmethod = "svd"').replace(
            '"svd"], r', '"svd, 4 bits"], r'
        ),
    )
    assert len(set(cells)) == len(cells) == 23


def test_the_page_shows_a_plan_that_is_read_and_names_every_key(tmp_path):
    page = (Path(__file__).parents[1] / "docs" / "sweep.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "data").mkdir()
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans" / "wiki.txt").write_text("some text", encoding="utf-8")
    write_plan(tmp_path / "plans", block)
    plan = read_plan(tmp_path / "plans" / "plan.toml")
    # 3 rows x 3 ratios, 6 of them recovered, 3 seeds of rte on these and on the original
    assert [sum(cell.stage == stage for cell in expand(plan)) for stage in STAGES] == [9, 6, 3 * 16]
    assert all(f"`{key}`" in page or f"`[{key}" in page for key in SweepPlan.model_fields)
