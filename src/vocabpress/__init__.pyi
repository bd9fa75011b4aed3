from .budget import Budget as Budget
from .calibrate.calibration import Calibration as Calibration
from .embeddings import EMBEDDINGS as EMBEDDINGS, CompressedEmbedding as CompressedEmbedding, build as build
from .fitting.shards import Shards as Shards
from .hf.compress import compress_model as compress_model
from .hf.config import VocabpressConfig as VocabpressConfig
from .hf.extract import static_embedding as static_embedding
from .hf.modules import read_with as read_with
from .hf.original import TableInfo as TableInfo, find_tables as find_tables
from .hf.report import Change as Change, Report as Report
from .hf.request import PRESETS as PRESETS, LinearShapes as LinearShapes, Request as Request, preset as preset
from .job.compress import compress as compress
from .methods import (
    METHODS as METHODS,
    SVD as SVD,
    TCQ as TCQ,
    Autoencoder as Autoencoder,
    Binary as Binary,
    Blockwise as Blockwise,
    Compositional as Compositional,
    DiscBlock as DiscBlock,
    FastScan as FastScan,
    GroupReduce as GroupReduce,
    LightToken as LightToken,
    Method as Method,
    NearestKronecker as NearestKronecker,
    Product as Product,
    Residual as Residual,
    Stacked as Stacked,
    Uniform as Uniform,
    make_method as make_method,
)

__version__: str
