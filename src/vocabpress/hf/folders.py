"""Folders of models: found, seen to be complete, and those in old layouts made today's by links, nothing copied.

Sentence-transformers once put the encoder into a folder of its own (``0_Transformer``), and a checkpoint may have its
weights only as those of a variant (``model.fp16.safetensors``).
"""

import json
import re
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from vocabpress.hf.companions import modules_of
from vocabpress.hf.static import as_checkpoint, is_static
from vocabpress.hub import find

ENCODER = "Transformer"
VARIANT = re.compile(r"(model|pytorch_model)\.([A-Za-z0-9_]+)(-\d{5}-of-\d{5})?(\.safetensors|\.bin)")
INDEX = re.compile(r"(model\.safetensors|pytorch_model\.bin)\.index\.([A-Za-z0-9_]+)\.json")


def find_folder(model: str | Path) -> Path:
    """The folder of a model: itself, or the snapshot of a hub id, downloaded where it is not cached.

    A `StaticEmbedding` of sentence-transformers is made a checkpoint of transformers, and other old layouts are made
    today's, in a temporary folder.

    Args:
        model: A folder, or a hub id; a revision of it may follow, ``org/name@revision``.

    Raises:
        ValueError: If there is no such model, or its folder has no config or no weights.
    """
    folder = find(model)
    if is_static(folder):
        return as_checkpoint(folder)
    folder = as_today(folder)
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise ValueError(f"{model} is an adapter, not a model; merge it into its base (peft's merge_and_unload) first")
    if not (folder / "config.json").is_file():
        raise ValueError(f"{model} has no config.json; give the folder of a transformers model")
    if not weight_files(folder):
        raise ValueError(f"{model} has a config.json but no weights (model.safetensors); download them first")
    missing = sorted(name for name in _listed(folder) if not (folder / name).is_file())
    if missing:
        raise ValueError(f"{model} is downloaded in part: there is no {missing[0]}; download it again")
    return folder


def _listed(folder: Path) -> set[str]:
    """The files that an index of shards names; none where there is no index."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file() or (folder / "model.safetensors").is_file():
        return set()
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError):
        raise ValueError(f"{index} is not the index of a checkpoint; download it again") from None
    outside = [name for name in names if not isinstance(name, str) or Path(name).name != name]
    if outside:
        raise ValueError(f"{index} names {outside[0]!r}, which is not a file beside it; it is not to be trusted")
    return names


def weight_files(folder: Path) -> list[Path]:
    """The files that `from_pretrained` reads weights from: safetensors if there are any, else .bin; no variants."""
    for name, suffix in (("model", ".safetensors"), ("pytorch_model", ".bin")):
        whole = folder / f"{name}{suffix}"
        if whole.is_file():
            return [whole]
        shards = sorted({*folder.glob(f"{name}-*-of-*{suffix}"), *_indexed(folder / f"{whole.name}.index.json")})
        if shards:
            return shards
    return []


def _indexed(index: Path) -> set[Path]:
    """The files that an index names, and that are there."""
    try:
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return set()
    files = {index.parent / name for name in named if isinstance(name, str) and Path(name).name == name}
    return {file for file in files if file.is_file()}


def weight_bytes(folder: Path) -> int:
    """Bytes of those files."""
    return sum(file.stat().st_size for file in weight_files(folder))


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
