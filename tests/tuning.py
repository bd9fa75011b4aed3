"""What the tests of fine-tuning share: models, and data sets that a tiny model can learn."""

import gc
import json
import random

import pytest

from measuring import write_lines
from vocabpress import Budget, compress, make_method
from vocabpress.recover import loop as loop_module

NAMES = ("original", "svd", "svd int8")


@pytest.fixture(scope="module")
def little_garbage():
    """Accelerate collects garbage at the start of each training, and would search all that was imported each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def checkpoints(source, tmp_path_factory):
    """Folder of each of NAMES."""
    base = tmp_path_factory.mktemp("models")
    compress(source, base / "svd", method="svd", budget=Budget.ratio(2.5), measure=False)
    compress(source, base / "int8", method=make_method("svd", factors="int8"), budget=Budget.ratio(5), measure=False)
    return dict(zip(NAMES, (source, base / "svd", base / "int8"), strict=True))


def stopped_at_the_second_look(monkeypatch, run):
    """Run a recovery, and interrupt it when it looks at what is held out for the second time."""
    looks, look = [], loop_module.Training._save

    def stop(self, *arguments):
        looks.append(1)
        if len(looks) == 2:
            raise KeyboardInterrupt
        look(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop_module.Training, "_save", stop)
        with pytest.raises(KeyboardInterrupt):
            run()


def sentences(count, seed):
    """Words at random; the label says whether w7 is among them."""
    draw = random.Random(seed)
    for index in range(count):
        words = [f"w{draw.randrange(20, 60)}" for _ in range(draw.randrange(3, 7))]
        label = index % 2
        if label:
            words[draw.randrange(len(words))] = "w7"
        yield " ".join(words), label


@pytest.fixture(scope="session")
def labelled_data(tmp_path_factory):
    """SST-2 with an IMDb of the same words, and one SQuAD of each version, in their own layouts."""
    base = tmp_path_factory.mktemp("data")
    for split, count in (("train", 320), ("dev", 80)):
        rows = [f"{text}\t{label}" for text, label in sentences(count, split)]
        write_lines(base / "SST-2" / f"{split}.tsv", ["sentence\tlabel", *rows])
    for index, (text, label) in enumerate(sentences(20, "imdb")):
        write_lines(base / "aclImdb" / "test" / ("neg", "pos")[label] / f"{index}.txt", [text + "<br /><br />w20"])
    for version in ("1.1", "2.0"):
        for split, count in (("train", 200), ("dev", 40)):
            stored = {"version": version, "data": [squad_article(count, version, split)]}
            write_lines(base / "SQuAD" / f"{split}-v{version}.json", [json.dumps(stored)])
    return base


def squad_article(count, version, seed):
    """The answer is where w7 is; in version 2.0 every third paragraph has none."""
    paragraphs = []
    for index in range(count):
        none = version == "2.0" and index % 3 == 0
        text = next(text for text, label in sentences(2, f"{seed}{index}") if label == (not none))
        found = [] if none else [{"text": "w7", "answer_start": f"{text} ".index("w7 ")}]
        item = {"id": f"{seed}{index}", "question": "w3 w4", "answers": found, "is_impossible": none}
        paragraphs.append({"context": text, "qas": [item]})
    return {"title": str(seed), "paragraphs": paragraphs}
