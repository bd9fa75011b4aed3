"""One format for every measurement: a JSON file holds a list of `Result`, ours and peers' alike."""

import json
import platform
import subprocess
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

SCHEMA_VERSION = 1
PACKAGES = ("vocabpress", "torch", "transformers", "sentence-transformers", "numpy")


def environment(device: str = "cpu") -> dict[str, Any]:
    """What a result depends on besides its settings: versions, commit, machine."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run(["git", "status", "--porcelain", "src"], capture_output=True, text=True, check=False)
    return {
        "versions": {package: version(package) for package in PACKAGES},
        "python": platform.python_version(),
        "commit": (commit.stdout.strip() or None) if commit.returncode == 0 else None,
        "uncommitted_changes": bool(changed.stdout.strip()) if changed.returncode == 0 else None,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else "CPU",
    }


@dataclass(frozen=True)
class Result:
    """One measurement.

    Attributes:
        benchmark: What was measured, e.g. ``"sts"``.
        variant: A name for this row.
        settings: Everything that was chosen: method, fields, budget, seed.
        bytes: Name -> bytes of saved tensors.
        metrics: Name -> value.
        seconds: Of the fit.
        environment: See `environment`.
        schema_version: Of this format.
    """

    benchmark: str
    variant: str
    settings: dict[str, Any]
    bytes: dict[str, int]
    metrics: dict[str, float]
    seconds: float
    environment: dict[str, Any] = field(default_factory=environment)
    schema_version: int = SCHEMA_VERSION


def write_results(path: str | Path, results: list[Result]) -> None:
    """Write results as JSON, readable in a diff."""
    text = json.dumps([asdict(result) for result in results], indent=1, sort_keys=True, allow_nan=False)
    Path(path).write_text(text + "\n", encoding="utf-8")


def read_results(path: str | Path) -> list[Result]:
    """Read what `write_results` wrote.

    Raises:
        ValueError: If the file is of another schema version.
    """
    rows = json.loads(Path(path).read_text(encoding="utf-8"))
    versions = {row.get("schema_version") for row in rows} - {SCHEMA_VERSION}
    if versions:
        raise ValueError(f"{path} has schema version {versions.pop()}, this vocabpress reads {SCHEMA_VERSION}")
    return [Result(**row) for row in rows]
