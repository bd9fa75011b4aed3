"""Speed and answers of causal models: what is timed and what is generated, never how long it took."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import tiny
from command import run
from measuring import measured, pair
from vocabpress.embeddings.caching import HotRows, Reader, Resident
from vocabpress.evaluate import generation, make_task
from vocabpress.evaluate.generation import PROMPTS
from vocabpress.evaluate.speed import in_turn
from vocabpress.hf.modules import TokenEmbedding

QUICK = {"prompt_tokens": 9, "new_tokens": 5, "repeats": 2, "answer_tokens": 6}
TEMPLATE = "w1 w2 {% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %} w3{% endif %}"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return pair("llama", tmp_path_factory.mktemp("models"))


def greedy(folder, ids, count):
    """Token by token, without a cache; stops at the end token, which is not decoded."""
    model, new = AutoModelForCausalLM.from_pretrained(folder).eval(), []
    while len(new) < count and 1 not in new:
        new.append(int(tiny.logits(model, torch.tensor([[*ids, *new]]))[0, -1].argmax()))
    return new


@pytest.mark.parametrize("template", [None, TEMPLATE])
def test_answers_are_greedy(template, models, tmp_path):
    source, small = models
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.chat_template = template
    (tmp_path / "small").symlink_to(small) if template is None else copy_with(tokenizer, small, tmp_path / "small")
    found = measured("generation", tmp_path / "small", source, QUICK)
    shown = found.details["answers"]
    assert [each["prompt"] for each in shown] == list(PROMPTS)
    for each in shown[:3]:
        ids = tokenizer(f"w1 w2 {each['prompt']} w3" if template else each["prompt"])["input_ids"]
        for name, folder in (("answer", small), ("original", source)):
            assert each[name] == tokenizer.decode(greedy(folder, ids, 6), skip_special_tokens=True).strip()
    same = [each["answer"] == each["original"] for each in shown]
    assert found.metrics["same_answers"] == sum(same) / 10


def copy_with(tokenizer, folder, target):
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(target)
    tokenizer.save_pretrained(target)


def test_speeds_are_of_the_tokens_asked_for(models, monkeypatch):
    source, small = models
    asked, plain = [], generation.generate

    def generate(model, ids, new_tokens, **options):
        found = plain(model, ids, new_tokens, **options)
        if "streamer" in options:
            compressed = isinstance(model.get_input_embeddings(), TokenEmbedding)
            asked.append((compressed, len(ids), len(found) - len(ids), len(options["streamer"].times)))
        return found

    monkeypatch.setattr(generation, "generate", generate)
    alone = measured("generation", small, settings={**QUICK, "answer_tokens": 0})
    assert alone.metrics.keys() == {"prompt_tokens_per_second", "tokens_per_second"}
    assert alone.details == {"answers": []}
    assert asked == [(True, 9, 5, 6)] * 3  # a warm-up and two repeats; the prompt arrives, too
    asked.clear()
    both = measured("generation", small, source, QUICK)
    assert [compressed for compressed, *_ in asked] == [True, False] * 3
    names = {f"{name}{ending}" for name in alone.metrics for ending in ("", "_original")}
    assert both.metrics.keys() == names | {"same_answers"}
    assert all(both.metrics[name] > 0 for name in names)


def test_rates_by_hand(models, monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(generation.time, "perf_counter", lambda: 0.5 * next(clock))
    found = measured("generation", models[0], settings={**QUICK, "answer_tokens": 0})
    # The clock is read at the start, for the prompt, and for each token: 1 s to the first, 4 x 0.5 s to the last.
    assert found.metrics == {"prompt_tokens_per_second": 9, "tokens_per_second": 2}


@pytest.mark.parametrize(
    ("settings", "reader", "dtype"),
    [
        ({}, Reader, torch.float32),
        ({"hot_rows": "4kB"}, HotRows, torch.float32),
        ({"resident": "dense", "dtype": "bfloat16"}, Resident, torch.bfloat16),
    ],
)
def test_how_tables_are_read_can_be_chosen(settings, reader, dtype, models, monkeypatch):
    source, small = models
    seen, plain = [], generation.seconds

    def seconds(model, *arguments):
        seen.append(model)
        return plain(model, *arguments)

    monkeypatch.setattr(generation, "seconds", seconds)
    measured("generation", small, source, {**QUICK, "repeats": 1, "answer_tokens": 0, **settings})
    assert type(seen[0].get_input_embeddings().reader) is reader
    assert type(seen[1].get_input_embeddings()) is torch.nn.Embedding
    assert {model.dtype for model in seen} == {dtype}


def test_calls_take_turns():
    calls = []

    def call(name):
        return lambda: calls.append(name) or len(calls)

    assert in_turn([call("a"), call("b")], 2) == [[3, 5], [4, 6]]
    assert "".join(calls) == "ababab"


def test_what_does_not_fit(models, masked, tmp_path):
    for settings, words in (
        ({"hot_rows": "1kB", "resident": "dense"}, "hot_rows keeps some decoded; give one of them"),
        ({"hot_rows": "many"}, "many"),
        ({"resident": "sparse"}, "resident should be 'dense' or 'codes', got 'sparse'"),
        ({"new_tokens": 1}, "new_tokens should be greater than or equal to 2"),
        ({"repeats": 0}, "repeats should be greater than or equal to 1"),
        ({"dtype": "int8"}, "dtype should be 'auto', 'float32'"),
    ):
        with pytest.raises(ValueError, match=words):
            make_task("generation", **settings)
    with pytest.raises(ValueError, match="prompt and answer have 3005 tokens, the model reads 2048; lower them"):
        measured("generation", models[0], settings={**QUICK, "prompt_tokens": 3000})
    small_table = AutoModelForCausalLM.from_pretrained(models[0])
    small_table.resize_token_embeddings(40)
    small_table.save_pretrained(tmp_path / "other")
    with pytest.raises(
        ValueError, match=f"the model has {tiny.VOCAB} tokens, the original 40; give what the model was"
    ):
        measured("generation", models[0], tmp_path / "other", QUICK)
    with pytest.raises(ValueError, match="is a BertForMaskedLM, a masked language model; measure it with --task mlm"):
        measured("generation", masked[0], settings=QUICK)


def test_the_command_shows_answers(models, capsys):
    source, small = models
    settings = [part for name, value in QUICK.items() for part in ("--set", f"{name}={value}")]
    code, out, err = run(capsys, "evaluate", small, "--against", source, "--task", "generation", *settings, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["original"] == []  # it was timed with the model
    assert len(found["results"][0]["details"]["answers"]) == len(PROMPTS)
    assert ["prompt", "answer", "original"] in [line.split() for line in err.splitlines()]
    assert PROMPTS[0] in err
    assert "tokens a second, original" in err
