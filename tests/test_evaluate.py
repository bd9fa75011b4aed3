"""The tasks that need no labels, what they are computed from, and the command."""

import json
import math

import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM

import tiny
from vocabpress import Budget, compress
from vocabpress.cli import main
from vocabpress.embeddings import Dense
from vocabpress.evaluate import Subject, evaluate, make_task
from vocabpress.evaluate.table import TableErrors, open_table
from vocabpress.neighbours import choose_queries, nearest, neighbours_kept
from vocabpress.reconstruction import deviations, frequency_deciles, reconstruction, row_errors
from vocabpress.results import read_results
from vocabpress.spectrum import gaussian_bound, singular_values

LINES = [" ".join(f"w{(7 * i + i * j) % 150}" for j in range(3 + i % 9)) for i in range(40)]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return tiny.save("bert", tmp_path_factory.mktemp("models") / "source")


@pytest.fixture(scope="module")
def pressed(source, text, tmp_path_factory):
    """A compressed copy, and the report of its making."""
    folder = tmp_path_factory.mktemp("models") / "pressed"
    return folder, compress(source, folder, method="svd", budget=Budget.ratio(6), text=[text])


def measured(name, folder, against, settings=None, **subject):
    return make_task(name, **(settings or {})).measure(Subject(folder, against, **subject))


# --- the spectrum and its bound ---


def test_the_bound_of_two_components_by_hand():
    """Variances 4 and 1: the water reaches the second at half a bit a weight, one bit a row."""
    half, one, two = 0.25, 0.5, 1.0
    found = gaussian_bound(torch.tensor([2.0, 1.0]), 2, [0, half, one, two])
    # 0.5 bits of a row sink the water from 4 to 2: min(4, 2) + min(1, 2) of 5; 1 bit to 1; 2 bits to 1/2.
    assert found == pytest.approx([1.0, 3 / 5, 2 / 5, 1 / 5])


def test_the_bound_of_a_flat_spectrum_is_the_closed_form():
    rates = [0.02, 0.5, 1.0, 2.5, 8.0]
    assert gaussian_bound(torch.full((16,), 3.0), 16, rates) == pytest.approx([2 ** (-2 * rate) for rate in rates])


def test_the_bound_of_a_table_of_few_directions_spends_its_bits_on_those():
    values = torch.tensor([1.0, 1.0, 1e-9, 0.0])  # the last two are rounding errors
    assert gaussian_bound(values, 4, [1.0, 2.0]) == pytest.approx([2**-4, 2**-8])
    assert gaussian_bound(torch.zeros(3), 3, [0.1, 1.0]) == [0.0, 0.0]


def test_the_bound_falls_and_agrees_with_a_search_over_water_levels():
    variances = torch.rand(20, dtype=torch.float64).sort(descending=True).values
    rates = [0.05 * 1.4**step for step in range(16)]
    found = gaussian_bound(variances.sqrt(), 20, rates)
    assert found == sorted(found, reverse=True)
    for rate, error in zip(rates, found, strict=True):
        low, high = 0.0, float(variances[0])
        for _ in range(200):
            level = (low + high) / 2
            bits = (variances / level).log2().clamp(min=0).sum() / 2 / 20
            low, high = (level, high) if bits > rate else (low, level)
        assert error == pytest.approx(float(variances.clamp(max=low).sum() / variances.sum()), rel=1e-9)


def test_singular_values_are_those_of_the_centred_table():
    table = torch.randn(50, 8) + 3
    expected = torch.linalg.svdvals(table - table.mean(0))
    torch.testing.assert_close(singular_values(table).float(), expected, rtol=1e-4, atol=0)


# --- rows ---


def test_row_errors_by_hand():
    table = torch.tensor([[3.0, 4.0], [0.0, 2.0], [0.0, 0.0]])
    other = Dense.of(torch.tensor([[6.0, 8.0], [2.0, 0.0], [0.0, 1.0]]), torch.float32)
    errors = row_errors(table, other)
    assert errors.squared_error.tolist() == [25.0, 8.0, 1.0]
    assert errors.cosine.tolist() == pytest.approx([1.0, 0.0, 0.0])
    assert errors.norm_ratio.tolist() == pytest.approx([2.0, 1.0, math.nan], nan_ok=True)
    weights = torch.tensor([2.0, 1.0, 1.0])  # mean row (1.5, 2.5)
    assert deviations(table, weights).tolist() == pytest.approx([4.5, 2.5, 8.5])
    assert reconstruction(table, other, weights).relative_error == pytest.approx((50 + 8 + 1) / (9 + 2.5 + 8.5))
    assert reconstruction(table, other, weights).mean_cosine == pytest.approx(0.5)


