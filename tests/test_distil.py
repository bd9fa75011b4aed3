"""The objective of KroneckerBERT, term by term, and what it is computed from: labels, hooks, thawed factors."""

import json

import pytest
import torch
from safetensors.torch import load_file

import tiny
from measuring import save_maskable, write_lines
from vocabpress import Budget, NearestKronecker, compress
from vocabpress.cli import main
from vocabpress.embeddings import Dense, Kronecker, Scalar
from vocabpress.fitting.kronecker import fit_kronecker
from vocabpress.hf.checkpoint import named_class, open_model, open_tokenizer
from vocabpress.recover import OBJECTIVES, Recovery, recover
from vocabpress.recover.lesson import Source, read_lesson
from vocabpress.recover.listen import Heard, listening, record_ffn
from vocabpress.recover.objective import Traces, held_out_terms, terms, trace
from vocabpress.recover.text import UNSCORED, Sequences, set_aside, tokenise, with_own_labels
from vocabpress.recover.thaw import Thawed, freeze, thaw

QUICK = {"steps": 12, "batch_size": 4, "max_length": 16, "held_out": 8, "evaluate_every": 4, "learning_rate": 0.02}
LINEARS = {"attention": "16x16", "ffn": "2x8"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("distil")
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(2, 200, (120, 9), generator=generator).tolist()
    write_lines(place / "text.txt", [" ".join(f"w{i}" for i in row) for row in ids])
    for name in ("bert", "llama", "gpt2", "t5", "bart, scaled"):
        save_maskable(place / name, name)
    for factors in ("float16", "int8"):
        method = NearestKronecker(width=4, factors=factors)
        linears = {**LINEARS, "factors": factors}
        compress(place / "bert", place / factors, method=method, budget=Budget.ratio(4), linears=linears, measure=False)
    return place


def run(folder, output, student="float16", teacher="bert", **settings):
    chosen = Recovery(**{**QUICK, **settings})
    text = [folder / "text.txt"]
    return recover(folder / student, output, teacher=folder / teacher, text=text, settings=chosen, device="cpu")


def state(*values):
    return torch.tensor([[[float(value)] for value in values]])


def test_plain_terms_by_hand():
    """Two layers, the third token is padding: means over what counts, sums over layers."""
    mask = torch.tensor([[1, 1, 0]])
    scores = torch.tensor([[[[1.0, 2.0, 9.0], [3.0, 4.0, 9.0], [9.0, 9.0, 9.0]]]])
    counts = torch.tensor([[[[True, True, False]]]])
    teacher = Traces(
        (state(2, 1, 9), state(1, 1, 9), state(0, 0, 9)),
        Heard([(scores, counts), (scores, counts)], [state(1, 2, 9), state(3, 4, 9)]),
        None,
    )
    student = Traces(
        (state(1, 1, 0), state(1, 3, 0), state(4, 0, 0)),
        Heard([(scores + 1, counts), (scores - 3, counts)], [state(1, 0, 0), state(3, 10, 0)]),
        None,
        torch.tensor(7.0),
    )
    found = {name: float(value) for name, value in terms(student, teacher, mask, normalised=False).items()}
    assert found == pytest.approx(
        {"embedding": 0.5, "hidden": 4 / 2 + 16 / 2, "attention": 1.0 + 9.0, "ffn": 4 / 2 + 36 / 2, "student": 7.0}
    )
    relative = {name: float(value) for name, value in terms(student, teacher, mask).items()}
    assert relative["ffn"] == pytest.approx((4 / 5 + 36 / 25) / 2)
    assert relative["attention"] == pytest.approx((4 / 30 + 36 / 30) / 2)


def test_predictions_of_classes_and_of_scores_by_hand():
    def logits_term(student, teacher):
        traces = [Traces((state(1), state(1)), Heard(), torch.tensor(rows)) for rows in (student, teacher)]
        return float(terms(*traces, torch.tensor([[1]]))["logits"])

    aim, guess = torch.tensor([0.9, 0.1]), torch.tensor([0.5, 0.5])
    expected = float((aim * (aim / guess).log()).sum())
    assert logits_term([guess.log().tolist()], [aim.log().tolist()]) == pytest.approx(expected, rel=1e-5)
    assert logits_term([[1.0], [2.0]], [[3.0], [2.0]]) == pytest.approx(2.0)


def test_outputs_of_feed_forward_blocks_are_those_before_the_residual_connection(folder):
    model = open_model(folder / "bert", named_class(folder / "bert"))
    record_ffn(model)
    ids = torch.tensor([[2, 3, 4, 5]])
    with listening() as heard:
        states = model(ids, output_hidden_states=True).hidden_states
    layer = model.bert.encoder.layer[1]
    attended = layer.attention(states[1])[0]
    assert len(heard.ffn) == 2
    torch.testing.assert_close(heard.ffn[1], layer.output.dense(layer.intermediate(attended)))


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5", "bart, scaled"])
def test_blocks_are_found_in_other_architectures(folder, tmp_path, name):
    how = {"budget": Budget.ratio(4), "calibration": "vocabulary-order", "measure": False}
    compress(folder / name, tmp_path / "small", method="svd", **how)
    settings = Recovery(**{**QUICK, "steps": 4, "ffn": 1.0})
    text = [folder / "text.txt"]
    report = recover(
        tmp_path / "small", tmp_path / "out", teacher=folder / name, text=text, settings=settings, device="cpu"
    )
    assert report.terms_before["ffn"] > 0
    assert report.held_out_after < report.held_out_before


def test_the_papers_objective_trains_table_and_factors_together(folder, tmp_path):
    report = run(folder, tmp_path / "out", mode="model", language_model=True, **OBJECTIVES["kroneckerbert"])
    assert set(report.terms_after) == {"embedding", "attention", "ffn", "logits", "student"}
    assert report.held_out_after < 0.97 * report.held_out_before
    before, after = (load_file(place / "model.safetensors") for place in (folder / "float16", tmp_path / "out"))
    assert {k: (t.shape, t.dtype) for k, t in before.items()} == {k: (t.shape, t.dtype) for k, t in after.items()}
    for key in before:
        if ".table." in key or "query.weight" in key:
            assert not torch.equal(before[key], after[key]), key
    said = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["fitted_by"]["recovered"]
    assert (said["ffn"], said["hidden"], said["normalised"], said["language_model"]) == (1.0, 0.0, False, True)
    assert "The other weights were trained afterwards" in (tmp_path / "out" / "README.md").read_text()


def test_a_second_recovery_says_what_the_first_was(folder, tmp_path):
    run(folder, tmp_path / "one", mode="model", learning_rate=0.003)
    text, settings = [folder / "text.txt"], Recovery(**{**QUICK, "learning_rate": 0.01})
    report = recover(
        tmp_path / "one", tmp_path / "two", teacher=folder / "bert", text=text, settings=settings, device="cpu"
    )
    assert not report.kept_input
    said = json.loads((tmp_path / "two" / "config.json").read_text())["quantization_config"]["fitted_by"]["recovered"]
    assert (said["mode"], said["before"]["mode"]) == ("table", "model")


@pytest.mark.parametrize("mode", ["table", "model"])
def test_integer_factors_of_maps_train_with_the_model_and_codes_of_tokens_stay(folder, tmp_path, mode):
    report = run(folder, tmp_path / "out", "int8", mode=mode, learning_rate=0.005)
    assert not report.kept_input
    before, after = (load_file(place / "model.safetensors") for place in (folder / "int8", tmp_path / "out"))
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    table = {key for key in before if "word_embeddings" in key and before[key].numel()}
    maps = {key for key in before if ".encoder." in key and (".table." in key or key.endswith("query.weight"))}
    assert len(table) == 4  # codes and scales of both factors
    codes = [key for key in table if before[key].dtype == torch.uint8 and before[key].numel() > 100]
    assert len(codes) == 1
    assert not changed & set(codes)
    assert changed & table
    assert (maps <= changed) == (mode == "model")
    assert bool(changed - table) == (mode == "model")


def test_thawing_products():
    table = Kronecker(Scalar(6, 2, 8, "column"), Scalar(2, 3, 8))
    thaw(table)
    assert isinstance(table.left, Scalar)
    assert isinstance(table.right, Thawed)
    linear = fit_kronecker(torch.randn(12, 6), 2, 3, 2, "int4")
    before, dense = linear.config(), linear.dense().detach()
    thaw(linear, every=True)
    assert sum(isinstance(part, Thawed) for part in linear.modules()) == 4
    linear.logits(torch.randn(3, 6)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in linear.parameters())
    freeze(linear)
    assert linear.config() == before
    assert float((linear.dense().detach() - dense).norm() / dense.norm()) < 0.2  # scales are sought anew
    plain = Kronecker(Dense(6, 2), Dense(2, 3))
    thaw(plain, every=True)
    assert not any(isinstance(part, Thawed) for part in plain.modules())


def masked(folder, name="bert", seed=0):
    tokenizer = open_tokenizer(folder / name)
    model = open_model(folder / name, named_class(folder / name))
    plain = set_aside(tokenise([folder / "text.txt"], tokenizer, 16, False), 8, tokenizer.pad_token_id, 0)
    return plain, with_own_labels(plain, model, tokenizer, seed), tokenizer


def test_a_masked_language_model_labels_its_text(folder):
    plain, found, tokenizer = masked(folder)
    assert (len(found.training), len(found.held_out)) == (112, 8)
    became_mask = replaced = 0
    for before, after in zip(plain.training, found.training, strict=True):
        places = [i for i, label in enumerate(after["labels"]) if label != UNSCORED]
        assert len(places) == 1  # 15 % of nine tokens
        assert [label for label in after["labels"] if label != UNSCORED] == [before["input_ids"][i] for i in places]
        moved = [i for i, token in enumerate(after["input_ids"]) if token != before["input_ids"][i]]
        assert set(moved) <= set(places)
        became_mask += after["input_ids"][places[0]] == tokenizer.mask_token_id
        replaced += bool(moved)
    assert 0.65 < became_mask / 112 < 0.95  # 80 %
    assert became_mask < replaced < 112  # some become a random token, some stay
    assert masked(folder)[1] == found
    assert masked(folder, seed=1)[1] != found


def test_a_causal_language_model_predicts_the_next_token_and_the_students_loss_is_its_own(folder, tmp_path):
    _, found, _ = masked(folder, "llama")
    batch = found.collate(found.held_out[:3])
    assert torch.equal(batch["labels"], torch.where(batch["attention_mask"].bool(), batch["input_ids"], UNSCORED))
    model = open_model(folder / "llama", named_class(folder / "llama"))
    with torch.no_grad():
        loss = trace(model, batch, True).loss
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
    torch.testing.assert_close(loss, expected)
    settings = Recovery(**{**QUICK, "attention": 0, "language_model": True, "batch_size": 3})
    found = Sequences(found.training, found.held_out[:3], found.pad)
    terms_found = held_out_terms(model, model, found, settings, torch.device("cpu"))
    assert terms_found["student"] == pytest.approx(float(loss), rel=1e-5)
    assert terms_found["logits"] == pytest.approx(0, abs=1e-6)


def test_batches_are_padded_each_as_it_needs():
    rows = [
        {"input_ids": [5, 6, 7], "token_type_ids": [0, 1, 1], "labels": 1},
        {"input_ids": [8], "token_type_ids": [0], "labels": 0},
    ]
    batch = Sequences(rows, [], 9).collate(rows)
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[5, 6, 7], [8, 9, 9]],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
        "token_type_ids": [[0, 1, 1], [0, 0, 0]],
        "labels": [1, 0],
    }
    scores = Sequences(rows, [], 9).collate([{"input_ids": [1], "labels": 2.5}])
    assert scores["labels"].dtype == torch.float32


