"""Recovery: what is trained, what stays, and that a run can be stopped at any time."""

import copy
import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

import tiny
from tuning import stopped_at_the_second_look
from vocabpress import Budget, LightToken, compress
from vocabpress.cli import main
from vocabpress.embeddings import Projected, Scalar
from vocabpress.fitting.quantise import quantise
from vocabpress.hf.checkpoint import named_class, open_model
from vocabpress.recover import Recovery, recover
from vocabpress.recover.listen import Heard, listening, record_attention
from vocabpress.recover.objective import Traces, held_out_terms, terms, trace
from vocabpress.recover.text import batch_plan, set_aside, tokenise
from vocabpress.recover.thaw import Thawed, freeze, thaw

QUICK = Recovery(steps=12, batch_size=4, max_length=16, held_out=8, evaluate_every=4, learning_rate=0.02)


def words(lines: int, start: int = 0) -> str:
    generator = torch.Generator().manual_seed(start)
    ids = torch.randint(2, tiny.VOCAB, (lines, 9), generator=generator).tolist()
    return "\n".join(" ".join(f"w{i}" for i in row) for row in ids) + "\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("recover")
    (place / "text.txt").write_text(words(120), encoding="utf-8")
    for name in ("bert", "llama", "t5", "bart, scaled", "gemma3, scaled", "gpt2"):
        tiny.save(name, place / name)
    model = open_model(place / "bert", named_class(place / "bert"))
    model.get_input_embeddings().weight.data.mul_(30)  # as large as what the model adds to it
    model.save_pretrained(place / "bert")
    compress(
        place / "bert", place / "small", method=LightToken(stages=1, epochs=1), budget=Budget.ratio(6), measure=False
    )
    return place


def run(folder, output, settings=QUICK, **options):
    arguments = {"teacher": folder / "bert", "text": [folder / "text.txt"], "device": "cpu", **options}
    return recover(folder / "small", output, settings=settings, **arguments)


def stored(place):
    return load_file(place / "model.safetensors")


def test_table_mode_helps_and_leaves_codes_bytes_and_body_alone(folder, tmp_path):
    report = run(folder, tmp_path / "out")
    assert report.held_out_after < 0.9 * report.held_out_before
    assert not report.kept_input
    before, after = stored(folder / "small"), stored(tmp_path / "out")
    assert {k: (t.shape, t.dtype) for k, t in before.items()} == {k: (t.shape, t.dtype) for k, t in after.items()}
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed
    assert all("word_embeddings" in key for key in changed)
    was, now = (
        AutoModel.from_pretrained(place).embeddings.word_embeddings for place in (folder / "small", tmp_path / "out")
    )
    codes = {name: tensor for name, tensor in was.named_buffers() if name.endswith("inner.codes")}
    assert codes
    assert all(torch.equal(tensor, now.get_buffer(name)) for name, tensor in codes.items())
    said = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["fitted_by"]["recovered"]
    assert (said["mode"], said["steps_taken"], said["held_out_before"]) == ("table", 12, report.held_out_before)
    assert "## Recovered" in (tmp_path / "out" / "README.md").read_text()
    assert not (tmp_path / "out.recover").exists()


def test_what_is_reported_is_what_the_written_folder_scores(folder, tmp_path):
    report = run(folder, tmp_path / "out")
    student, teacher = (open_model(place, named_class(place)) for place in (tmp_path / "out", folder / "bert"))
    tokenizer = tiny_tokenizer(folder)
    sequences = set_aside(tokenise([folder / "text.txt"], tokenizer, 16, False), 8, tokenizer.pad_token_id, 0)
    for model in (student, teacher):
        record_attention(model)
    found = held_out_terms(student, teacher, sequences, QUICK, torch.device("cpu"))
    assert found == pytest.approx(report.terms_after)


def tiny_tokenizer(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder / "bert")


def test_model_mode_trains_the_body_too(folder, tmp_path):
    report = run(folder, tmp_path / "out", Recovery(**{**vars(QUICK), "mode": "model", "learning_rate": 0.003}))
    assert report.held_out_after < report.held_out_before
    before, after = stored(folder / "small"), stored(tmp_path / "out")
    assert any(not torch.equal(before[key], after[key]) for key in before if "attention" in key)
    assert "The other weights were trained afterwards" in (tmp_path / "out" / "README.md").read_text()