def test_deciles_are_by_count_the_most_frequent_first():
    counts = torch.zeros(25)
    counts[[7, 3, 20]] = torch.tensor([9.0, 5.0, 9.0])
    groups = frequency_deciles(counts)
    assert [len(ids) for ids in groups] == [3] * 5 + [2] * 5
    assert groups[0].tolist() == [7, 20, 3]
    assert groups[1].tolist() == [0, 1, 2]


def test_neighbours_by_hand_and_by_brute_force():
    angles = torch.tensor([0.0, 10.0, 25.0, 90.0, 130.0]).deg2rad()
    table = torch.stack([angles.cos(), angles.sin()], dim=1)
    assert nearest(table, torch.tensor([0, 3]), 2).tolist() == [[1, 2], [4, 2]]
    assert nearest(table, torch.tensor([0, 3]), 2, torch.tensor([2])).tolist() == [[1, 3], [4, 1]]
    turned = table[[0, 1, 3, 2, 4]] * 5  # rows 2 and 3 change places: 10 and 90 degrees are near row 0 now
    # Of row 0: {1, 2} -> {1, 3}; of row 3, at 25 degrees now: {4, 2} -> {1, 0}.
    assert neighbours_kept(table, turned, torch.tensor([0, 3]), 2).tolist() == [0.5, 0.0]
    first = torch.randn(300, 12)
    second = first + 0.4 * torch.randn(300, 12)
    ids = torch.arange(300)
    kept = neighbours_kept(first, second, ids, 10)
    sets = []
    for rows in (first, second):
        cosines = torch.nn.functional.cosine_similarity(rows[:, None], rows[None], dim=-1).fill_diagonal_(-2)
        sets.append([set(row.topk(10).indices.tolist()) for row in cosines])
    expected = [len(a & b) / 10 for a, b in zip(*sets, strict=True)]
    assert kept.tolist() == pytest.approx(expected)
    assert 0.2 < kept.mean() < 0.95


def test_queries_stand_for_all_rows():
    counts = 1.0 / torch.arange(1.0, 101.0)
    whole = choose_queries(100, 100, counts, 0)
    assert whole.ids.tolist() == list(range(100))
    assert whole.stands_for.tolist() == [1.0] * 100
    part = choose_queries(100, 40, counts, 0)
    assert part.ids[:20].tolist() == list(range(20))
    assert len(set(part.ids.tolist())) == 40
    assert part.stands_for.tolist() == [1.0] * 20 + [4.0] * 20
    plain = choose_queries(100, 40, None, 0)
    assert plain.stands_for.tolist() == [2.5] * 40
    assert plain.ids.tolist() != choose_queries(100, 40, None, 1).ids.tolist()


# --- task reconstruction ---


def test_a_table_compared_with_itself(source):
    found = measured("reconstruction", source, source)
    metrics = found.metrics
    assert metrics["relative_error"] == metrics["weighted_relative_error"] == 0
    assert metrics["neighbours_kept"] == metrics["weighted_neighbours_kept"] == 1
    assert metrics["mean_cosine"] == pytest.approx(1)  # of the padding token's row of zeros, too
    assert metrics["norm_ratio"] == pytest.approx(1)
    assert found.details["weighted_by"] == "vocabulary order"
    assert found.details["storage"] == [{"name": "rows", "dtype": "float32", "bytes": tiny.VOCAB * 32 * 4}]


