"""Tiny models whose linear maps are large enough to be coded, and text for them."""

import json
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import (
    AlbertConfig,
    AlbertModel,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    CTRLConfig,
    CTRLLMHeadModel,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MarianConfig,
    MarianMTModel,
    MixtralConfig,
    MixtralForCausalLM,
    ModernBertConfig,
    ModernBertModel,
    MPNetConfig,
    MPNetModel,
    PreTrainedModel,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
    RwkvConfig,
    RwkvForCausalLM,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
    XLNetConfig,
    XLNetModel,
)

import tiny
from measuring import LINES, LONG_LINES, write_lines
from vocabpress import TCQ, compress
from vocabpress.calibrate.outputs import Output, Ran
from vocabpress.job import whole_request, write
from vocabpress.methods.ldlq import LDLQ


@pytest.fixture(scope="module")
def short_memory():
    """Codes of jobs that are fast to find."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(whole_request, "LDLQ", partial(LDLQ, memory=8))
        yield


@pytest.fixture(scope="module")
def plain_text(tmp_path_factory):
    return write_lines(tmp_path_factory.mktemp("text") / "words.txt", [*LONG_LINES, *LINES])


SIZES = {
    "vocab_size": tiny.VOCAB,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "max_position_embeddings": 128,
}
ENDS = {"bos_token_id": 0, "eos_token_id": 1}
MOE = {"num_key_value_heads": 2, "moe_intermediate_size": 64, "shared_expert_intermediate_size": 64, "num_experts": 4}
T5 = {"d_model": 64, "num_layers": 2, "num_heads": 2, "d_ff": 128, "d_kv": 32, "decoder_start_token_id": 0}
BART = {**tiny.BART, "d_model": 64, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "max_position_embeddings": 128}
DISTILBERT = {"dim": 64, "hidden_dim": 128, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 128}

PARTS = [
    {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
    for number, (path, kind) in enumerate((("", "Transformer"), ("1_Pooling", "Pooling")))
]
QUIET = {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []}
FAST = TCQ(memory=8)

MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "bert": lambda: BertModel(BertConfig(**SIZES)),
    "bert, one layer": lambda: BertModel(BertConfig(**{**SIZES, "num_hidden_layers": 1})),
    "bert, masked": lambda: BertForMaskedLM(BertConfig(**SIZES)),
    "roberta, classes": lambda: RobertaForSequenceClassification(RobertaConfig(**SIZES)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, **ENDS, tie_word_embeddings=True)),
    "llama, untied": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, **ENDS, tie_word_embeddings=False)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(n_layer=2, n_head=2, n_embd=64, n_positions=128, vocab_size=tiny.VOCAB, **ENDS)
    ),
    "t5": lambda: T5ForConditionalGeneration(T5Config(**T5, vocab_size=tiny.VOCAB)),
    "bart": lambda: BartForConditionalGeneration(BartConfig(**BART, vocab_size=tiny.VOCAB)),
    "t5, encoder": lambda: T5EncoderModel(T5Config(**T5, vocab_size=tiny.VOCAB)),
    "marian": lambda: MarianMTModel(MarianConfig(**BART, vocab_size=tiny.VOCAB, pad_token_id=209)),
    "ctrl": lambda: CTRLLMHeadModel(CTRLConfig(n_layer=2, n_head=2, n_embd=64, dff=128, vocab_size=tiny.VOCAB)),
    "xlnet": lambda: XLNetModel(XLNetConfig(d_model=64, n_layer=2, n_head=2, d_inner=128, vocab_size=tiny.VOCAB)),
    "distilbert": lambda: DistilBertModel(DistilBertConfig(**DISTILBERT, vocab_size=tiny.VOCAB)),
    "mpnet": lambda: MPNetModel(MPNetConfig(**SIZES)),
    "modernbert": lambda: ModernBertModel(
        ModernBertConfig(**SIZES, **ENDS, pad_token_id=0, cls_token_id=0, sep_token_id=1)
    ),
    "albert": lambda: AlbertModel(AlbertConfig(**SIZES, embedding_size=32)),
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**SIZES, **ENDS, num_key_value_heads=2, num_local_experts=4)),
    "rwkv": lambda: RwkvForCausalLM(
        RwkvConfig(
            hidden_size=64, num_hidden_layers=4, rescale_every=2, tie_word_embeddings=False, vocab_size=tiny.VOCAB
        )
    ),
    "qwen2, experts": lambda: Qwen2MoeForCausalLM(Qwen2MoeConfig(**SIZES, **ENDS, **MOE, decoder_sparse_step=1)),
}


def make(name: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A model with biases that are not zero, and a table that is large enough for outputs to differ."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    for key, parameter in model.named_parameters():
        if key.endswith("bias"):
            parameter.data.normal_(std=0.1)
    model.get_input_embeddings().weight.data *= 20
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def _save(name: str, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """A checkpoint folder with a tokenizer that can mask and pad."""
    make(name, dtype).save_pretrained(folder)
    tiny.tokenizer_files(folder, pad_token="w209", mask_token="w205")
    return folder


def save(name: str, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """A checkpoint with a tokenizer; "sentences" is one that sentence-transformers knows."""
    _save("bert" if name == "sentences" else name, folder, dtype)
    if name == "sentences":
        pooling = {"word_embedding_dimension": 64, "pooling_mode_mean_tokens": True}
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
        (folder / "modules.json").write_text(json.dumps(PARTS))
    return folder


def inputs(model: PreTrainedModel, rows: int = 3, longest: int = 9, seed: int = 1) -> dict[str, Tensor]:
    """A batch, padded but for its first row."""
    ids = torch.randint(3, 200, (rows, longest), generator=torch.Generator().manual_seed(seed))
    mask = torch.arange(longest) < longest - 2 * torch.arange(rows)[:, None]
    given = {"input_ids": ids, "attention_mask": mask.long()}
    return given | ({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})


def batches(model: PreTrainedModel, count: int = 2) -> list[Output]:
    """Runs of a model: a scalar of its states at the tokens that count."""

    def run(number: int) -> Output:
        given = inputs(model, seed=number)
        counts = given["attention_mask"].bool()

        def output() -> Ran:
            found = model(**given)[0]
            draw = torch.Generator().manual_seed(number)
            return Ran((found * torch.randn(found.shape, generator=draw) * counts[..., None]).sum(), counts)

        return output

    return [run(number) for number in range(count)]


class Done:
    """A model that was compressed: its folders, the report, and what was in memory when it was saved."""

    def __init__(self, name: str, base: Path, text: Path, **asked: Any) -> None:
        self.source, self.out, models = save(name, base / "in"), base / "out", []
        saved = lambda model, folder: models.append(model) or model.save_pretrained(folder)  # noqa: E731
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(action="ignore"):
            patch.setattr(write, "save", saved)
            self.report = compress(self.source, self.out, method=FAST, text=[text], **asked)
        self.model = models[0].eval()

    @property
    def file(self) -> Path:
        return self.out / "model.safetensors"

    def load(self, **how: Any) -> Any:
        with warnings.catch_warnings(action="error"):
            model, info = type(self.model).from_pretrained(self.out, output_loading_info=True, **how)
        assert info == QUIET
        return model.eval()


def entries(file: Path) -> dict[str, str]:
    """Name -> dtype of the tensors in a file."""
    with safe_open(file, "pt") as opened:
        return {key: opened.get_slice(key).get_dtype() for key in opened.keys()}  # noqa: SIM118
