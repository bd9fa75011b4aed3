from .budget import Budget as Budget
from .calibrate.calibration import Calibration as Calibration
from .embeddings import EMBEDDINGS as EMBEDDINGS
from .embeddings import CompressedEmbedding as CompressedEmbedding
from .embeddings import build as build
from .fitting.shards import Shards as Shards
from .hf.compress import compress_model as compress_model
from .hf.config import VocabpressConfig as VocabpressConfig
from .hf.extract import static_embedding as static_embedding
from .hf.modules import read_with as read_with
from .hf.original import TableInfo as TableInfo
from .hf.original import find_tables as find_tables
from .hf.report import Change as Change
from .hf.report import Report as Report
from .hf.request import PRESETS as PRESETS
from .hf.request import LinearShapes as LinearShapes
from .hf.request import Request as Request
from .hf.request import preset as preset
from .job.compress import compress as compress
from .methods import (
    METHODS as METHODS,
)
from .methods import (
    SVD as SVD,
)
from .methods import (
    TCQ as TCQ,
)
from .methods import (
    Autoencoder as Autoencoder,
)
from .methods import (
    Binary as Binary,
)
from .methods import (
    Blockwise as Blockwise,
)
from .methods import (
    Compositional as Compositional,
)
from .methods import (
    DiscBlock as DiscBlock,
)
from .methods import (
    FastScan as FastScan,
)
from .methods import (
    GroupReduce as GroupReduce,
)
from .methods import (
    LightToken as LightToken,
)
from .methods import (
    Method as Method,
)
from .methods import (
    NearestKronecker as NearestKronecker,
)
from .methods import (
    Product as Product,
)
from .methods import (
    Residual as Residual,
)
from .methods import (
    Stacked as Stacked,
)
from .methods import (
    Uniform as Uniform,
)
from .methods import (
    make_method as make_method,
)

__version__: str
