"""Gates: the mask and its gradient by hand, that learning moves what it should, and the file that compress reads."""

import json

import pytest
import torch
from torch import nn

import tiny
from command import run
from measuring import save_maskable
from vocabpress import Budget, Calibration, DiscBlock
from vocabpress.calibrate import GateSettings, calibrate, gates as gates_module
from vocabpress.calibrate.counts import tfidf
from vocabpress.calibrate.gated import Gated
from vocabpress.calibrate.gates import Learning
from vocabpress.evaluate import evaluate
from vocabpress.evaluate.finetuned.glue import Glue
from vocabpress.hf.checkpoint import open_model, open_tokenizer
from vocabpress.recover.lesson import Source, read_lesson
from vocabpress.recover.loop import Progress, make_accelerator
from vocabpress.recover.settings import Recovery
from vocabpress.texts import read_lines

QUICK = GateSettings(epochs=3, batch_size=8, max_length=16, held_out=8)


def gated(gates, width=8, layers=3, temperature=1.0):
    embedding = nn.Embedding.from_pretrained(torch.randn(len(gates), width))
    return Gated(embedding, torch.tensor(gates), layers, temperature, torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("gates")
    generator = torch.Generator().manual_seed(2)
    # Few words are in most lines: their rows matter, the others' hardly.
    ids = (torch.rand(160, 9, generator=generator) ** 4 * (tiny.VOCAB - 2)).long().tolist()
    (place / "text.txt").write_text("\n".join(" ".join(f"w{i}" for i in row) for row in ids), encoding="utf-8")
    for name in ("bert", "gpt2", "t5", "bart, scaled", "gemma3, scaled"):
        tiny.save(name, place / name)
        model = open_model(place / name)
        model.get_input_embeddings().weight.data.mul_(30)  # as large as what the model adds to it
        model.save_pretrained(place / name)
    return place


def test_the_mask_by_hand():
    module = gated([0.5, 0.26, 1.0, 0.001])
    mask = module.mask(torch.tensor([[0, 1], [2, 3]]))
    # Coordinates j < 8 g: 4 of them; 2.08, so 0, 1 and 2; all; 0.008, so the first.
    assert mask.shape == (2, 2, 8)
    assert mask.sum(-1).tolist() == [[4, 3], [8, 1]]
    assert mask[0, 1].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    # The gradient of each coordinate of the mask with respect to the gate is d.
    weights = torch.arange(1.0, 9)
    (module.mask(torch.tensor([1, 1])) * weights).sum().backward()
    assert module.gates.grad.tolist() == [0, 2 * 8 * 36, 0, 0]


def test_at_the_start_the_layers_change_nothing_but_the_mask():
    module = gated([0.5, 0.26, 1.0, 0.001])
    ids = torch.tensor([[0, 1, 2], [3, 2, 1]])
    torch.testing.assert_close(module.gated(ids), module.original(ids) * module.mask(ids))
    assert torch.equal(module(ids), module.original(ids))
    with module.reading(module.gated):
        assert not torch.equal(module(ids), module.original(ids))
    assert torch.equal(module(ids), module.original(ids))


def test_the_selector_picks_one_layer_for_each_token():
    module = gated([1.0] * 5, layers=4)
    module.layers.data.copy_(torch.stack([torch.eye(8) * factor for factor in (1.0, 2.0, 3.0, 4.0)]))
    ids = torch.arange(5).repeat(400)
    factors = (module.gated(ids) / module.original(ids)).mean(-1)
    assert torch.equal(factors.round(), factors.round().clamp(1, 4))
    torch.testing.assert_close(factors, factors.round())
    # Scores start equal, so each layer is as likely: 500 of 2,000 each, with a deviation of 19.
    assert all(400 < int((factors.round() == layer).sum()) < 600 for layer in range(1, 5))
    module.bias.data[2] = 100.0
    torch.testing.assert_close(module.gated(ids), 3 * module.original(ids))
    module.bias.data.zero_()
    module.gated(ids).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in module.parameters(recurse=False))
    assert module.original.weight.grad is None


def gates_of(folder, settings=QUICK, model="bert", **options):
    arguments = {"text": [folder / "text.txt"], "budget": Budget.ratio(4), "gates": settings, **options}
    return calibrate(folder / model, weights_from="gates", **arguments)


def test_the_best_epoch_is_taken_and_is_no_worse_than_tfidf(folder, tmp_path):
    known = gates_of(folder)
    known.save(tmp_path / "g")
    assert Calibration.load(tmp_path / "g").losses == known.losses
    assert (known.source, known.texts, known.tokens) == ("gates", ("text.txt",), int(known.counts.sum()))
    gates = known.weights
    assert len(known.losses) == 1 + QUICK.epochs
    assert known.metric is None
    assert 0.001 <= float(gates.min()) < float(gates.max()) <= 1
    assert gates_of(folder).losses == known.losses
    # What was judged is the table that compress makes of the file.
    table = open_model(folder / "bert").get_input_embeddings().weight.detach()
    made = DiscBlock().fit(table, budget=Budget.ratio(4), token_weights=gates)
    learning = learning_of(folder, gates)
    assert learning.judge() == pytest.approx(min(known.losses), rel=1e-5)
    assert made.total_bits() <= Budget.ratio(4).max_bits(tiny.VOCAB, 32)


