"""Perplexities and rank correlations against brute force."""

import math
import random

import pytest
import scipy.stats
import torch
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedTokenizerFast

import tiny
from vocabpress import Budget, compress
from vocabpress.evaluate import Subject, make_task
from vocabpress.evaluate.causal import cut, first_token
from vocabpress.evaluate.language import longest_input
from vocabpress.evaluate.masked import choose_places, kept_lines, mask_lines
from vocabpress.evaluate.pairs import SEMEVAL, STSB, WORDS, read_pairs
from vocabpress.evaluate.sentences import spearman
from vocabpress.evaluate.table import open_table
from vocabpress.hf.modules import TiedHead

DRAW = random.Random(5)
LINES = [" ".join(f"w{int(150 * DRAW.random() ** 2)}" for _ in range(DRAW.randrange(5, 30))) for _ in range(24)]
MASK = 205


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


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return file


def pair(name, base):
    """A tiny model and its compressed copy."""
    source = save_maskable(base / "source", name)
    compress(source, base / "pressed", method="svd", budget=Budget.ratio(6))
    return source, base / "pressed"


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    return pair("bert", tmp_path_factory.mktemp("masked"))


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


def quiet(model):
    """All logits 0."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embedding" in name or "wte" in name or name.endswith("predictions.bias") or "decoder" in name:
                parameter.zero_()
    return model


# --- masked ---


def masked_loss(model, lines):
    """Mean loss of masked tokens, one line after another, no head skipped."""
    losses = []
    for line in lines:
        with torch.no_grad():
            logs = model(torch.tensor([line.inputs])).logits[0].log_softmax(-1)
        losses += [-float(logs[place, line.ids[place]]) for place in line.places]
    return sum(losses) / len(losses), len(losses)


def test_masked_perplexity_by_brute_force(masked, text):
    source, pressed = masked
    settings = {"min_tokens": 10, "block": 20, "batch_size": 5}
    found = measured("mlm", pressed, source, settings, text=[text], seed=3)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(source)
    kept = [line for line in LINES if len(line.split()) >= 10]
    lines = mask_lines(kept, tokenizer, tiny.VOCAB, 20, 0.15, 3)
    assert max(len(line.ids) for line in lines) == 20
    models = {
        "perplexity_head_compressed": AutoModelForMaskedLM.from_pretrained(pressed).eval(),
        "perplexity_head_original": untied(pressed, source, AutoModelForMaskedLM),
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
    assert deciles[-1] == {"tokens": 0, "nll": None, "nll_original": None, "nll_head_original": None}


def test_the_masking_depends_on_the_seed_alone(masked, text):
    source, _ = masked
    first, same, other = (
        measured("mlm", source, settings={"min_tokens": 5, "batch_size": size}, text=[text], seed=seed).metrics
        for size, seed in ((1, 0), (7, 0), (7, 1))
    )
    assert same == pytest.approx(first, rel=1e-5)
    assert other["perplexity_head_compressed"] != pytest.approx(first["perplexity_head_compressed"], rel=1e-3)


def test_a_model_compared_with_itself_has_one_perplexity(masked, text):
    source, _ = masked
    metrics = measured("mlm", source, source, {"min_tokens": 5}, text=[text]).metrics
    assert len({metrics[f"perplexity_{key}"] for key in ("head_compressed", "head_original", "original")}) == 1


def test_uniform_logits_have_the_perplexity_of_the_vocabulary(tmp_path, text):
    source = save_maskable(tmp_path / "bert")
    quiet(tiny.make("bert")).save_pretrained(source)
    metrics = measured("mlm", source, settings={"min_tokens": 5}, text=[text]).metrics
    assert metrics["perplexity_head_compressed"] == pytest.approx(tiny.VOCAB, rel=1e-5)
    other = tiny.save("gpt2", tmp_path / "gpt2")
    quiet(tiny.make("gpt2")).save_pretrained(other)
    metrics = measured("clm", other, text=[text]).metrics
    assert metrics["perplexity"] == pytest.approx(tiny.VOCAB, rel=1e-5)
    size = len("\n".join(LINES))
    assert metrics["bits_per_byte"] == pytest.approx(metrics["tokens"] * math.log2(tiny.VOCAB) / size, rel=1e-5)
    assert metrics["nll_per_token"] == pytest.approx(math.log(tiny.VOCAB), rel=1e-5)


def test_lines_without_equals_signs_of_enough_words():
    lines = ["= = A heading = =", "one two three four", "= one two = three", "a=b is kept here"]
    assert kept_lines(lines, 4) == ["one two three four", "a=b is kept here"]
    assert kept_lines(lines, 3)[1] == "one two three"


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
    assert mask_lines(["w7 w8"], tokenizer, 50, 512, 0.15, 0)[0].ids == [7, 8]


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


def test_masked_text_and_tokenizers_that_do_not_fit(masked, text, tmp_path):
    source, _ = masked
    with pytest.raises(ValueError, match="no line of the text has 500 words"):
        measured("mlm", source, settings={"min_tokens": 500}, text=[text])
    plain = tiny.save("bert", tmp_path / "plain")
    with pytest.raises(ValueError, match="no mask token"):
        measured("mlm", plain, settings={"min_tokens": 5}, text=[text])
    causal = tiny.save("gpt2", tmp_path / "gpt2")
    with pytest.raises(ValueError, match="is a GPT2LMHeadModel, a causal language model; measure it with --task clm"):
        measured("mlm", causal, settings={"min_tokens": 5}, text=[text])
    with pytest.raises(ValueError, match="mask_probability is between 0 and 1"):
        make_task("mlm", mask_probability="1.5")


# --- causal ---


def stream():
    return [int(word[1:]) for line in LINES for word in line.split()]


def strided_loss(model, ids, window):
    """As transformers' documentation does it: targets that were scored before are set to -100."""
    total, count, previous = 0.0, 0, 0
    for begin in range(0, len(ids), window // 2):
        end = min(begin + window, len(ids))
        inputs = torch.tensor([ids[begin:end]])
        labels = inputs.clone()
        labels[:, : len(labels[0]) - (end - previous)] = -100
        with torch.no_grad():
            loss = model(inputs, labels=labels).loss
        scored = int((labels[:, 1:] != -100).sum())
        total, count, previous = total + float(loss) * scored, count + scored, end
        if end == len(ids):
            return total / count, count
    raise AssertionError


@pytest.mark.parametrize("name", ["gpt2", "llama, untied", "gemma3, scaled"])
def test_strided_perplexity_by_brute_force(name, tmp_path, text):
    source, pressed = pair(name, tmp_path)
    metrics = measured("clm", pressed, source, {"window": 50, "batch_size": 3}, text=[text]).metrics
    compressed, original = (AutoModelForCausalLM.from_pretrained(place).eval() for place in (pressed, source))
    loss, count = strided_loss(compressed, stream(), 50)
    assert count == len(stream()) - 1 == metrics["tokens"]
    assert metrics["nll_per_token"] == pytest.approx(loss, rel=1e-4)
    assert metrics["perplexity"] == pytest.approx(math.exp(loss), rel=1e-4)
    assert metrics["perplexity_original"] == pytest.approx(math.exp(strided_loss(original, stream(), 50)[0]), rel=1e-4)
    if "untied" in name:
        assert metrics["perplexity_head_original"] == metrics["perplexity"]
    else:
        other = strided_loss(untied(pressed, source, AutoModelForCausalLM), stream(), 50)[0]
        assert isinstance(compressed.get_output_embeddings(), TiedHead)
        assert metrics["perplexity_head_original"] == pytest.approx(math.exp(other), rel=1e-4)
        assert metrics["perplexity_head_original"] != pytest.approx(metrics["perplexity"], rel=1e-3)


def test_a_text_of_one_window_has_the_loss_of_its_full_context(tmp_path, text):
    source = tiny.save("gpt2", tmp_path / "model")
    metrics = measured("clm", source, settings={"window": 1000, "subset": 9}, text=[text]).metrics
    ids = torch.tensor([[int(word[1:]) for line in LINES[:9] for word in line.split()]])
    with torch.no_grad():
        loss = AutoModelForCausalLM.from_pretrained(source).eval()(ids, labels=ids).loss
    assert metrics["tokens"] == ids.numel() - 1
    assert metrics["nll_per_token"] == pytest.approx(float(loss), rel=1e-5)
    assert metrics.keys() == {"perplexity", "nll_per_token", "bits_per_byte", "tokens"}


def test_windows_by_hand():
    without = cut(range(10, 20), None, 4)
    assert [(window.ids, window.known) for window in without] == [
        ([10, 11, 12, 13], 1),
        ([12, 13, 14, 15], 2),
        ([14, 15, 16, 17], 2),
        ([16, 17, 18, 19], 2),
    ]
    led = cut(range(10, 17), 0, 5)
    assert [(window.ids, window.known) for window in led] == [
        ([0, 10, 11, 12, 13], 1),
        ([0, 12, 13, 14, 15], 3),
        ([0, 14, 15, 16], 3),
    ]
    for windows, first in ((without, 11), (led, 10)):
        scored = [token for window in windows for token in window.ids[window.known :]]
        assert scored == list(range(first, first + len(scored)))


def test_a_token_that_begins_texts_begins_every_window(tmp_path, text):
    source = tiny.save("gpt2", tmp_path / "model")
    plain = PreTrainedTokenizerFast.from_pretrained(source)
    assert first_token(plain) is None
    raw = Tokenizer.from_file(str(source / "tokenizer.json"))
    raw.post_processor = TemplateProcessing(single="w207 $A", special_tokens=[("w207", 207)])
    led = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]", bos_token="w207")
    assert first_token(led) == 207
    led.save_pretrained(source)
    metrics = measured("clm", source, settings={"window": 1001}, text=[text]).metrics
    ids = torch.tensor([[207, *stream()]])
    with torch.no_grad():
        loss = AutoModelForCausalLM.from_pretrained(source).eval()(ids, labels=ids).loss
    assert metrics["tokens"] == len(stream())
    assert metrics["nll_per_token"] == pytest.approx(float(loss), rel=1e-5)