def test_a_result_that_is_worse_is_not_kept(folder, tmp_path):
    report = run(folder, tmp_path / "out", Recovery(**{**vars(QUICK), "learning_rate": 1000.0}))
    assert report.kept_input
    assert report.held_out_after == report.held_out_before
    for file in (folder / "small").iterdir():
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()


def test_it_stops_early_when_held_out_text_no_longer_gains(folder, tmp_path):
    settings = {**vars(QUICK), "learning_rate": 1000.0, "steps": 400, "patience": 2}
    report = run(folder, tmp_path / "out", Recovery(**settings))
    assert report.stopped_early
    assert report.steps == 2 * QUICK.evaluate_every


@pytest.mark.parametrize("mode", ["table", "model"])
def test_a_stopped_run_goes_on_to_the_same_numbers(folder, tmp_path, monkeypatch, mode):
    settings = Recovery(**{**vars(QUICK), "mode": mode})
    run(folder, tmp_path / "whole", settings)
    stopped_at_the_second_look(monkeypatch, lambda: run(folder, tmp_path / "stopped", settings))
    assert [place.name for place in (tmp_path / "stopped.recover").glob("step-*")] == ["step-4"]
    assert not (tmp_path / "stopped").exists()
    report = run(folder, tmp_path / "stopped", settings)
    assert report.steps == 12
    whole, stopped = stored(tmp_path / "whole"), stored(tmp_path / "stopped")
    assert all(torch.equal(whole[key], stopped[key]) for key in whole)


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5", "bart, scaled", "gemma3, scaled"])
def test_other_architectures(folder, tmp_path, name):
    how = {"budget": Budget.ratio(4), "calibration": "vocabulary-order", "measure": False}
    compress(folder / name, tmp_path / "small", method="svd", **how)
    report = recover(
        tmp_path / "small",
        tmp_path / "out",
        teacher=folder / name,
        text=[folder / "text.txt"],
        settings=QUICK,
        device="cpu",
    )
    assert set(report.terms_after) == {"embedding", "hidden", "attention", "logits"}
    assert report.held_out_after < report.held_out_before


def test_recorded_scores_are_queries_times_keys_and_outputs_stay(folder):
    model = AutoModel.from_pretrained(folder / "bert").eval()
    ids, mask = torch.tensor([[2, 3, 4, 5]]), torch.tensor([[1, 1, 1, 0]])
    before = model(ids, attention_mask=mask, output_hidden_states=True)
    record_attention(model)
    with listening() as heard:
        after = model(ids, attention_mask=mask, output_hidden_states=True)
    torch.testing.assert_close(before.last_hidden_state, after.last_hidden_state)
    attention = model.encoder.layer[0].attention.self
    hidden = before.hidden_states[0]
    query, key = (map_(hidden).view(1, 4, 2, 16).transpose(1, 2) for map_ in (attention.query, attention.key))
    assert len(heard.scores) == 2
    torch.testing.assert_close(heard.scores[0][0], query @ key.transpose(2, 3) / 4)
    counts = heard.scores[0][1]
    assert counts is not None
    assert counts[0, 0, 0].tolist() == [True, True, True, False]
    with listening() as quiet:
        pass
    model(ids)
    assert quiet == Heard()