def learning_of(folder, gates, settings=QUICK):
    """A run that has not begun."""
    model, tokenizer = open_model(folder / "bert"), open_tokenizer(folder / "bert")
    reading = Recovery(batch_size=settings.batch_size, max_length=settings.max_length, held_out=settings.held_out)
    lesson = read_lesson(Source([folder / "text.txt"]), model, tokenizer, reading, 0, False)
    return Learning(model, gates, lesson, settings, Budget.ratio(4), 0, make_accelerator("cpu"))


def test_gates_go_to_the_sparsity_where_text_does_not_hold_them(folder):
    learning = learning_of(folder, torch.full((tiny.VOCAB,), 0.5), GateSettings(epochs=8, batch_size=8, held_out=8))
    before = {name: tensor.clone() for name, tensor in learning.model.state_dict().items() if "gat" not in name}
    learning.learn(progress=False)
    gates, seen = learning.gated.gates.detach(), torch.zeros(tiny.VOCAB)
    for example in learning.lesson.sequences.training:
        seen[example["input_ids"]] += 1
    assert float((gates[seen == 0] - 0.05).abs().max()) < 0.02
    assert float(gates[seen.topk(5).indices].mean()) > float(gates[seen == 0].mean())
    after = learning.model.state_dict()
    frozen = [name for name in before if "word_embeddings" not in name or "original" in name]
    assert len(frozen) > 20
    assert all(torch.equal(before[name], after[name]) for name in frozen)


def test_without_sparsity_gates_open_where_the_model_needs_them(folder):
    settings = GateSettings(epochs=8, batch_size=8, held_out=8, sparsity_weight=0.0)
    start = torch.full((tiny.VOCAB,), 0.3)
    learning = learning_of(folder, start, settings)
    learning.learn(progress=False)
    gates, seen = learning.gated.gates.detach(), torch.zeros(tiny.VOCAB)
    for example in learning.lesson.sequences.training:
        seen[example["input_ids"]] += 1
    torch.testing.assert_close(gates[seen == 0], start[seen == 0])
    assert float(gates[seen.topk(5).indices].mean()) > 0.4


@pytest.mark.parametrize("name", ["gpt2", "t5", "bart, scaled", "gemma3, scaled"])
def test_every_kind_of_model(name, folder):
    losses = gates_of(folder, GateSettings(epochs=1, max_length=16), model=name).losses
    assert len(losses) == 2
    assert all(0 < error < 2 for error in losses)


def test_the_command_line_and_its_file_in_compress(folder, tmp_path, capsys):
    common = (
        "calibrate",
        folder / "bert",
        "--weights-from",
        "gates",
        "--text",
        folder / "text.txt",
        "-o",
        tmp_path / "g",
    )
    code, out, err = run(capsys, *common, "--ratio", "4", "--set", "epochs=1", "--set", "batch_size=8", "--json")
    assert code == 0, err
    report = json.loads(out.splitlines()[-1])
    assert (report["output"], len(report["losses"]), report["source"]) == (str(tmp_path / "g"), 2, "gates")
    assert "TF-IDF" in err
    options = (
        "-o",
        tmp_path / "out",
        "--method",
        "discblock",
        "--ratio",
        "4",
        "--calibration",
        tmp_path / "g",
        "--json",
    )
    code, out, err = run(capsys, "compress", folder / "bert", *options)
    assert code == 0, err
    assert json.loads(out.splitlines()[-1])["weighted_by"] == "gates"


def test_the_start_is_tfidf_over_its_largest(folder, monkeypatch):
    started = []
    monkeypatch.setattr(
        gates_module.Training, "train", lambda self, loss: started.append(self.model) or Progress(losses=[loss])
    )
    found = gates_of(folder)
    scores = tfidf(read_lines([folder / "text.txt"]), open_tokenizer(folder / "bert"), tiny.VOCAB)
    expected = (scores / scores.max()).clamp(min=0.001)
    torch.testing.assert_close(started[0].get_input_embeddings().gates.detach(), expected)
    torch.testing.assert_close(found.weights, expected)


