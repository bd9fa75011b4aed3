"""Folders of models in other layouts than today's, made today's: a folder of links, nothing copied.

Sentence-transformers once put the encoder into a folder of its own (``0_Transformer``), and a checkpoint may have its
weights only as those of a variant (``model.fp16.safetensors``).
"""

import json
import re
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ENCODER = "Transformer"
VARIANT = re.compile(r"(model|pytorch_model)\.([A-Za-z0-9_]+)(-\d{5}-of-\d{5})?(\.safetensors|\.bin)")
INDEX = re.compile(r"(model\.safetensors|pytorch_model\.bin)\.index\.([A-Za-z0-9_]+)\.json")


def modules_of(folder: Path) -> list[dict[str, Any]]:
    """What modules.json of sentence-transformers lists; nothing where there is none that can be read."""
    try:
        found = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return found if isinstance(found, list) and all(isinstance(module, dict) for module in found) else []


def as_today(folder: Path) -> Path:
    """The folder itself, or one of links to it in today's layout.

    Raises:
        ValueError: If its weights are those of several variants.
    """
    inner = _encoder(folder)
    if inner is not None:
        return Path(_flattened(folder.absolute(), inner).name)
    variant = _only_variant(folder)
    return folder if variant is None else Path(_unvaried(folder.absolute(), variant).name)


def _encoder(folder: Path) -> str | None:
    """The folder of the encoder, where it is not the model's own."""
    modules = modules_of(folder)
    if not modules or (folder / "config.json").is_file():
        return None
    kind, path = str(modules[0].get("type", "")).rpartition(".")[2], modules[0].get("path")
    if kind != ENCODER or not isinstance(path, str) or Path(path).name != path:
        return None
    return path if (folder / path / "config.json").is_file() else None


@cache
def _flattened(folder: Path, inner: str) -> TemporaryDirectory[str]:
    made = TemporaryDirectory(prefix="vocabpress-layout-")
    place = Path(made.name)
    for source in (folder / inner, folder):
        for entry in source.iterdir():
            if entry.name not in (inner, "modules.json") and not (place / entry.name).exists():
                (place / entry.name).symlink_to(entry.resolve())
    modules = modules_of(folder)
    modules[0] = modules[0] | {"path": ""}
    (place / "modules.json").write_text(json.dumps(modules, indent=2), encoding="utf-8")
    return made


def _only_variant(folder: Path) -> str | None:
    """The variant whose weights are there, where the plain ones are not.

    Raises:
        ValueError: If there are several.
    """
    plain = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
    if any((folder / name).is_file() for name in plain) or any(folder.glob("model-*-of-*.safetensors")):
        return None
    found = sorted({match[2] for entry in folder.iterdir() if (match := VARIANT.fullmatch(entry.name))})
    if len(found) > 1:
        raise ValueError(f"{folder} has weights of the variants {', '.join(found)} alone; leave one of them there")
    return found[0] if found else None


@cache
def _unvaried(folder: Path, variant: str) -> TemporaryDirectory[str]:
    made = TemporaryDirectory(prefix="vocabpress-layout-")
    for entry in folder.iterdir():
        name, weights, index = entry.name, VARIANT.fullmatch(entry.name), INDEX.fullmatch(entry.name)
        if weights and weights[2] == variant and not weights[3]:
            name = f"{weights[1]}{weights[4]}"
        elif index and index[2] == variant:  # it names the shards as they are called
            name = f"{index[1]}.index.json"
        (Path(made.name) / name).symlink_to(entry.resolve())
    return made
