"""Compress the vocabulary tables of language models, and load the result with the tools people already use.

Importing this package registers the format with transformers: `AutoModel.from_pretrained` then reads it. What it holds
is imported when it is asked for, so that neither the import nor the command line waits for torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from vocabpress import registration

if TYPE_CHECKING:
    from vocabpress.budget import Budget
    from vocabpress.embeddings import EMBEDDINGS, CompressedEmbedding, build
    from vocabpress.fitting.shards import Shards
    from vocabpress.hf.compress import compress
    from vocabpress.hf.config import VocabpressConfig
    from vocabpress.hf.extract import static_embedding
    from vocabpress.hf.importance import Sensitivity
    from vocabpress.hf.modules import read_with
    from vocabpress.hf.outcome import Report
    from vocabpress.hf.presets import PRESETS, preset
    from vocabpress.hf.shapes import LinearShapes
    from vocabpress.hf.tables import TableInfo, find_tables
    from vocabpress.methods import (
        METHODS,
        SVD,
        TCQ,
        Autoencoder,
        Binary,
        Blockwise,
        Compositional,
        DiscBlock,
        FastScan,
        GroupReduce,
        LightToken,
        Method,
        NearestKronecker,
        Product,
        Residual,
        Stacked,
        Uniform,
        make_method,
    )

    __version__: str

_HOMES = {
    "budget": ("Budget",),
    "embeddings": ("EMBEDDINGS", "CompressedEmbedding", "build"),
    "fitting.shards": ("Shards",),
    "hf.compress": ("compress",),
    "hf.config": ("VocabpressConfig",),
    "hf.extract": ("static_embedding",),
    "hf.importance": ("Sensitivity",),
    "hf.outcome": ("Report",),
    "hf.presets": ("PRESETS", "preset"),
    "hf.modules": ("read_with",),
    "hf.shapes": ("LinearShapes",),
    "hf.tables": ("TableInfo", "find_tables"),
    "methods": (
        "METHODS",
        "SVD",
        "TCQ",
        "Autoencoder",
        "Binary",
        "Blockwise",
        "Compositional",
        "DiscBlock",
        "FastScan",
        "GroupReduce",
        "LightToken",
        "Method",
        "NearestKronecker",
        "Product",
        "Residual",
        "Stacked",
        "Uniform",
        "make_method",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "EMBEDDINGS",
    "METHODS",
    "PRESETS",
    "SVD",
    "TCQ",
    "Autoencoder",
    "Binary",
    "Blockwise",
    "Budget",
    "Compositional",
    "CompressedEmbedding",
    "DiscBlock",
    "FastScan",
    "GroupReduce",
    "LightToken",
    "LinearShapes",
    "Method",
    "NearestKronecker",
    "Product",
    "Report",
    "Residual",
    "Sensitivity",
    "Shards",
    "Stacked",
    "TableInfo",
    "Uniform",
    "VocabpressConfig",
    "__version__",
    "build",
    "compress",
    "find_tables",
    "make_method",
    "preset",
    "read_with",
    "static_embedding",
]


def __getattr__(name: str) -> Any:
    """What is exported, and the packages inside, each imported at its first use."""
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("vocabpress")
    if name in _HOME_OF:
        found = getattr(importlib.import_module(f"vocabpress.{_HOME_OF[name]}"), name)
        globals()[name] = found
        return found
    try:
        return importlib.import_module(f"vocabpress.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"vocabpress.{name}":
            raise
    raise AttributeError(f"module 'vocabpress' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


registration.register()
