"""Bytes of all files in a model's folder, counted on the disk."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from vocabpress.hf.companions import INDEX, companions
from vocabpress.hf.folders import weight_files

REPORT = "vocabpress.json"  # in the folder of a compressed checkpoint
NOT_COUNTED = {REPORT, "README.md"}  # written after the count, from it; no program needs them to load a model


@dataclass(frozen=True)
class Folder:
    """Bytes of the files in a folder, without its report and its model card."""

    bytes_before: int  # of the original: the weights that are loaded, config.json, and all that is copied
    bytes_after: int  # sum of `files`
    files: dict[str, int]  # path in the folder -> bytes, the largest first

    @classmethod
    def of(cls, folder: Path, bytes_before: int) -> Self:
        """Count a complete folder."""
        names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        sizes = {name: (folder / name).stat().st_size for name in names if name not in NOT_COUNTED}
        largest_first = dict(sorted(sizes.items(), key=lambda item: (-item[1], item[0])))
        return cls(bytes_before, sum(sizes.values()), largest_first)

    def largest(self, count: int) -> list[tuple[str, int]]:
        """The name and bytes of the largest files, and of all others together."""
        files = list(self.files.items())
        if len(files) <= count + 1:
            return files
        others = files[count:]
        return [*files[:count], (f"{len(others)} others", sum(size for _, size in others))]


def used_bytes(folder: Path) -> int:
    """Bytes of the files in a model's folder that are loaded or copied: weights, their index, config, companions."""
    weights = weight_files(folder)
    indexes = folder.glob(f"*{weights[0].suffix}{INDEX}") if len(weights) > 1 else ()
    beside = (folder / file for file in companions(folder)[0])
    return sum(file.stat().st_size for file in {folder / "config.json", *weights, *indexes, *beside})
