"""Save the table of any model as a model of its own."""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import nn

from vocabpress.hf.checkpoint import open_model
from vocabpress.hf.compact import TOKENIZER, make_compact
from vocabpress.hf.config import VocabpressConfig
from vocabpress.hf.folders import find_folder
from vocabpress.hf.modules import TokenEmbedding
from vocabpress.hf.quantizer import attach
from vocabpress.hf.static import empty, write_companions
from vocabpress.hf.swap import install
from vocabpress.hf.tables import input_table_name
from vocabpress.hf.writing import check_output, save, written_at_once


def static_embedding(model: str | Path, output: str | Path) -> None:
    """Write the token table of a checkpoint, compressed or not, as a static embedding that `SentenceTransformer` loads.

    The embedding of a sentence is then the mean of its tokens' rows, as in `StaticEmbedding` of sentence-transformers.

    Args:
        model: A hub id, or a folder with config.json, weights and tokenizer.json.
        output: A new or empty folder.

    Raises:
        ValueError: If the model can't be read, or has no token table or no fast tokenizer. Nothing is written then.
    """
    target, folder = check_output(output), find_folder(model)
    if not (folder / TOKENIZER).is_file():
        raise ValueError(f"{model} has no tokenizer.json; save its tokenizer as a fast one first")
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    loaded = open_model(folder, whole=False)
    owner: Any = loaded.get_submodule(input_table_name(loaded))
    static = empty(owner.num_embeddings, owner.embedding_dim)
    if isinstance(owner, TokenEmbedding):
        install(static, "embeddings", owner.table)
        stored = loaded.config.quantization_config
        attach(static, VocabpressConfig(tables={"embeddings": owner.table.config()}, fitted_by=stored.fitted_by))
    else:
        static.embeddings.weight = nn.Parameter(owner.weight.detach())
    with written_at_once(target) as temporary:
        save(static, temporary)
        write_companions(tokenizer, owner.embedding_dim, temporary)
        make_compact(temporary / TOKENIZER)