def test_newer_settings_are_written_if_they_are_chosen():
    assert Recovery().to_dict() == {
        "mode": "table", "steps": 400, "batch_size": 16, "max_length": 128, "learning_rate": 0.01, "embedding": 1.0,
        "hidden": 1.0, "attention": 1.0, "logits": 1.0, "held_out": 256, "evaluate_every": 50, "patience": 4,
        "precision": "float32",
    }  # fmt: skip
    assert Recovery(ffn=2.0, normalised=False).to_dict() == {**Recovery().to_dict(), "ffn": 2.0, "normalised": False}


def test_a_loss_of_nothing_is_refused(folder, tmp_path):
    nothing = {"embedding": 0, "hidden": 0, "attention": 0, "logits": 0}
    with pytest.raises(ValueError, match="are all zero"):
        run(folder, tmp_path / "out", **nothing)
    with pytest.raises(ValueError, match="ffn should be greater than or equal to 0"):
        Recovery(ffn=-1.0)
    report = run(folder, tmp_path / "out", mode="model", learning_rate=0.003, language_model=True, **nothing)
    assert set(report.terms_after) == {"student"}


def test_models_without_a_language_model_have_no_labels_of_their_own(folder):
    tokenizer = open_tokenizer(folder / "bert")
    base = open_model(folder / "bert").base_model
    for model in (base, tiny.make("t5")):
        with pytest.raises(ValueError, match="is no masked or causal language model; leave language_model out"):
            read_lesson(Source([folder / "text.txt"]), model, tokenizer, Recovery(language_model=True), 0, False)
    bare = open_tokenizer(tiny.save("bert", folder / "bare"))
    with pytest.raises(ValueError, match="has no mask token; leave language_model out"):
        with_own_labels(Sequences([], [], 0), tiny.make("bert"), bare, 0)


BAD = {
    "unknown objective": (("--objective", "tiny"), "unknown objective 'tiny'; choose from relative, kroneckerbert"),
    "text and task": (("--task", "mrpc"), "give one of --text and --task"),
    "no ffn": (("--set", "ffn=much"), "ffn should be a valid number"),
    "truth": (
        ("--set", "normalised=2"),
        "normalised should be a valid boolean",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name, folder, tmp_path, capsys):
    arguments, words = BAD[name]
    command = ["recover", folder / "float16", "--teacher", folder / "bert", "--text", folder / "text.txt"]
    code = main([str(part) for part in (*command, "-o", tmp_path / "out", *arguments)])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert words in err.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()
