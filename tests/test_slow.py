"""Minutes rather than seconds: `make test-slow`."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cases import FORMS
from vocabpress.hf.modules import TiedHead

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", FORMS)
def test_inductor_compiles_lookups_and_heads(name):
    form = FORMS[name]()
    torch._dynamo.reset()
    ids, hidden = torch.tensor([[3, 1, 0]]), torch.randn(2, form.embedding_dim)
    torch.testing.assert_close(torch.compile(form, fullgraph=True)(ids), form(ids))
    torch.testing.assert_close(torch.compile(TiedHead(form), fullgraph=True)(hidden), form.logits(hidden))


def test_the_demo_runs_and_draws(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "demo.py", "--output", tmp_path / "out"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "ratio to float32, as stored" in done.stdout
    assert (tmp_path / "out" / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert {"svd", "autoencoder", "lighttoken"} <= {folder.name for folder in (tmp_path / "out").iterdir()}
