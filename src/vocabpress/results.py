"""One format for every measurement, ours and peers': a JSON file with a list of `Result`."""

import json
import math
import os
import platform
import subprocess
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from vocabpress.budget import Budget

SCHEMA_VERSION = 2
PACKAGES = ("vocabpress", "torch", "transformers", "sentence-transformers", "numpy")


def environment(device: str = "cpu") -> dict[str, Any]:
    """Versions, commit and machine, on which a result also depends."""
    here = Path(__file__).parent
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, cwd=here)
    # Without a lock on the index, which would stay if this process were killed.
    status = ["git", "--no-optional-locks", "status", "--porcelain", "."]
    changed = subprocess.run(status, capture_output=True, text=True, check=False, cwd=here)
    return {
        "versions": {package: _version(package) for package in PACKAGES},
        "python": platform.python_version(),
        "commit": (commit.stdout.strip() or None) if commit.returncode == 0 else None,
        "uncommitted_changes": bool(changed.stdout.strip()) if changed.returncode == 0 else None,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else "CPU",
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # an extra that is not installed
        return None


@dataclass(frozen=True)
class Result:
    """One measurement.

    Attributes:
        task: What was measured, e.g. ``"sts"``.
        variant: Name of this row, for legends.
        settings: All settings, as far as they apply: ``model`` (name of the original), ``method``, ``fields`` of the
            method, ``budget`` (fields of a `Budget`), requested ``ratio``, ``recovered`` (settings of the recovery, or
            None), ``peer`` (true for other libraries), ``seed``, ``task`` (fields of the task).
        bytes: Name -> bytes of saved tensors: ``table``, ``table_float32``, ``model``, ``model_before``.
        metrics: Name -> value.
        seconds: Time of the measurement, or of the fit if that was measured.
        details: Other data as JSON: deciles, spectra, neighbours.
        environment: See `environment`.
        schema_version: Version of this format.
    """

    task: str
    variant: str
    settings: dict[str, Any]
    bytes: dict[str, int]
    metrics: dict[str, float]
    seconds: float
    details: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=environment)
    schema_version: int = SCHEMA_VERSION


def write_results(path: str | Path, results: list[Result]) -> None:
    """Write results atomically as JSON that is readable in a diff.

    Raises:
        ValueError: If the file can't be written, or a metric is not finite.
    """
    try:
        text = json.dumps([asdict(result) for result in results], indent=1, sort_keys=True, allow_nan=False)
    except ValueError:
        names = [
            f"{r.task} of {r.variant}: {n} = {v}" for r in results for n, v in r.metrics.items() if not math.isfinite(v)
        ]
        raise ValueError(f"a result is not a finite number ({'; '.join(names)}); nothing was written") from None
    write_whole(path, text + "\n")


def write_whole(path: str | Path, text: str) -> None:
    """Write a file atomically, and create its folder; a ValueError if that fails."""
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ValueError(f"can't write {path}: {error.strerror or error}; give another place") from None


def read_results(path: str | Path) -> list[Result]:
    """Read a file of `write_results`, of version 1 or 2 of the format.

    Raises:
        ValueError: If the file is missing, is no results file, has another version, or fields of wrong types.
    """
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"can't read {path}: {error.strerror or error}") from None
    except ValueError:
        raise ValueError(f"{path} is not JSON; give files that vocabpress evaluate or sweep wrote") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path} is not a list of results; give files that vocabpress evaluate or sweep wrote")
    return [_read(row, path) for row in rows]


def _read(row: dict[str, Any], path: str | Path) -> Result:
    found = row.get("schema_version")
    if found == 1:
        row = {**{key: value for key, value in row.items() if key != "benchmark"}, "task": row.get("benchmark")}
    elif found != SCHEMA_VERSION:
        raise ValueError(f"{path} has schema version {found}, this vocabpress reads 1 and {SCHEMA_VERSION}")
    try:
        result = Result(**{**row, "schema_version": SCHEMA_VERSION})
    except TypeError as error:
        raise ValueError(f"{path} holds a result that is not whole ({str(error).split('() ')[-1]})") from None
    _check(result, path)
    return result


def _check(result: Result, path: str | Path) -> None:
    """Raise a ValueError if fields have wrong types; convert budgets of earlier versions, which were text."""
    for name in ("settings", "bytes", "metrics", "details", "environment"):
        if not isinstance(getattr(result, name), dict):
            raise ValueError(f"{path} holds a result whose {name} is no object; measure it again")
    if not isinstance(result.task, str) or not isinstance(result.variant, str):
        raise ValueError(f"{path} holds a result without the name of a task or a variant; measure it again")
    for name, value in {**result.bytes, **result.metrics}.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{path} holds a result whose {name} is no number ({value!r}); measure it again")
    if isinstance(budget := result.settings.get("budget"), str):
        try:
            result.settings["budget"] = asdict(Budget.read(budget))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