def test_on_a_task_the_gate_of_the_word_that_decides_it_opens(labelled_data, tmp_path, capsys):
    save_maskable(tmp_path / "bert")
    tuned = Glue("sst2", epochs=6, batch_size=16, learning_rate=3e-3, max_length=16)
    evaluate(tmp_path / "bert", {"sst2": tuned}, data=labelled_data, keep=tmp_path / "tuned")
    model = tmp_path / "tuned" / "sst2-seed0"
    options = ("--task", "sst2", "--data", labelled_data, "--ratio", "4", "--set", "epochs=1", "--max-length", "16")
    code, out, err = run(
        capsys, "calibrate", model, "--weights-from", "gates", "-o", tmp_path / "g", *options, "--json"
    )
    assert code == 0, err
    report = json.loads(out.splitlines()[-1])
    assert (report["source"], report["texts"], len(report["losses"])) == ("gates", ["sst2"], 2)
    assert "held-out loss" in err
    # Whether w7 is in a sentence is its label; w20 to w59 tell nothing. Without sparsity, all start alike.
    settings = GateSettings(epochs=4, batch_size=16, sparsity_weight=0.0, clip=5.0)
    reading, source = Recovery(max_length=16, held_out=32), Source((), "sst2", labelled_data)
    opened, tokenizer = gates_module._open(model, source, settings)
    lesson = read_lesson(source, opened, tokenizer, reading, 0, False)
    assert (len(lesson.sequences.training), len(lesson.sequences.held_out)) == (288, 32)
    start = torch.full((len(tokenizer),), 0.3)
    learning = Learning(opened, start, lesson, settings, Budget.ratio(4), 0, make_accelerator("cpu"))
    learning.learn(progress=False)
    decides, *others = tokenizer.convert_tokens_to_ids(["w7", *(f"w{i}" for i in range(20, 60))])
    learned = learning.gated.gates.detach()
    assert float(learned[decides]) > 0.4
    assert float(learned[decides]) > float(learned[others].max())


def test_a_language_models_own_loss(folder, tmp_path):
    model = save_maskable(tmp_path / "bert")
    settings = GateSettings(epochs=1, batch_size=8, max_length=16, held_out=8, language_model=True)
    text, budget = [folder / "text.txt"], Budget.ratio(1.2)  # at which a table is all but exact
    found = calibrate(model, weights_from="gates", text=text, gates=settings, budget=budget)
    opened, tokenizer = gates_module._open(model, Source(text), settings)
    reading = Recovery(max_length=16, held_out=8, language_model=True)
    sequences = read_lesson(Source(text), opened, tokenizer, reading, 0, False).sequences
    loss = opened(**sequences.collate(sequences.held_out)).loss.item()
    assert found.losses == pytest.approx([loss, loss], rel=0.01)


BAD = {
    "epochs": ({"epochs": 0}, "epochs should be greater than or equal to 1, got 0"),
    "rate": ({"learning_rate": 0.0}, "learning_rate should be greater than 0, got 0.0"),
    "sparsity": ({"sparsity": 1.5}, "sparsity should be less than or equal to 1, got 1.5"),
    "factors": ({"factors": "int3"}, "factors should be 'float16', 'int8' or 'int4', got 'int3'"),
    "blocks": ({"blocks": 0}, "blocks should be greater than or equal to 1, got 0"),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_settings_are_refused(bad):
    settings, words = BAD[bad]
    with pytest.raises(ValueError, match=words):
        GateSettings(**settings)


def test_bad_input_is_refused_before_anything_is_written(folder, tmp_path, capsys):
    ours = tmp_path / "small"
    assert run(capsys, "compress", folder / "bert", "-o", ours, "--method", "svd", "--ratio", "6")[0] == 0
    text, output = ("--text", folder / "text.txt"), ("-o", tmp_path / "g")
    for arguments, words in (
        ((folder / "bert", *text, "-o", tmp_path), "it is a folder, or in none"),
        ((folder / "bert", *text, "-o", tmp_path / "no" / "g"), "it is a folder, or in none"),
        ((ours, *text, *output), "compressed already; start from the original"),
        ((folder / "bert", "--text", folder / "none", *output), "no such text file"),
        ((folder / "bert", *output), "give one of --text and --task"),
        ((folder / "bert", "--task", "sst2", *output), "sst2 needs a sequence classifier with 2; vocabpress evaluate"),
        ((folder / "bert", *text, *output, "--set", "language_model=true"), "is no masked or causal language model"),
        ((folder / "bert", *text, *output, "--ratio", "500"), "the least that DiscBlock can store"),
        ((folder / "bert", *text, *output, "--ratio", "0.5"), "a ratio is at least 1"),
        ((folder / "bert", *text, *output, "--set", "rounds=3"), "gates has no field 'rounds'; it has batch_size"),
        ((folder / "bert", *text, *output, "--device", "cuda:77"), "can't use the device"),
    ):
        code, out, err = run(capsys, "calibrate", "--weights-from", "gates", *arguments)
        assert (code, out) == (2, ""), err
        assert words in err
        assert err.strip().splitlines()[-1].startswith("vocabpress: error: ")
    assert not (tmp_path / "g").exists()
