"""Rows of a table, read from a checkpoint's files."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from vocabpress import Budget, compress
from vocabpress.hf.original import Original
from vocabpress.hf.slices import find_stored_table


@pytest.mark.parametrize("size", ["50GB", "8kB"])
@pytest.mark.parametrize("name", tiny.MODELS)
def test_rows_are_those_of_the_model(name, size, tmp_path):
    model = tiny.make(name, torch.bfloat16)
    model.save_pretrained(tmp_path, max_shard_size=size)
    weight = Original.of(model).weight.detach()
    table = find_stored_table(tmp_path)
    assert (table.shape, table.dtype) == (tuple(weight.shape), torch.bfloat16)
    for start, stop in ((0, tiny.VOCAB), (5, 17), (100, 101), (tiny.VOCAB, tiny.VOCAB), (0, 0)):
        assert torch.equal(table.rows(start, stop), weight[start:stop])
    for start, stop in ((-1, 3), (4, 3), (0, tiny.VOCAB + 1)):
        with pytest.raises(ValueError, match=f"the table has rows 0 to {tiny.VOCAB}, got {start} to {stop}"):
            table.rows(start, stop)


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5"])
def test_a_checkpoint_of_the_base_model_under_the_name_of_one_with_a_head(name, tmp_path):
    model = tiny.make(name)
    model.base_model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": [type(model).__name__]}))
    assert torch.equal(find_stored_table(tmp_path).rows(3, 9), Original.of(model).weight.detach()[3:9])


def test_what_is_not_plain_is_an_error(tmp_path):
    model = tiny.make("llama")
    model.save_pretrained(tmp_path / "plain")
    compress(tmp_path / "plain", tmp_path / "small", method="svd", budget=Budget.ratio(4), measure=False)
    with pytest.raises(ValueError, match="compressed or quantised already"):
        find_stored_table(tmp_path / "small")
    file = tmp_path / "plain" / "model.safetensors"
    renamed = {key.replace("embed_tokens", "words"): tensor for key, tensor in load_file(file).items()}
    save_file(renamed, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"no tensor of \[211, 32\] that is clearly its model.embed_tokens.weight"):
        find_stored_table(tmp_path / "plain")
