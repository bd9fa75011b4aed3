"""Press the vocabulary tables of language models, and load the result with the tools people already use.

Importing this package registers the format with transformers: `AutoModel.from_pretrained` then reads it.
"""

from vocabpress.budget import Budget
from vocabpress.embeddings import EMBEDDINGS, CompressedEmbedding, build
from vocabpress.hf.compress import compress
from vocabpress.hf.config import VocabpressConfig
from vocabpress.hf.outcome import Report
from vocabpress.hf.presets import PRESETS, preset
from vocabpress.hf.shapes import LinearShapes
from vocabpress.hf.tables import TableInfo, find_tables
from vocabpress.methods import (
    METHODS,
    SVD,
    TCQ,
    Autoencoder,
    DiscBlock,
    GroupReduce,
    LightToken,
    Method,
    NearestKronecker,
    Stacked,
    make_method,
)

__all__ = [
    "EMBEDDINGS",
    "METHODS",
    "PRESETS",
    "SVD",
    "TCQ",
    "Autoencoder",
    "Budget",
    "CompressedEmbedding",
    "DiscBlock",
    "GroupReduce",
    "LightToken",
    "LinearShapes",
    "Method",
    "NearestKronecker",
    "Report",
    "Stacked",
    "TableInfo",
    "VocabpressConfig",
    "build",
    "compress",
    "find_tables",
    "make_method",
    "preset",
]
