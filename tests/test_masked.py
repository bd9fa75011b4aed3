"""Perplexity of masked words, against brute force."""

import math
import random

import pytest
import torch
from transformers import AutoModelForMaskedLM, PreTrainedTokenizerFast

import tiny
from measuring import LONG_LINES, MASK, measured, untied
from vocabpress.evaluate import make_task
from vocabpress.evaluate.language import longest_input
from vocabpress.evaluate.masked import choose_places, long_lines, mask_lines, unmasked


def masked_loss(model, lines):
    """Mean loss of masked tokens, one line after another, no head skipped."""
    losses = []
    for line in lines:
        with torch.no_grad():
            logs = model(torch.tensor([line.inputs])).logits[0].log_softmax(-1)
        losses += [-float(logs[place, token]) for place, token in zip(line.places, line.targets, strict=True)]
    return sum(losses) / len(losses), len(losses)


def test_masked_perplexity_by_brute_force(masked, long_text):
    source, small = masked
    settings = {"min_tokens": 10, "block": 20, "batch_size": 5}
    found = measured("mlm", small, source, settings, text=[long_text], seed=3)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(source)
    long = [line for line in LONG_LINES if len(line.split()) >= 10]
    lines = mask_lines(long, tokenizer, tiny.VOCAB, 20, 0.15, 3)
    assert max(len(line.inputs) for line in lines) == 20
    models = {
        "perplexity_head_compressed": AutoModelForMaskedLM.from_pretrained(small).eval(),
        "perplexity_head_original": untied(small, source, AutoModelForMaskedLM),
        "perplexity_original": AutoModelForMaskedLM.from_pretrained(source).eval(),
    }
    values = []
    for name, model in models.items():
        loss, count = masked_loss(model, lines)
        assert found.metrics[name] == pytest.approx(math.exp(loss), rel=1e-4)
        assert found.metrics["tokens_masked"] == count
        values.append(loss)
    assert len({round(value, 3) for value in values}) == 3
    deciles = found.details["nll_deciles"]
    assert len(deciles) == 10
    assert sum(tenth["tokens"] for tenth in deciles) == count
    for key, value in zip(("nll", "nll_head_original", "nll_original"), values, strict=True):
        total = sum(tenth["tokens"] * (tenth[key] or 0) for tenth in deciles)
        assert total / count == pytest.approx(value, rel=1e-4)
    assert deciles[-1] == dict.fromkeys(deciles[0]) | {"tokens": 0}
    after, before = (
        torch.cat([tiny.logits(model, torch.tensor([line.inputs]))[0, line.places] for line in lines]).log_softmax(-1)
        for model in (models["perplexity_head_compressed"], models["perplexity_original"])
    )
    kl = torch.nn.functional.kl_div(after, before, log_target=True, reduction="batchmean")
    assert found.metrics["kl"] == pytest.approx(float(kl), rel=1e-4)
    assert found.metrics["top1_agreement"] == pytest.approx(float((after.argmax(1) == before.argmax(1)).float().mean()))


def test_the_masking_depends_on_the_seed_alone(masked, long_text):
    source, _ = masked
    first, same, other = (
        measured("mlm", source, settings={"min_tokens": 5, "batch_size": size}, text=[long_text], seed=seed).metrics
        for size, seed in ((1, 0), (7, 0), (7, 1))
    )
    assert same == pytest.approx(first, rel=1e-5)
    assert other["perplexity_head_compressed"] != pytest.approx(first["perplexity_head_compressed"], rel=1e-3)


def test_a_model_compared_with_itself_has_one_perplexity(masked, long_text):
    source, _ = masked
    metrics = measured("mlm", source, source, {"min_tokens": 5}, text=[long_text]).metrics
    assert len({metrics[f"perplexity_{key}"] for key in ("head_compressed", "head_original", "original")}) == 1


def test_lines_without_equals_signs_of_enough_words():
    lines = ["= = A heading = =", "one two three four", "= one two = three", "a=b is kept here"]
    assert long_lines(lines, 4) == ["one two three four", "a=b is kept here"]
    assert long_lines(lines, 3)[1] == "one two three"


def test_whole_words_are_masked_up_to_the_share():
    words = [None, 0, 0, 0, 1, 2, 2, 3, 4, 5, 5, 6, 7, 8, 8, 9, 9, 9, 10, 11, None]  # 19 tokens of 12 words
    share, sizes = 0.2, set()
    seen = [0] * len(words)
    for seed in range(400):
        places = choose_places(words, share, random.Random(seed))
        chosen = {words[place] for place in places}
        assert places == [place for place, word in enumerate(words) if word is not None and word in chosen]
        sizes.add(len(places))
        for place in places:
            seen[place] += 1
    assert sizes == {4}  # round(0.2 * 19), which small words always fill up
    assert seen[0] == seen[-1] == 0
    assert min(seen[1:-1]) > 30
    assert choose_places([None, 0, 0, 0, None], 0.15, random.Random(0)) == []  # its one word would be too much


def test_masked_tokens_become_the_mask_or_a_random_token_or_stay(masked):
    source, _ = masked
    tokenizer = PreTrainedTokenizerFast.from_pretrained(source)
    lines = mask_lines([" ".join(["w7"] * 100)] * 200, tokenizer, 50, 512, 0.15, 0)
    became = [line.inputs[place] for line in lines for place in line.places]
    assert len(became) == 3000
    assert became.count(MASK) / 3000 == pytest.approx(0.8, abs=0.03)
    assert became.count(7) / 3000 == pytest.approx(0.1 + 0.1 / 50, abs=0.02)
    assert max(token for token in became if token != MASK) < 50
    for line in lines:
        assert all(line.inputs[i] == 7 for i in range(100) if i not in line.places)
    assert unmasked(mask_lines(["w7 w8"], tokenizer, 50, 512, 0.15, 0)[0]) == [7, 8]


def test_positions_that_count_from_the_padding_row(tmp_path):
    roberta = tiny.make("roberta")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny.save("roberta", tmp_path / "model"))
    length = longest_input(roberta, tokenizer, 10**6)
    assert length == 510
    tiny.logits(roberta, torch.full((1, length), 7))
    with pytest.raises((IndexError, RuntimeError), match=r"out of (range|bounds)"):
        tiny.logits(roberta, torch.full((1, length + 1), 7))
    assert longest_input(roberta, tokenizer, 100) == 100
    assert longest_input(tiny.make("bert"), tokenizer, 10**6) == 512


def test_masked_text_and_tokenizers_that_do_not_fit(masked, long_text, tmp_path):
    source, _ = masked
    with pytest.raises(ValueError, match="no line of the text has 500 words"):
        measured("mlm", source, settings={"min_tokens": 500}, text=[long_text])
    plain = tiny.save("bert", tmp_path / "plain")
    with pytest.raises(ValueError, match="no mask token"):
        measured("mlm", plain, settings={"min_tokens": 5}, text=[long_text])
    causal = tiny.save("gpt2", tmp_path / "gpt2")
    with pytest.raises(ValueError, match="is a GPT2LMHeadModel, a causal language model; measure it with --task clm"):
        measured("mlm", causal, settings={"min_tokens": 5}, text=[long_text])
    with pytest.raises(ValueError, match="mask_probability should be less than 1"):
        make_task("mlm", mask_probability="1.5")