def test_the_errors_are_those_that_compress_reports(source, pressed, text):
    folder, report = pressed
    found = measured("reconstruction", folder, source, text=[text])
    metrics, details = found.metrics, found.details
    assert metrics["relative_error"] == pytest.approx(report.relative_error)
    assert metrics["mean_cosine"] == pytest.approx(report.mean_cosine)
    assert metrics["weighted_relative_error"] == pytest.approx(report.weighted_relative_error)
    assert metrics["weighted_mean_cosine"] == pytest.approx(report.weighted_mean_cosine)
    assert 0 < metrics["neighbours_kept"] < metrics["weighted_neighbours_kept"] < 1  # fitted to the text
    assert details["weighted_by"] == "text"
    assert sum(item["bytes"] for item in details["storage"]) == report.table_bytes_after
    assert len(details["spectrum"]) == 32
    assert len(details["bound"]) == 40
    assert [details["bound"][i]["bits_per_weight"] for i in (0, -1)] == pytest.approx([0.02, 8])
    deciles = details["deciles"]
    assert sum(tenth["tokens"] for tenth in deciles) == tiny.VOCAB
    assert sum(tenth["share"] for tenth in deciles) == pytest.approx(1)
    assert deciles[0]["share"] > deciles[1]["share"] > deciles[-1]["share"] == 0
    table, rebuilt = (open_table(place, "cpu").dense().detach() for place in (source, folder))
    words = [word for line in LINES for word in line.split()]
    first = sorted(range(tiny.VOCAB), key=lambda i: -words.count(f"w{i}"))[:22]
    errors = (rebuilt - table)[first].square().sum() / (table - table.mean(0))[first].square().sum()
    assert deciles[0]["tokens"] == 22
    assert deciles[0]["relative_error"] == pytest.approx(float(errors), rel=1e-4)
    json.dumps(details, allow_nan=False)


def test_a_sample_of_queries_comes_near_to_all(source, pressed):
    folder, _ = pressed
    whole, part = (measured("reconstruction", folder, source, {"queries": n}) for n in (0, 120))
    assert part.details["queries"] == 120
    for name in ("neighbours_kept", "weighted_neighbours_kept"):
        assert part.metrics[name] == pytest.approx(whole.metrics[name], abs=0.06)


def test_neighbours_of_words(source, pressed):
    folder, _ = pressed
    found = measured("reconstruction", folder, source, {"words": "W9, w12 ,nothing,w3 w4"})
    shown = {entry["word"]: entry for entry in found.details["neighbours"]}
    assert list(shown) == ["W9", "w12"]  # in lower case where it is not known as it is; unknown words are left out
    table = open_table(source, "cpu").dense().detach()
    cosines = torch.nn.functional.cosine_similarity(table[9], table, dim=-1)
    cosines[[9, tiny.VOCAB - 1]] = -2  # itself, and the unknown token, which is special
    assert shown["W9"]["original"] == [f"w{i}" for i in cosines.topk(5).indices.tolist()]
    assert shown["W9"]["compressed"] != shown["W9"]["original"]


def test_a_model_without_a_tokenizer_has_no_weighted_errors(source, tmp_path, text):
    tiny.make("bert").save_pretrained(tmp_path / "bare")
    found = measured("reconstruction", tmp_path / "bare", source)
    assert "weighted_relative_error" not in found.metrics
    assert (found.details["weighted_by"], found.details["deciles"], found.details["neighbours"]) == (None, [], [])
    with pytest.raises(ValueError, match="has no tokenizer"):
        measured("reconstruction", tmp_path / "bare", source, text=[text])


def test_another_model_is_refused(source, tmp_path):
    small = tiny.BertConfig(**(tiny.BERT | {"hidden_size": 16}), vocab_size=tiny.VOCAB)
    tiny.BertForMaskedLM(small).save_pretrained(tmp_path / "small")
    with pytest.raises(ValueError, match=r"table \(211, 32\), the original \(211, 16\)"):
        measured("reconstruction", source, tmp_path / "small")


# --- task agreement ---


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5"])
def test_a_model_agrees_with_itself(name, tmp_path, text):
    folder = tiny.save(name, tmp_path / "model")
    metrics = measured("agreement", folder, folder, text=[text]).metrics
    assert metrics["hidden_cosine"] == pytest.approx(1)
    assert metrics["tokens"] == sum(len(line.split()) for line in LINES)
    if name == "t5":  # the encoder alone is compared
        assert "kl" not in metrics
    else:
        assert (metrics["kl"], metrics["top1_agreement"]) == (0, 1)


