import importlib
import importlib.util
import os
from pathlib import Path

import pytest
import torch

# Without a GPU its kernels run in Triton's interpreter, which must be known when they are defined.
if importlib.util.find_spec("triton") is not None and not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
    importlib.import_module("vocabpress.embeddings.kernels.gpu")
    del os.environ["TRITON_INTERPRET"]  # commands under test need not load it

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "datasets"
pytest_plugins = ("reporting", "measuring", "sweeping", "tuning", "wide")  # their fixtures are here for all files


# Everything here is small: a second thread would only wait for the first, and for whatever else the machine does.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def shared_data() -> Path:
    if not SHARED.is_dir():
        pytest.skip("the public data sets of ../shared/data are not here")
    return SHARED
