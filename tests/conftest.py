from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "datasets"
pytest_plugins = ("reporting", "measuring", "sweeping", "tuning")  # their fixtures are here for all files


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