def test_the_terms_by_hand():
    mask = torch.tensor([[1, 1, 0]])
    teacher = Traces((torch.tensor([[[2.0], [1.0], [9.0]]]), torch.tensor([[[1.0], [1.0], [9.0]]])), Heard(), None)
    student = Traces((torch.tensor([[[1.0], [1.0], [0.0]]]), torch.tensor([[[1.0], [2.0], [0.0]]])), Heard(), None)
    found = terms(student, teacher, mask)
    assert {name: float(value) for name, value in found.items()} == pytest.approx({"embedding": 1 / 5, "hidden": 1 / 2})
    scores = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    counts = torch.tensor([[[[True, False], [True, True]]]])
    logits = torch.log(torch.tensor([[[0.5, 0.5], [0.9, 0.1]]]))
    other = torch.log(torch.tensor([[[0.25, 0.75], [0.9, 0.1]]]))
    state = torch.ones(1, 2, 1)
    teacher = Traces((state, state), Heard([(scores, counts)]), logits)
    student = Traces((state, state), Heard([(scores + 1, counts)]), other)
    found = terms(student, teacher, torch.tensor([[1, 1]]))
    assert float(found["attention"]) == pytest.approx(3 / (1 + 9 + 16))
    kl = 0.5 * torch.log(torch.tensor(0.5 / 0.25)) + 0.5 * torch.log(torch.tensor(0.5 / 0.75))
    assert float(found["logits"]) == pytest.approx(float(kl) / 2, rel=1e-5)


def test_a_model_is_no_distance_from_itself(folder):
    model = open_model(folder / "bert", named_class(folder / "bert"))
    record_attention(model)
    batch = {"input_ids": torch.tensor([[2, 3, 4, 0]]), "attention_mask": torch.tensor([[1, 1, 1, 0]])}
    with torch.no_grad():
        found = terms(trace(model, batch, True), trace(model, batch, True), batch["attention_mask"])
    assert set(found) == {"embedding", "hidden", "attention", "logits"}
    assert all(float(value) == pytest.approx(0, abs=1e-7) for value in found.values())


@pytest.mark.parametrize("bits", [4, 8])
def test_thawing_and_freezing(bits):
    inner = Scalar.of(torch.randint(0, 2, (50, 8), dtype=torch.uint8), None, 1, "none")
    table = Projected.of(inner, quantise(torch.randn(8, 12), bits, "row"), torch.randn(12))
    before, dense = table.total_bits(), table.dense()
    thawed = copy.deepcopy(table)
    thaw(thawed)
    assert isinstance(thawed.basis, Thawed)
    torch.testing.assert_close(thawed.dense(), dense, atol=0.02 if bits == 8 else 0.25, rtol=0)
    ids, hidden = torch.tensor([3, 1]), torch.randn(2, 12)
    torch.testing.assert_close(thawed.lookup(ids), thawed.dense()[ids])
    torch.testing.assert_close(thawed.logits(hidden), hidden @ thawed.dense().T)
    thawed.dense().sum().backward()
    levels = inner.lookup(torch.arange(50))
    torch.testing.assert_close(thawed.basis.values.grad, levels.sum(0)[:, None].expand(8, 12))  # straight through
    trained = thawed.dense()
    freeze(thawed)
    assert thawed.total_bits() == before
    torch.testing.assert_close(thawed.dense(), trained)


def test_the_plan_of_batches_repeats_and_uses_every_sequence():
    lengths = list(range(1, 41))
    plan = batch_plan(lengths, 4, 30, seed=3)
    assert plan == batch_plan(lengths, 4, 30, seed=3) != batch_plan(lengths, 4, 30, seed=4)
    assert plan[:12] == batch_plan(lengths, 4, 12, seed=3)
    for start in (0, 10, 20):
        assert sorted(i for batch in plan[start : start + 10] for i in batch) == list(range(40))
    assert [len(batch) for batch in batch_plan([5, 5], 4, 3, seed=0)] == [2, 2, 2]


def test_held_out_sequences_are_never_trained_on(folder, tmp_path):
    (tmp_path / "twice.txt").write_text(words(60) + words(60), encoding="utf-8")
    sequences = set_aside(tokenise([tmp_path / "twice.txt"], tiny_tokenizer(folder), 16, False), 100, 0, 1)
    assert len(sequences.held_out) == 6
    assert len(sequences.training) == 54
    training, held_out = (
        {tuple(row["input_ids"]) for row in part} for part in (sequences.training, sequences.held_out)
    )
    assert not training & held_out