# --- rank correlations ---


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def sentence_pairs(count, seed):
    draw = random.Random(seed)
    return [(draw.choice(LINES), draw.choice(LINES), round(5 * draw.random(), 1)) for _ in range(count)]


@pytest.fixture
def data(tmp_path):
    rows = sentence_pairs(20, "stsb")
    stsb = [f"genre\tfile\tyear\t{i}\t{score}\t{a}\t{b}\textra" for i, (a, b, score) in enumerate(rows)]
    write(tmp_path / "data/stsbenchmark/sts-dev.tsv", *stsb)
    for name in ("one", "two"):
        lines = [f"{score}\t{a}\t{b}" for a, b, score in sentence_pairs(15, name)]
        write(tmp_path / f"data/semeval-sts/2012/{name}.test.tsv", *lines, "", '\t"unscored\tpair')
    write(tmp_path / "data/word-similarity/EN-A-1.txt", "w1 w2 3", "w1 w3 1", "w4\tw5\t2.5", "w4 unheard 9")
    write(tmp_path / "data/word-similarity/EN-B.txt", "w7 w2 3", "w7 w3 1", "w8 w5 2", "w9 w5 0.5")
    return tmp_path / "data"


def sentence_cosine(model, first, second):
    """Mean pooling by hand."""
    sides = []
    for line in (first, second):
        with torch.no_grad():
            out = model.base_model(torch.tensor([[int(word[1:]) for word in line.split()]]))
        sides.append(out.last_hidden_state[0].mean(0))
    return float(torch.nn.functional.cosine_similarity(*sides, dim=0))


