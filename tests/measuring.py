"""What the tests of tasks share: texts, and tiny models to measure."""

import random

import pytest
import torch
from transformers import PreTrainedTokenizerFast

import tiny
from vocabpress import Budget, compress
from vocabpress.evaluate import Subject, make_task

LINES = [" ".join(f"w{(7 * i + i * j) % 150}" for j in range(3 + i % 9)) for i in range(40)]
DRAW = random.Random(5)
LONG_LINES = [" ".join(f"w{int(150 * DRAW.random() ** 2)}" for _ in range(DRAW.randrange(5, 30))) for _ in range(24)]
MASK = 205


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    return write_lines(tmp_path_factory.mktemp("text") / "text.txt", LINES)


@pytest.fixture(scope="session")
def long_text(tmp_path_factory):
    """Longer lines than those of `text`, of words as uneven in frequency as those of a language."""
    return write_lines(tmp_path_factory.mktemp("text") / "text.txt", LONG_LINES)


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    return tiny.save("bert", tmp_path_factory.mktemp("models") / "source")


@pytest.fixture(scope="session")
def small(source, text, tmp_path_factory):
    """A compressed copy, and the report of its making."""
    folder = tmp_path_factory.mktemp("models") / "small"
    return folder, compress(source, folder, method="svd", budget=Budget.ratio(6), text=[text], measure=False)


@pytest.fixture(scope="session")
def masked(tmp_path_factory):
    """A model that can mask, and its compressed copy."""
    return pair("bert", tmp_path_factory.mktemp("masked"))


def save_maskable(folder, name="bert"):
    """A tiny model whose tokenizer can mask and pad, its table twenty times as large so that the logits differ."""
    tiny.save(name, folder)
    model = tiny.make(name)
    model.get_input_embeddings().weight.data *= 20
    model.save_pretrained(folder)
    file = str(folder / "tokenizer.json")
    names = {"unk_token": "[UNK]", "mask_token": f"w{MASK}", "pad_token": "w209"}
    PreTrainedTokenizerFast(tokenizer_file=file, **names).save_pretrained(folder)
    return folder


def pair(name, base):
    """A tiny model and its compressed copy."""
    source = save_maskable(base / "source", name)
    compress(source, base / "small", method="svd", budget=Budget.ratio(6), measure=False)
    return source, base / "small"


def measured(name, folder, against=None, settings=None, **subject):
    return make_task(name, **(settings or {})).measure(Subject(folder, against, **subject))


def untied(folder, source, loader):
    """The compressed model in ordinary modules, its head with the original's table."""
    model = loader.from_pretrained(folder).eval()
    model.dequantize()
    head = model.get_output_embeddings()
    other = torch.nn.Linear(head.in_features, head.out_features, bias=head.bias is not None)
    other.weight = torch.nn.Parameter(loader.from_pretrained(source).get_input_embeddings().weight.detach().clone())
    if head.bias is not None:
        other.bias = head.bias
    model.set_output_embeddings(other)
    return model


def write_lines(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path
