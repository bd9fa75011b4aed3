"""Press the vocabulary tables of language models, and load the result with the tools people already use.

Importing this package registers the format with transformers: `AutoModel.from_pretrained` then reads it.
"""

from vocabpress.budget import Budget
from vocabpress.embeddings import EMBEDDINGS, CompressedEmbedding, build
from vocabpress.fitting.shards import Shards
from vocabpress.hf.compress import compress
from vocabpress.hf.config import VocabpressConfig
from vocabpress.hf.extract import static_embedding
from vocabpress.hf.importance import Sensitivity
from vocabpress.hf.outcome import Report
from vocabpress.hf.presets import PRESETS, preset
from vocabpress.hf.reading import read_with
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
    "build",
    "compress",
    "find_tables",
    "make_method",
    "preset",
    "read_with",
    "static_embedding",
]