@pytest.mark.parametrize("batch_size", [1, 16])
def test_agreement_is_that_of_single_lines(source, pressed, text, batch_size):
    folder, _ = pressed
    found = measured(
        "agreement", folder, source, {"batch_size": batch_size, "subset": 12, "max_length": 6}, text=[text]
    )
    models = [AutoModelForMaskedLM.from_pretrained(place).eval() for place in (source, folder)]
    cosines, divergences, agreed = [], [], []
    for line in LINES[:12]:
        ids = torch.tensor([[int(word[1:]) for word in line.split()][:6]])
        with torch.no_grad():
            out = [model(ids, output_hidden_states=True) for model in models]
        hidden = [each.hidden_states[-1][0] for each in out]
        logs = [each.logits[0].log_softmax(-1) for each in out]
        cosines += torch.nn.functional.cosine_similarity(*hidden, dim=-1).tolist()
        divergences += torch.nn.functional.kl_div(logs[1], logs[0], log_target=True, reduction="none").sum(-1).tolist()
        agreed += (logs[0].argmax(-1) == logs[1].argmax(-1)).float().tolist()
    assert found.metrics["tokens"] == len(cosines)
    assert found.metrics["hidden_cosine"] == pytest.approx(sum(cosines) / len(cosines), rel=1e-4)
    assert found.metrics["kl"] == pytest.approx(sum(divergences) / len(cosines), rel=1e-3)
    assert found.metrics["top1_agreement"] == pytest.approx(sum(agreed) / len(cosines))
    assert 0 < found.metrics["hidden_cosine"] < 1


def test_a_base_model_agrees_by_its_hidden_states(source, tmp_path, text):
    AutoModel.from_pretrained(source).save_pretrained(tmp_path / "base")
    for file in source.glob("tokenizer*"):
        (tmp_path / "base" / file.name).write_bytes(file.read_bytes())
    metrics = measured("agreement", tmp_path / "base", source, text=[text]).metrics
    assert metrics.keys() == {"hidden_cosine", "tokens"}
    assert metrics["hidden_cosine"] == pytest.approx(1)


# --- the command ---


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command_prints_tables_and_one_line_of_json(source, pressed, text, capsys):
    folder, _ = pressed
    arguments = ("--task", "reconstruction", "--task", "agreement", "--against", source, "--text", text)
    code, out, err = run(
        capsys, "evaluate", folder, *arguments, "--subset", 9, "--set", "agreement.max_length=7", "--json"
    )
    assert code == 0, err
    assert "neighbours kept" in out
    results = json.loads(out.splitlines()[-1])["results"]
    assert [result["task"] for result in results] == ["reconstruction", "agreement"]
    assert results[0]["settings"]["text"] == ["text.txt"]
    assert results[1]["settings"]["task"] == {"max_length": 7, "batch_size": 8, "subset": 9}
    direct = evaluate(
        folder, {"agreement": make_task("agreement", max_length=7, subset=9)}, against=source, text=[text]
    )
    assert results[1]["metrics"] == direct[0].metrics


def test_a_second_run_measures_nothing_again(source, pressed, tmp_path, capsys, monkeypatch):
    folder, _ = pressed
    arguments = ("evaluate", folder, "--task", "reconstruction", "--against", source, "-o", tmp_path / "out", "--json")
    code, first, _ = run(capsys, *arguments)
    assert code == 0
    file = tmp_path / "out" / "reconstruction.json"
    before = file.read_bytes()
    assert len(read_results(file)) == 1

    def measure(self, subject):
        raise AssertionError("measured again")

    monkeypatch.setattr(TableErrors, "measure", measure)
    code, second, _ = run(capsys, *arguments)
    assert code == 0
    assert json.loads(second.splitlines()[-1]) == json.loads(first.splitlines()[-1])
    code, out, err = run(capsys, *arguments, "--set", "k=3")
    assert (code, out) == (2, "")
    assert "holds a result of other settings" in err
    assert file.read_bytes() == before


