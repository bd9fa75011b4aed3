"""Find the folder of a model, check that it is complete, and convert old layouts by links, without copies.

Old versions of sentence-transformers put the encoder into a subfolder (``0_Transformer``). A checkpoint may also have
only the weights of a variant (``model.fp16.safetensors``).
"""

import json
import re
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from vocabpress.hf.companions import modules_of
from vocabpress.hf.static import as_checkpoint, is_static
from vocabpress.hub import find

VARIANT = re.compile(r"(model|pytorch_model)\.([A-Za-z0-9_]+)(-\d{5}-of-\d{5})?(\.safetensors|\.bin)")
VARIANT_INDEX = re.compile(r"(model\.safetensors|pytorch_model\.bin)\.index\.([A-Za-z0-9_]+)\.json")


def find_folder(model: str | Path) -> Path:
    """The folder of a model. A hub id is downloaded if it is not in the cache.

    A `StaticEmbedding` of sentence-transformers becomes a checkpoint of transformers, and an old layout the current
    one, in a temporary folder.

    Args:
        model: A folder, or a hub id, optionally with a revision: ``org/name@revision``.

    Raises:
        ValueError: If there is no such model, or its folder has no config or no weights.
    """
    folder = find(model)
    if is_static(folder):
        return as_checkpoint(folder)
    if (encoder := _encoder_subfolder(folder)) is not None:
        folder = Path(_flattened(folder.absolute(), encoder).name)
    elif (variant := _only_variant(folder)) is not None:
        folder = Path(_without_variant(folder.absolute(), variant).name)
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise ValueError(f"{model} is an adapter, not a model; merge it into its base (peft's merge_and_unload) first")
    if not (folder / "config.json").is_file():
        raise ValueError(f"{model} has no config.json; give the folder of a transformers model")
    if not weight_files(folder):
        raise ValueError(f"{model} has a config.json but no weights (model.safetensors); download them first")
    whole = (folder / "model.safetensors").is_file()
    shards = () if whole else _shard_names(folder / "model.safetensors.index.json")
    missing = sorted(name for name in shards if not (folder / name).is_file())
    if missing:
        raise ValueError(f"{model} is downloaded in part: {missing[0]} is missing; download it again")
    return folder


def _shard_names(index: Path) -> set[str]:
    """The files in an index of shards, if there is one; a ValueError if it is broken, or names one outside."""
    if not index.is_file():
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
    """The files from which `from_pretrained` reads weights: safetensors if there are any, else .bin; no variants."""
    for name, suffix in (("model", ".safetensors"), ("pytorch_model", ".bin")):
        whole = folder / f"{name}{suffix}"
        if whole.is_file():
            return [whole]
        indexed = {folder / shard for shard in _shard_names(folder / f"{whole.name}.index.json")}
        shards = {*folder.glob(f"{name}-*-of-*{suffix}"), *(file for file in indexed if file.is_file())}
        if shards:
            return sorted(shards)
    return []


def weight_bytes(folder: Path) -> int:
    """Bytes of the `weight_files`."""
    return sum(file.stat().st_size for file in weight_files(folder))


def _encoder_subfolder(folder: Path) -> str | None:
    """The subfolder of the encoder in an old layout; None in the current one."""
    modules = modules_of(folder)
    if not modules or (folder / "config.json").is_file():
        return None
    kind, path = str(modules[0].get("type", "")).rpartition(".")[2], modules[0].get("path")
    if kind != "Transformer" or not isinstance(path, str) or Path(path).name != path:
        return None
    return path if (folder / path / "config.json").is_file() else None


@cache
def _flattened(folder: Path, encoder: str) -> TemporaryDirectory[str]:
    """Links to the files of the encoder and of the folder, side by side."""
    made = TemporaryDirectory(prefix="vocabpress-layout-")
    place = Path(made.name)
    for source in (folder / encoder, folder):
        for entry in source.iterdir():
            if entry.name not in (encoder, "modules.json") and not (place / entry.name).exists():
                (place / entry.name).symlink_to(entry.resolve())
    modules = modules_of(folder)
    modules[0] = modules[0] | {"path": ""}
    (place / "modules.json").write_text(json.dumps(modules, indent=2), encoding="utf-8")
    return made


def _only_variant(folder: Path) -> str | None:
    """The variant of the weights, if there are no plain ones; a ValueError if there are several."""
    plain = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
    if any((folder / name).is_file() for name in plain) or any(folder.glob("model-*-of-*.safetensors")):
        return None
    found = sorted({match[2] for entry in folder.iterdir() if (match := VARIANT.fullmatch(entry.name))})
    if len(found) > 1:
        raise ValueError(f"{folder} has only weights of the variants {', '.join(found)}; remove all but one")
    return found[0] if found else None


@cache
def _without_variant(folder: Path, variant: str) -> TemporaryDirectory[str]:
    """Links to the files of the folder, the weights of the variant under plain names."""
    made = TemporaryDirectory(prefix="vocabpress-layout-")
    for entry in folder.iterdir():
        name, weights, index = entry.name, VARIANT.fullmatch(entry.name), VARIANT_INDEX.fullmatch(entry.name)
        if weights and weights[2] == variant and not weights[3]:
            name = f"{weights[1]}{weights[4]}"
        elif index and index[2] == variant:  # the shards keep their names, because the index refers to them
            name = f"{index[1]}.index.json"
        (Path(made.name) / name).symlink_to(entry.resolve())
    return made
