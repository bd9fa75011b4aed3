"""(a) The real all-MiniLM-L6-v2 with a masked-LM head trained on top, its word table frozen byte for byte and tied.

The head (a 384 x 384 map, a layer norm, a bias for each token) starts from random numbers, the body from the sentence
encoder; both have the same learning rate. 15 % of the tokens are masked, as in BERT.
"""

from pathlib import Path
from typing import Any

import torch
from blocks import Blocks, Recipe, stream, train
from corpus import Corpus
from torch import Tensor
from transformers import AutoTokenizer, BertForMaskedLM, DataCollatorForLanguageModeling, Trainer

CPU = Recipe(steps=800, batch_size=32, block=128, learning_rate=5e-4)
GPU = Recipe(steps=20000, batch_size=128, block=128, learning_rate=5e-4)


class MaskedTrainer(Trainer):
    """Computes logits at the masked tokens only: a seventh of the head's work."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """Mean cross-entropy over the masked tokens."""
        labels = inputs["labels"]
        masked = labels != -100
        hidden = model.bert(input_ids=inputs["input_ids"])[0][masked]
        return torch.nn.functional.cross_entropy(model.cls(hidden).float(), labels[masked])


def make(corpus: Corpus, sample: Path, output: Path, recipe: Recipe) -> None:
    """Train, check that the table is unchanged, and save with the tokenizer."""
    tokenizer: Any = AutoTokenizer.from_pretrained(sample)
    torch.manual_seed(0)
    # One pass over the text does not overfit, and without dropout attention uses its fast kernel.
    model = BertForMaskedLM.from_pretrained(sample, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    table = model.bert.embeddings.word_embeddings.weight
    before = table.detach().clone()
    table.requires_grad_(False)
    ids = stream(tokenizer, corpus.training, ())
    blocks = Blocks(ids, recipe.block, (tokenizer.cls_token_id,), (tokenizer.sep_token_id,))
    train(
        model, blocks, recipe, output, DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15), MaskedTrainer
    )
    assert torch.equal(table, before), "the word table changed"
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
