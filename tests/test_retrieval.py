"""Questions that look for their paragraph, against the evaluator of sentence-transformers."""

import json
import random

import pytest
import torch
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

from command import run
from measuring import measured
from vocabpress.evaluate.retrieval import found_paragraphs
from vocabpress.evaluate.sentences import open_encoder

BOTH = {"query_prefix": "w3 w3 ", "passage_prefix": "w200 "}


def words(draw, count):
    return " ".join(f"w{draw.randrange(150)}" for _ in range(count))


def written(file, seed, paragraphs=9):
    """Questions with some words of their paragraph; the last paragraph twice, as XQuAD's articles repeat none."""
    draw, listed = random.Random(seed), []
    for _ in range(paragraphs):
        context = words(draw, 12)
        asked = [f"{words(draw, 3)} {context[: 3 * size]}".rpartition(" ")[0] for size in (1, 4)]
        items = [{"id": f"{len(listed)}-{i}", "question": text, "answers": []} for i, text in enumerate(asked)]
        listed.append({"context": context, "qas": items})
    file.parent.mkdir(parents=True, exist_ok=True)
    stored = {"data": [{"title": "a", "paragraphs": listed}, {"title": "b", "paragraphs": listed[-1:]}]}
    file.write_text(json.dumps(stored), encoding="utf-8")
    return listed + listed[-1:]


@pytest.fixture
def data(tmp_path):
    return tmp_path / "data"


def evaluator_scores(folder, paragraphs, query="", passage=""):
    """As sentence-transformers counts them; the prefixes are part of the texts."""
    contexts = list(dict.fromkeys(each["context"] for each in paragraphs))
    corpus = {str(row): passage + context for row, context in enumerate(contexts)}
    asked = [(item["question"], each["context"]) for each in paragraphs for item in each["qas"]]
    queries = {str(row): query + text for row, (text, _) in enumerate(asked)}
    relevant = {str(row): {str(contexts.index(context))} for row, (_, context) in enumerate(asked)}
    cuts = {"accuracy_at_k": [1], "mrr_at_k": [len(corpus)], "ndcg_at_k": [1], "precision_recall_at_k": [1]}
    evaluator = InformationRetrievalEvaluator(queries, corpus, relevant, map_at_k=[1], write_csv=False, **cuts)
    found = evaluator(open_encoder(folder))
    return 100 * found["cosine_accuracy@1"], 100 * found[f"cosine_mrr@{len(corpus)}"]


@pytest.mark.parametrize("settings", [{}, BOTH])
def test_scores_are_those_of_sentence_transformers(settings, masked, data):
    source, _ = masked
    files = {"en": "squad-xquad-en/xquad.en.json", "el": "xquad/el.json"}
    paragraphs = {language: written(data / file, language) for language, file in files.items()}
    found = measured("retrieval", source, settings=settings, data=data)
    for language in files:
        prefixes = settings and {"query": settings["query_prefix"], "passage": settings["passage_prefix"]}
        top1, mrr = evaluator_scores(source, paragraphs[language], **prefixes)
        assert found.metrics[f"top1_{language}"] == pytest.approx(top1)
        assert found.metrics[f"mrr_{language}"] == pytest.approx(mrr)
        assert 10 < top1 < mrr < 100  # neither chance nor perfect
        counts = found.details["files"][language]
        assert (counts["questions"], counts["paragraphs"]) == (20, 9)
    for name in ("top1", "mrr"):
        both = [found.metrics[f"{name}_{language}"] for language in files]
        assert found.metrics[name] == pytest.approx(sum(both) / 2)
    alone = measured("retrieval", source, settings={"languages": "el", **settings}, data=data)
    assert alone.metrics["top1"] == alone.metrics["top1_el"] == found.metrics["top1_el"]
    assert "top1_en" not in alone.metrics


def test_prompts_of_the_folder_are_taken_and_can_be_set(masked, data, tmp_path):
    source, _ = masked
    written(data / "xquad/en.json", "en")
    encoder = open_encoder(source)
    encoder.prompts = {"query": BOTH["query_prefix"], "passage": BOTH["passage_prefix"]}
    encoder.save_pretrained(str(tmp_path / "prompts"))

    def scores(folder, **settings):
        return measured("retrieval", folder, settings=settings, data=data)

    own = scores(tmp_path / "prompts")
    assert own.details["prefixes"] == {"query": "w3 w3 ", "passage": "w200 "}
    assert own == scores(source, **BOTH)
    none = scores(tmp_path / "prompts", query_prefix="", passage_prefix="")
    assert none == scores(source)
    assert none.metrics != own.metrics


class Equal:
    """An encoder that gives every text the same vector."""

    def encode(self, texts, **_):
        return torch.ones(len(texts), 4) / 2

    encode_query = encode_document = encode


def test_equal_vectors_find_nothing():
    questions = [{"question": "w1", "context": f"w{number}"} for number in range(5)]
    found = found_paragraphs(Equal(), questions, {"query": "", "passage": ""})
    assert (found["top1"], found["mrr"]) == (0, 20)


def test_files_that_do_not_fit(masked, data):
    source, _ = masked
    with pytest.raises(ValueError, match="needs squad-xquad-en; give the folder that holds it with --data"):
        measured("retrieval", source)
    data.mkdir()
    with pytest.raises(ValueError, match="has no squad-xquad-en and no xquad; give the folder"):
        measured("retrieval", source, data=data)
    (data / "xquad").mkdir()
    with pytest.raises(ValueError, match=r"no squad-xquad-en/\*.json and no xquad/\*.json; put files in SQuAD's"):
        measured("retrieval", source, data=data)
    written(data / "xquad/xquad.en.json", "en")
    with pytest.raises(ValueError, match="no questions in 'fr'; choose languages from en"):
        measured("retrieval", source, settings={"languages": "en,fr"}, data=data)
    written(data / "squad-xquad-en/xquad.en.json", "en")
    with pytest.raises(ValueError, match="are of one language, en; remove one"):
        measured("retrieval", source, data=data)
    (data / "xquad/xquad.en.json").rename(data / "xquad/el.json").write_text("[1, 2]", encoding="utf-8")
    with pytest.raises(ValueError, match=r"el.json is not in SQuAD's layout"):
        measured("retrieval", source, data=data)


def test_the_command_keeps_the_blank_at_the_end_of_a_prefix(masked, data, capsys):
    source, small = masked
    written(data / "xquad/el.json", "el")
    arguments = ("--task", "retrieval", "--data", data, "--set", "query_prefix= w3 ", "--set", "passage_prefix=w4 ")
    code, out, err = run(capsys, "evaluate", small, "--against", source, *arguments, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["results"][0]["settings"]["task"]["query_prefix"] == "w3 "
    assert found["results"][0]["details"]["prefixes"] == {"query": "w3 ", "passage": "w4 "}
    assert found["original"][0]["metrics"].keys() == found["results"][0]["metrics"].keys()
    assert "top 1, el" in err.replace("\u00a0", " ")
