"""Result files, found and read."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vocabpress.report.labels import canonical
from vocabpress.results import Result, read_results


@dataclass(frozen=True)
class Collection:
    """What was found."""

    results: list[Result]  # without those that occur twice, as copies
    files: int  # of results
    skipped: int  # JSON files in the folders that hold no results


def collect(paths: Sequence[str | Path]) -> Collection:
    """Read JSON files, and folders, which are searched for ``*.json``; hidden folders and ``*.work`` are left out.

    Raises:
        ValueError: If a path is missing, a file is not of results or of another schema version, or there is no result.
    """
    files: dict[Path, Path] = {}
    skipped = 0
    for path in map(Path, paths):
        if not path.exists():
            raise ValueError(f"no such file or folder: {path}; give results that vocabpress evaluate or sweep wrote")
        for file in sorted(path.rglob("*.json")) if path.is_dir() else [path]:
            folders = file.relative_to(path).parts
            if any(name.startswith(".") or name.endswith(".work") for name in folders):
                continue
            if path.is_dir() and not _may_be_results(file):
                skipped += 1
            else:
                files.setdefault(file.resolve(), file)
    results = {canonical(vars(result)): result for file in files.values() for result in read_results(file)}
    if not results:
        where = ", ".join(str(path) for path in paths)
        raise ValueError(f"no results in {where}; give files or folders that vocabpress evaluate or sweep wrote")
    return Collection(list(results.values()), len(files), skipped)


def _may_be_results(file: Path) -> bool:
    """Whether a file in a folder is read: a checkpoint's ``config.json`` is not, a damaged file is, and refused."""
    try:
        data = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return True
    return isinstance(data, list) and all(isinstance(row, dict) and "schema_version" in row for row in data)
