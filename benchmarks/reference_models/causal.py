"""(b) A small causal model of the Llama architecture with a tied head and its own 16k byte-level BPE."""

from pathlib import Path

import torch
from blocks import Blocks, Recipe, stream, train
from corpus import Corpus
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import DataCollatorForLanguageModeling, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 16384
CPU = Recipe(steps=900, batch_size=16, block=256, learning_rate=1.5e-3)
GPU = Recipe(steps=20000, batch_size=64, block=256, learning_rate=1.5e-3)


def make_tokenizer(corpus: Corpus) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on the training documents; it has no unknown tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,  # pyright: ignore[reportCallIssue]
        special_tokens=["<s>", "</s>"],  # pyright: ignore[reportCallIssue]
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),  # pyright: ignore[reportCallIssue]
        show_progress=False,  # pyright: ignore[reportCallIssue]
    )
    tokenizer.train_from_iterator((paragraph for document in corpus.training for paragraph in document), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>", model_max_length=256
    )


def make(corpus: Corpus, sample: Path, output: Path, recipe: Recipe) -> None:
    """Train from scratch, and save with the tokenizer."""
    tokenizer = make_tokenizer(corpus)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=recipe.block,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    newline = tuple(tokenizer("\n", add_special_tokens=False)["input_ids"])
    blocks = Blocks(stream(tokenizer, corpus.training, newline), recipe.block)
    model = LlamaForCausalLM(config)
    train(model, blocks, recipe, output, DataCollatorForLanguageModeling(tokenizer, mlm=False))
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
