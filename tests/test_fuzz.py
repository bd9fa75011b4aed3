"""Damaged and forged checkpoints: a clean error, or the model that was saved; never anything else."""

import json
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM, BertForMaskedLM

import tiny
from cases import FORMS
from fuzzing import FINE, fuzz
from mutations import MUTATIONS
from vocabpress import Budget, Uniform, VocabpressConfig, build, compress
from vocabpress.embeddings.fields import MAX_DEPTH
from vocabpress.hf import stored
from vocabpress.hf.checkpoint import load_model
from vocabpress.hf.companions import companions
from vocabpress.hf.compress import compress_model
from vocabpress.hf.folders import find_folder
from vocabpress.hf.request import Request

DENSE = {"form": "dense", "num_embeddings": 4, "embedding_dim": 2, "dtype": "float16"}
SOME = ("scalar 3 bit, column", "rows, mapped", "trellis, rates of all kinds", "codebooks, rotated", "columns")


def test_damaged_checkpoints_are_refused_or_equal():
    outcomes, wrong = fuzz(300, seed=0, names=SOME)
    assert not wrong, "\n".join(wrong)
    assert outcomes["refused"] > 200
    assert outcomes["equal"] > 5
    assert set(outcomes) <= FINE


@pytest.mark.slow
def test_ten_thousand_damaged_checkpoints_are_refused_or_equal(capsys):
    outcomes, wrong = fuzz(10_500, seed=1)
    with capsys.disabled():
        sys.stdout.write(
            f"\n{sum(outcomes.values())} checkpoints, {len(set(MUTATIONS))} kinds of damage: {dict(outcomes)}\n"
        )
    assert not wrong, "\n".join(wrong[:20])
    assert sum(outcomes.values()) >= 10_000
    assert set(outcomes) <= FINE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_embeddings": True}, r"form\.num_embeddings is a whole number from 0 to 4,294,967,296, got True"),
        ({"num_embeddings": 2**40}, "num_embeddings is a whole number"),
        ({"num_embeddings": "4"}, "got '4'"),
        ({"dtype": "float64"}, r"form\.dtype is one of float32, bfloat16, float16, got 'float64'"),
        ({"dtype": ["float16"]}, "got \\['float16'\\]"),
        ({"path": "/etc/passwd"}, "unknown field 'path' in 'dense'"),
        ({"form": "exec"}, "unknown form 'exec'"),
        ({"form": ["dense"]}, "unknown form"),
    ],
)
def test_a_config_is_checked_before_anything_is_built(change, message):
    with pytest.raises(ValueError, match=message):
        build({**DENSE, **change})


def test_places_of_forms_inside_are_named():
    with pytest.raises(ValueError, match=r"form\.parts\.num_embeddings is a whole number from"):
        build({"form": "sum", "parts": [{**DENSE, "num_embeddings": -1}]})
    with pytest.raises(ValueError, match="no field 'dtype' in 'dense'"):
        build({key: value for key, value in DENSE.items() if key != "dtype"})


def test_forms_are_not_nested_without_end():
    config = DENSE
    for _ in range(MAX_DEPTH - 1):
        config = {"form": "sum", "parts": [config]}
    assert build(config).num_embeddings == 4
    with pytest.raises(ValueError, match=f"more than {MAX_DEPTH} deep"):
        build({"form": "sum", "parts": [config]})


def test_products_may_not_grow_without_end():
    square = {**DENSE, "num_embeddings": 2**14, "embedding_dim": 2**5}
    product = {"form": "kronecker", "left": square, "right": square, "num_embeddings": 2**28}
    inner = {**DENSE, "embedding_dim": 2**28}
    with torch.device("meta"):
        assert build(product).num_embeddings == 2**28
        with pytest.raises(ValueError, match="is a whole number"):
            build(
                {
                    "form": "projected",
                    "inner": inner,
                    "basis": product,
                    "bias": False,
                    "activation": None,
                    "dtype": "float16",
                }
            )
        words = {"form": "kronecker", "left": square, "right": square, "num_embeddings": 2**28}
        codes = {"num_embeddings": 4, "bits": 8, "segments": 1, "stages": 2**20, "shared": False}
        with pytest.raises(
            ValueError, match="the words take 1,099,511,627,776 bytes to read and are stored in 2,097,152"
        ):
            build({"form": "codebooks", "words": words, **codes})
        wide = {**DENSE, "embedding_dim": 2**20}
        with pytest.raises(ValueError, match="at most 4,294,967,296 rows and 16,777,216 columns"):
            build({"form": "kronecker", "left": wide, "right": wide, "num_embeddings": 16})


def test_a_map_that_names_other_rows_is_refused():
    form = FORMS["rows, mapped"]()
    form.check_numbers()
    form.block_of.zero_()
    with pytest.raises(ValueError, match="block_of does not give the blocks their"):
        form.check_numbers()