def test_sts_of_a_tiny_encoder_is_scipys(masked, data):
    source, _ = masked
    found = measured("sts", source, data=data)
    model = AutoModelForMaskedLM.from_pretrained(source).eval()

    def expected(rows):
        cosines = [sentence_cosine(model, a, b) for a, b, _ in rows]
        return 100 * scipy.stats.spearmanr(cosines, [score for *_, score in rows]).statistic

    one, two = sentence_pairs(15, "one"), sentence_pairs(15, "two")
    assert found.metrics["stsb_dev"] == pytest.approx(expected(sentence_pairs(20, "stsb")), abs=1e-3)
    assert found.metrics["sts12"] == pytest.approx(expected(one + two), abs=1e-3)  # all files of a year as one
    assert found.metrics["mean"] == pytest.approx((found.metrics["stsb_dev"] + found.metrics["sts12"]) / 2)
    assert found.details["files"]["2012/two.test.tsv"]["spearman"] == pytest.approx(expected(two), abs=1e-3)
    assert found.details["files"]["2012/two.test.tsv"]["pairs"] == 15
    alone = measured("sts", source, settings={"sets": "sts12"}, data=data)
    assert alone.metrics.keys() == {"sts12", "mean"}


def test_the_test_split_is_read_only_when_asked_for(masked, data):
    source, _ = masked
    with pytest.raises(ValueError, match=r"has no stsbenchmark/sts-test.tsv"):
        measured("sts", source, settings={"split": "test"}, data=data)
    (data / "stsbenchmark/sts-dev.tsv").rename(data / "stsbenchmark/sts-test.tsv")
    assert "stsb_test" in measured("sts", source, settings={"split": "test", "sets": "stsb"}, data=data).metrics
    with pytest.raises(ValueError, match=r"has no stsbenchmark/sts-dev.tsv"):
        measured("sts", source, data=data)


