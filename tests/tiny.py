"""Tiny models with random weights, built from configs: no network, no files of ours."""

from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
)

VOCAB = 211
BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
LLAMA = BERT | {"vocab_size": VOCAB, "bos_token_id": 0, "eos_token_id": 1}
T5 = {"d_model": 32, "num_layers": 2, "num_heads": 2, "d_ff": 64, "d_kv": 16, "decoder_start_token_id": 0}
BART = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "scale_embedding": True,
}

MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(n_layer=2, n_head=2, n_embd=32, vocab_size=VOCAB, bos_token_id=0, eos_token_id=1)
    ),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**LLAMA, tie_word_embeddings=True)),
    "llama, untied": lambda: LlamaForCausalLM(LlamaConfig(**LLAMA, tie_word_embeddings=False)),
    "bert": lambda: BertForMaskedLM(BertConfig(**BERT, vocab_size=VOCAB)),
    "roberta": lambda: RobertaForMaskedLM(RobertaConfig(**BERT, vocab_size=VOCAB)),
    "t5": lambda: T5ForConditionalGeneration(T5Config(**T5, vocab_size=VOCAB)),
    "bart, scaled": lambda: BartForConditionalGeneration(BartConfig(**BART, vocab_size=VOCAB)),
    "gemma3, scaled": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(**LLAMA, head_dim=16, num_key_value_heads=1, tie_word_embeddings=True)
    ),
}
TIED = [name for name in MODELS if name != "llama, untied"]
GENERATIVE = [name for name in MODELS if name not in ("bert", "roberta")]


def make(name: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A tiny model; biases are made non-zero, so that one that gets lost shows."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    for key, parameter in model.named_parameters():
        if key.endswith("bias"):
            parameter.data.normal_()
        parameter.data = parameter.data.to(dtype)  # buffers stay: `from_pretrained` computes them in float32, too
    return model


def logits(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """Logits of a batch, of a decoder that reads the same ids where there is one."""
    extra = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model(input_ids=ids, **extra).logits


def batch() -> torch.Tensor:
    return torch.randint(3, VOCAB, (2, 9), generator=torch.Generator().manual_seed(1))


def save(name: str, folder: Path) -> Path:
    """A checkpoint folder with a tokenizer of whole words."""
    make(name).save_pretrained(folder)
    tokenizer_files(folder)
    return folder


def tokenizer_files(folder: Path, **special: str) -> None:
    """Those of a tokenizer of whole words."""
    words = {f"w{i}": i for i in range(VOCAB - 1)} | {"[UNK]": VOCAB - 1}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", **special).save_pretrained(folder)