def test_every_number_must_be_finite():
    form = FORMS["low rank, 4 and 8 bit factors"]()
    form.inner.scales.data[0, 1] = float("nan")
    with pytest.raises(ValueError, match=r"inner\.scales holds numbers that are not finite"):
        form.check_numbers()


@pytest.fixture
def checkpoint(tmp_path):
    model = tiny.make("bert")
    compress_model(model, Request(Uniform(), Budget.ratio(6)))
    model.save_pretrained(tmp_path / "small")
    return tmp_path / "small"


def rewrite(folder, change, metadata=None):
    """The tensors, changed, with the metadata of before or other."""
    file = folder / "model.safetensors"
    _, kept = stored.read_headers([str(file)])
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata=kept if metadata is None else metadata)


def test_a_flipped_bit_is_found_and_verify_false_reads_it(checkpoint):
    key = "bert.encoder.layer.0.output.dense.weight"
    rewrite(checkpoint, lambda tensors: tensors[key].view(torch.uint8)[3, 5].bitwise_xor_(1))
    with pytest.raises(ValueError, match=f"{key} differs from what was saved"):
        AutoModelForMaskedLM.from_pretrained(checkpoint)
    with pytest.warns(UserWarning, match="verify"):
        model = AutoModelForMaskedLM.from_pretrained(checkpoint, quantization_config=VocabpressConfig(verify=False))
    assert "verify" not in model.config.quantization_config.to_dict()


def test_a_file_can_not_ask_to_be_believed(checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    config["quantization_config"]["verify"] = False
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"unknown fields \['verify'\]"):
        AutoModelForMaskedLM.from_pretrained(checkpoint)


def test_files_without_digests_still_load(checkpoint):
    rewrite(checkpoint, lambda tensors: None, {"format": "pt", "vocabpress_format_version": "1"})
    AutoModelForMaskedLM.from_pretrained(checkpoint)
    rewrite(checkpoint, lambda tensors: None, {"format": "pt", "vocabpress_sha257": "{}"})
    with pytest.raises(ValueError, match="have no digests, but 'vocabpress_sha257'"):
        AutoModelForMaskedLM.from_pretrained(checkpoint)


def test_a_lost_tensor_and_one_too_many_are_found(checkpoint):
    rewrite(checkpoint, lambda tensors: tensors.pop("bert.embeddings.LayerNorm.bias"))
    with pytest.raises(ValueError, match=r"lack 'bert\.embeddings\.LayerNorm\.bias'"):
        AutoModelForMaskedLM.from_pretrained(checkpoint)
    rewrite(checkpoint, lambda tensors: tensors.update({"one.too.many": torch.zeros(1)}))
    with pytest.raises(ValueError, match=r"hold 'one\.too\.many', which was not saved"):
        AutoModelForMaskedLM.from_pretrained(checkpoint)


def test_shards_are_verified_together_and_saved_again(checkpoint, tmp_path):
    model = AutoModelForMaskedLM.from_pretrained(checkpoint)
    model.save_pretrained(tmp_path / "shards", max_shard_size="20kB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    again = AutoModelForMaskedLM.from_pretrained(tmp_path / "shards")
    assert torch.equal(tiny.logits(again, tiny.batch()), tiny.logits(model, tiny.batch()))


def test_nothing_outside_the_folder_is_read(checkpoint, tmp_path):
    (checkpoint / "model.safetensors").rename(tmp_path / "outside.safetensors")
    index = {
        "metadata": {},
        "weight_map": dict.fromkeys(load_file(tmp_path / "outside.safetensors"), "../outside.safetensors"),
    }
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="names a file outside it"):
        AutoModelForMaskedLM.from_pretrained(checkpoint)


def test_modules_of_sentence_transformers_lie_in_the_folder(tmp_path):
    for name in ("source", "outside", "target"):
        (tmp_path / name).mkdir()
    (tmp_path / "source" / "modules.json").write_text('[{"path": ""}, {"path": "../outside"}]')
    with pytest.raises(ValueError, match="is not a folder beside it"):
        companions(tmp_path / "source")


def test_pickled_weights_are_not_read_unasked(tmp_path):
    model = BertForMaskedLM(tiny.make("bert").config)
    model.config.architectures = ["BertForMaskedLM"]
    model.config.save_pretrained(tmp_path / "old")
    torch.save(model.state_dict(), tmp_path / "old" / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"as a pickle, pytorch_model\.bin, which can hold code"):
        compress(tmp_path / "old", tmp_path / "out")
    assert load_model(find_folder(tmp_path / "old"), trust_remote_code=True).num_parameters() == model.num_parameters()


def test_a_model_far_larger_than_its_files_is_refused(checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    config["max_position_embeddings"] = 2**33
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="by its config the model takes"):
        AutoModelForMaskedLM.from_pretrained(checkpoint)
