"""Static embeddings: models that consist of a table alone, like `StaticEmbedding` of sentence-transformers.

Sentence-transformers imports only its own classes by name, unless remote code is trusted. So a static model is stored
as a transformers model of one embedding, followed by mean pooling, and all commands treat it like any checkpoint. Its
tokenizer adds no special tokens, like that of a `StaticEmbedding`.
"""

import json
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.modeling_outputs import BaseModelOutput

from vocabpress.hf.companions import modules_of
from vocabpress.registration import STATIC

POOLING = "pooling"  # folder of the pooling module
UNLIMITED = 10**18  # maximum length of a text in tokens where the tokenizer has no limit


class StaticConfig(PreTrainedConfig):
    """Config of a `StaticModel`."""

    model_type = STATIC

    def __init__(self, vocab_size: int = 1, hidden_size: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.vocab_size, self.hidden_size = vocab_size, hidden_size


class StaticModel(PreTrainedModel):
    """A token table without any layers."""

    config_class = StaticConfig

    def __init__(self, config: StaticConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embeddings = value

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> BaseModelOutput:
        """Rows of tokens, shape (*input_ids.shape, hidden_size). The pooling that follows uses the mask."""
        rows = self.embeddings(input_ids.long())  # an empty batch arrives as floats
        return BaseModelOutput(last_hidden_state=rows, hidden_states=(rows,))


AutoConfig.register(STATIC, StaticConfig, exist_ok=True)  # replaces the placeholder of `registration`
AutoModel.register(StaticConfig, StaticModel, exist_ok=True)


def is_static(folder: Path) -> bool:
    """Whether a folder is a SentenceTransformer that begins with a `StaticEmbedding`."""
    modules = modules_of(folder)
    return bool(modules) and str(modules[0].get("type", "")).rpartition(".")[2] == "StaticEmbedding"


def open_sentence_transformer(folder: Path, what: str, device: str = "cpu") -> Any:
    """A model of sentence-transformers; a ValueError if it can't read the folder, or what needs it is not installed."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise ValueError(f"{what} need sentence-transformers; pip install 'vocabpress[st]'") from None
    try:
        return SentenceTransformer(str(folder), device=device, local_files_only=True)
    except Exception as error:  # a broken folder makes it raise almost anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"sentence-transformers can't load {folder}: {reason}") from None


@cache
def _converted(folder: Path, changed: int) -> TemporaryDirectory[str]:
    """A temporary checkpoint made of the folder, once for each modification time; deleted when the program ends."""
    source = open_sentence_transformer(folder, "static embeddings")[0]
    weight = source.embedding.weight.detach()
    if not weight.is_floating_point():
        raise ValueError(f"the table of {folder} is quantised already ({weight.dtype}); start from the original")
    made = TemporaryDirectory(prefix="vocabpress-static-")
    target = Path(made.name)
    model = empty(*weight.shape)
    model.embeddings.weight = nn.Parameter(weight)
    model.save_pretrained(target)
    for name in ("README.md", "config_sentence_transformers.json"):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, target / name)
    following = modules_of(folder)[1:]
    for module in following:
        if module.get("path") and (folder / module["path"]).is_dir():
            shutil.copytree(folder / module["path"], target / module["path"])
    write_companions(source.tokenizer, weight.shape[1], target, following)
    return made


def as_checkpoint(folder: Path) -> Path:
    """Convert a `StaticEmbedding` to a transformers checkpoint with the same table, dtype and tokens.

    Raises:
        ValueError: If sentence-transformers is missing or can't read it, or no token can be used for padding.
    """
    return Path(_converted(folder.absolute(), (folder / "modules.json").stat().st_mtime_ns).name)


def empty(num_embeddings: int, embedding_dim: int) -> StaticModel:
    """A static model on the meta device."""
    with torch.device("meta"):
        return StaticModel(StaticConfig(num_embeddings, embedding_dim, architectures=[StaticModel.__name__]))


def write_companions(
    tokenizer: Tokenizer, embedding_dim: int, folder: Path, following: Sequence[dict[str, Any]] = ()
) -> None:
    """Write what sentence-transformers reads beside a static model: tokenizer, mean pooling, and following modules."""
    plain_tokenizer(tokenizer).save_pretrained(folder)
    # Names and keys that sentence-transformers 5 and 6 both know.
    modules = [("", "sentence_transformers.models.Transformer"), (POOLING, "sentence_transformers.models.Pooling")]
    modules += [(module.get("path", ""), module["type"]) for module in following]
    listed = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(modules)]
    (folder / "modules.json").write_text(json.dumps(listed, indent=2), encoding="utf-8")
    (folder / POOLING).mkdir()
    pooling = {"word_embedding_dimension": embedding_dim, "pooling_mode_mean_tokens": True}
    (folder / POOLING / "config.json").write_text(json.dumps(pooling, indent=2), encoding="utf-8")


def plain_tokenizer(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """A tokenizer for transformers that gives the tokens of `StaticEmbedding`, without special ones."""
    stored = json.loads(tokenizer.to_str())
    model, special = stored["model"], [token["content"] for token in stored["added_tokens"] if token["special"]]
    unknown = model.get("unk_token")
    if unknown is None and model.get("unk_id") is not None:  # Unigram
        unknown = model["vocab"][model["unk_id"]][0]
    configured = (stored["padding"] or {}).get("pad_token")
    names = [configured, *(token for token in special if "pad" in token.lower()), *special, unknown]
    pads = [name for name in names if name is not None and tokenizer.token_to_id(name) is not None]
    if not pads:
        raise ValueError("the tokenizer has neither a special nor an unknown token, so a batch can't be padded")
    limit = (stored["truncation"] or {}).get("max_length", UNLIMITED)
    bare = Tokenizer.from_str(json.dumps(stored | {"post_processor": None, "padding": None, "truncation": None}))
    return PreTrainedTokenizerFast(tokenizer_object=bare, pad_token=pads[0], model_max_length=limit)