GOOD = "g\tf\ty\t1\t2.5\ta\tb"
BAD = {
    "commas": (["g,f,y,1,2.5,a,b", GOOD], r"sts-dev.tsv, line 1: 1 columns separated by tabs, 7 are needed"),
    "cut off": ([GOOD, GOOD, "g\tf\ty\t1\t2.5\ta"], r"sts-dev.tsv, line 3: 6 columns .* is it cut off\?"),
    "score above 5": ([GOOD, "g\tf\ty\t1\t5.5\ta\tb"], r"line 2: a score is 0 at least and 5 at most, got 5.5"),
    "score below 0": ([GOOD, "g\tf\ty\t1\t-1\ta\tb"], r"line 2: a score is 0 at least"),
    "score that is none": ([GOOD, "g\tf\ty\t1\thigh\ta\tb"], r"line 2: column 5 is a score, got 'high'"),
    "score that is no number": ([GOOD, "g\tf\ty\t1\tnan\ta\tb"], r"line 2: a score is 0 at least"),
    "empty text": ([GOOD, "g\tf\ty\t1\t2\ta\t "], r"line 2: one of the two texts is empty"),
    "empty file": ([], r"sts-dev.tsv holds 0 scored pairs; it is empty"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_named_with_their_line(name, masked, data):
    lines, words = BAD[name]
    write(data / "stsbenchmark/sts-dev.tsv", *lines)
    with pytest.raises(ValueError, match=words):
        measured("sts", masked[0], data=data)


def test_bad_sets_and_folders(masked, data):
    (data / "stsbenchmark/sts-dev.tsv").write_bytes("g\tf\ty\t1\t2\tcaf\xe9\tb".encode("latin-1"))
    with pytest.raises(ValueError, match=r"line 1: not UTF-8 text"):
        measured("sts", masked[0], data=data)
    with pytest.raises(ValueError, match="unknown set 'sts11' of STS; choose from stsb, sts12"):
        make_task("sts", sets="stsb,sts11")
    with pytest.raises(ValueError, match="unknown split 'dve'"):
        make_task("sts", split="dve")
    with pytest.raises(ValueError, match=r"has no semeval-sts/2016"):
        measured("sts", masked[0], settings={"sets": "sts16"}, data=data)
    write(data / "word-similarity/EN-C.txt", "w7 w2")
    with pytest.raises(ValueError, match=r"EN-C.txt, line 1: 2 columns separated by white space, 3 are needed"):
        measured("similarity", masked[0], data=data)


def test_word_similarity_by_hand(masked, data):
    source, pressed = masked
    found = measured("similarity", pressed, source, data=data)
    for folder, ending in ((pressed, ""), (source, "_original")):
        table = open_table(folder, "cpu").dense().detach()

        def cosine(a, b, table=table):
            return float(torch.nn.functional.cosine_similarity(table[a], table[b], dim=0))

        first = scipy.stats.spearmanr([cosine(1, 2), cosine(1, 3), cosine(4, 5)], [3, 1, 2.5]).statistic
        second = scipy.stats.spearmanr(
            [cosine(7, 2), cosine(7, 3), cosine(8, 5), cosine(9, 5)], [3, 1, 2, 0.5]
        ).statistic
        assert found.metrics[f"en_a_1{ending}"] == pytest.approx(100 * first)
        assert found.metrics[f"en_b{ending}"] == pytest.approx(100 * second)
        assert found.metrics[f"mean{ending}"] == pytest.approx(50 * (first + second))
    assert found.details["sets"] == {"en_a_1": {"pairs": 4, "known": 3}, "en_b": {"pairs": 4, "known": 4}}
    write(data / "word-similarity/EN-A-1.txt", "no word 1", "of it 2")
    (data / "word-similarity/EN-B.txt").unlink()
    with pytest.raises(ValueError, match="knows none of the words"):
        measured("similarity", source, data=data)


def test_a_rank_correlation_with_equal_values_is_zero():
    assert spearman(torch.ones(4), torch.arange(4.0)) == 0
    assert spearman(torch.arange(4.0), torch.arange(4.0)) == pytest.approx(1)


@pytest.mark.data
def test_the_public_files_are_read_whole(shared_data):
    assert len(read_pairs(shared_data / "sts-benchmark" / "sts-dev.tsv", STSB)) == 1500
    years = {"2012": 2358, "2013": 1500, "2014": 3750}  # without MSRvid in 2012, SMT in 2013
    for year, count in years.items():
        files = (shared_data / "sts-semeval-2012-2014").glob(f"semeval-sts__{year}__*.test.tsv")
        assert sum(len(read_pairs(file, SEMEVAL)) for file in files) == count
    assert len(read_pairs(shared_data / "word-similarity" / "EN-WS-353-ALL.txt", WORDS)) == 353