def test_several_seeds_get_a_mean_and_a_spread(tmp_path, text, capsys, monkeypatch):
    from test_evaluate_text import save_maskable

    source = save_maskable(tmp_path / "model")
    arguments = (
        "--task",
        "mlm",
        "--text",
        text,
        "--set",
        "min_tokens=3",
        "--seeds",
        3,
        "-o",
        tmp_path / "out",
        "--json",
    )
    code, out, err = run(capsys, "evaluate", source, *arguments)
    assert code == 0, err
    results = json.loads(out.splitlines()[-1])["results"]
    assert [result["settings"]["seed"] for result in results] == [0, 1, 2]
    values = [result["metrics"]["perplexity_head_compressed"] for result in results]
    assert len(set(values)) == 3
    assert "spread" in out
    assert f"{sum(values) / 3:,.0f}" in out
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [f"mlm-seed{n}.json" for n in range(3)]


def bad_commands(source, tmp):
    (tmp / "file").write_text("x")
    (tmp / "empty.txt").write_text("\n")
    table = ("evaluate", source, "--task", "reconstruction")
    return {
        "no task": (("evaluate", source), "Missing option '--task'"),
        "unknown task": (("evaluate", source, "--task", "chess", "--set", "k=1"), "unknown task 'chess'; choose from"),
        "no original": (table, "comparing tables needs the original model; give it with --against"),
        "no text": (("evaluate", source, "--task", "clm"), "needs text; give UTF-8 files with --text"),
        "empty text": ((*table, "--against", source, "--text", tmp / "empty.txt"), "holds no text"),
        "no data": (("evaluate", source, "--task", "sts"), "needs stsbenchmark/sts-dev.tsv; give the folder"),
        "other data": (("evaluate", source, "--task", "similarity", "--data", tmp), "has no word-similarity; give"),
        "no subset": ((*table, "--subset", "5"), "--subset: no chosen task has this field"),
        "no epochs": ((*table, "--epochs", "5"), "--epochs: no chosen task has this field"),
        "no seeds": ((*table, "--seeds", "2"), "no chosen task depends on the seed"),
        "zero seeds": ((*table, "--seeds", "0"), "--seeds is the number of runs, at least 1"),
        "unknown field": ((*table, "--set", "colour=red"), "--set colour: no chosen task has this field"),
        "field of another": ((*table, "--set", "mlm.block=9"), "--set mlm.block: mlm is not a chosen task"),
        "unknown field of one": ((*table, "--set", "reconstruction.x=9"), "has no field 'x'; it has k, queries, words"),
        "bad value": ((*table, "--set", "k=many"), "k takes a number"),
        "out of range": ((*table, "--set", "k=0"), "k is at least 1"),
        "output is a file": ((*table, "-o", tmp / "file"), "exists and is a file"),
        "unknown device": ((*table, "--device", "abacus"), "can't use the device 'abacus'"),
        "wrong kind": (
            ("evaluate", source, "--task", "clm", "--text", tmp / "file"),
            "is a BertForMaskedLM, a masked language model; measure it with --task mlm",
        ),
    }


NAMES = [
    "no task", "unknown task", "no original", "no text", "empty text", "no data", "other data", "no subset",
    "no epochs", "no seeds", "zero seeds", "unknown field", "field of another", "unknown field of one", "bad value",
    "out of range", "output is a file", "unknown device", "wrong kind",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_bad_input_is_one_line_and_exit_code_2(name, source, tmp_path, capsys):
    cases = bad_commands(source, tmp_path)
    assert list(cases) == NAMES
    arguments, words = cases[name]
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run(capsys, *arguments)
    lines = [line for line in err.replace("\r", "\n").splitlines() if line.startswith("vocabpress: ")]
    assert (code, out, len(lines)) == (2, "", 1), err
    assert words in lines[0]
    assert sorted(tmp_path.rglob("*")) == before


def test_the_group_glue_is_its_nine_tasks(source, capsys):
    code, _, err = run(capsys, "evaluate", source, "--task", "glue", "--set", "cola.colour=red")
    assert code == 2
    assert "task cola has no field 'colour'" in err


def test_help(capsys):
    code, out, _ = run(capsys, "evaluate", "--help")
    assert code == 0
    assert all(word in out for word in ("--against", "--seeds", "reconstruction", "squad"))
