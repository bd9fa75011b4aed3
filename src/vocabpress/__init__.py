"""Press the vocabulary tables of language models, and load the result with the tools people already use.

Importing this package registers the format with transformers: `AutoModel.from_pretrained` then reads it.
"""

from vocabpress.budget import Budget
from vocabpress.embeddings import EMBEDDINGS, CompressedEmbedding, build
from vocabpress.hf.compress import compress
from vocabpress.hf.config import VocabpressConfig
from vocabpress.hf.outcome import Report
from vocabpress.hf.tables import TableInfo, find_tables
from vocabpress.methods import (
    METHODS,
    SVD,
    Autoencoder,
    Binary,
    Compositional,
    LightToken,
    Method,
    Product,
    Residual,
    Uniform,
    make_method,
)

__all__ = [
    "EMBEDDINGS",
    "METHODS",
    "SVD",
    "Autoencoder",
    "Binary",
    "Budget",
    "Compositional",
    "CompressedEmbedding",
    "LightToken",
    "Method",
    "Product",
    "Report",
    "Residual",
    "TableInfo",
    "Uniform",
    "VocabpressConfig",
    "build",
    "compress",
    "find_tables",
    "make_method",
]
