"""A fit holds one table, what it made of it, and a working set that does not grow with the table."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fitmemory import FITS, WIDTH
from vocabpress import METHODS, Blockwise, Stacked

FEW, MANY = 80_000, 200_000  # rows; 61 and 154 MB as fits read them, half as much in bfloat16, as files have them
WORKING_SET = {FEW: 36_000_000, MANY: 100_000_000}  # with the small chunks of the child; slower methods sample more
QUICK = ("svd", "svd int8", "uniform, columns", "kronecker", "discblock", "blockwise", "binary")


def mapped(folder, rows):
    """A file of bfloat16 rows."""
    file, draw = folder / "rows", torch.Generator().manual_seed(0)
    deviations = 0.1 * torch.arange(1, WIDTH + 1) ** -0.5
    with file.open("wb") as out:
        for _ in range(0, rows, 10_000):
            part = torch.randn(10_000, WIDTH, generator=draw) * deviations
            out.write(part.bfloat16().view(torch.int16).numpy().tobytes())
    return file


def check(place, rows, names):
    file, folder = mapped(place, rows), Path(__file__).parent
    done = subprocess.run(
        [sys.executable, folder / "fitmemory.py", file, *names],
        capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["name"] for each in found] == list(names)
    assert not [each for each in found if each["taken"] > each["held"] + WORKING_SET[rows]]


def test_every_method_is_here():
    assert {type(method) for method in FITS.values()} == {*METHODS.values(), Stacked, Blockwise}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_fits_hold_no_second_table(tmp_path):
    check(tmp_path, FEW, QUICK)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_slower_fits_hold_no_second_table(tmp_path):
    check(tmp_path, MANY, [name for name in FITS if name not in QUICK])