def bad_inputs(folder, tmp):
    (tmp / "empty.txt").write_text("\n", encoding="utf-8")
    (tmp / "short.txt").write_text(words(5), encoding="utf-8")
    shutil.copytree(folder / "bert", tmp / "other")
    file = tmp / "other" / "tokenizer.json"
    file.write_text(file.read_text().replace('"w7"', '"x7"'), encoding="utf-8")
    ok = ("--text", folder / "text.txt")
    small, teacher, out = folder / "small", ("--teacher", folder / "bert"), ("-o", tmp / "out")
    return {
        "empty text": ((small, *teacher, "--text", tmp / "empty.txt", *out), "holds no text"),
        "little text": ((small, *teacher, "--text", tmp / "short.txt", *out), "gives 5 sequences, recovery needs 20"),
        "other vocabulary": ((small, "--teacher", tmp / "other", *ok, *out), "has another vocabulary"),
        "other shape": ((small, "--teacher", folder / "gpt2", *ok, *out), "the model it was made of"),
        "not compressed": ((folder / "bert", *teacher, *ok, *out), "is not compressed; run vocabpress compress first"),
        "compressed teacher": ((small, "--teacher", small, *ok, *out), "is compressed itself; give the original"),
        "no teacher": ((small, "--teacher", "/no/such", *ok, *out), "no such model"),
        "unknown mode": (
            (small, *teacher, *ok, *out, "--mode", "all"),
            "mode should be 'table' or 'model'",
        ),
        "unknown field": ((small, *teacher, *ok, *out, "--set", "speed=9"), "recover has no field 'speed'"),
        "no weight": (
            (small, *teacher, *ok, *out, *(f"--set={n}=0" for n in ("embedding", "hidden", "attention", "logits"))),
            "the weights of the loss are all zero",
        ),
        "output not empty": ((small, *teacher, *ok, "-o", folder), "exists and is not empty"),
    }


NAMES = [
    "empty text", "little text", "other vocabulary", "other shape", "not compressed", "compressed teacher",
    "no teacher", "unknown mode", "unknown field", "no weight", "output not empty",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_bad_input_is_one_line(name, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    cases = bad_inputs(folder, tmp_path)
    assert list(cases) == NAMES
    arguments, message = cases[name]
    before = sorted(tmp_path.rglob("*"))
    code = main(["recover", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    (line,) = [line for line in err.replace("\r", "\n").splitlines() if line.startswith("vocabpress: ")]
    assert message in line
    assert sorted(tmp_path.rglob("*")) == before


def test_checkpoints_of_another_run_are_refused(folder, tmp_path):
    (tmp_path / "out.recover").mkdir()
    (tmp_path / "out.recover" / "run.json").write_text("{}")
    with pytest.raises(ValueError, match="an interrupted run of other settings"):
        run(folder, tmp_path / "out")


def test_the_command(folder, tmp_path, capsys):
    arguments = ["recover", folder / "small", "--teacher", folder / "bert", "--text", folder / "text.txt", "-o"]
    settings = [f"--set={n}={getattr(QUICK, n)}" for n in ("batch_size", "max_length", "held_out", "evaluate_every")]
    code = main([*map(str, arguments), str(tmp_path / "out"), "--steps", "8", "--device", "cpu", *settings, "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    report = json.loads(out.splitlines()[-1])
    assert report["steps"] == 8
    assert report["held_out_after"] < report["held_out_before"]
    assert "held-out sequences" in err


@pytest.mark.slow
def test_two_processes_by_accelerate_launch(folder, tmp_path):
    """Two processes see other batches, so other numbers; both must train, and one must write."""
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "--mixed_precision=no",
    ]
    arguments = ["recover", folder / "small", "--teacher", folder / "bert", "--text", folder / "text.txt"]
    settings = [f"--set={n}={getattr(QUICK, n)}" for n in ("batch_size", "max_length", "held_out", "evaluate_every")]
    command = [
        *launch,
        "-m",
        "vocabpress.cli",
        *arguments,
        "-o",
        tmp_path / "out",
        "--steps",
        "12",
        *settings,
        "--json",
    ]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    reports = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(reports) == 1
    assert reports[0]["held_out_after"] < reports[0]["held_out_before"]
    assert (tmp_path / "out" / "model.safetensors").is_file()
