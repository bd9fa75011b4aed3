"""What belongs to a model beside its weights, by any name: tokenizer, chat templates, processor, code, pages."""

import json
import os
import shutil
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

WEIGHT_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".keras", ".msgpack", ".ot", ".gguf", ".ggml"}
WEIGHT_SUFFIXES |= {".onnx", ".onnx_data", ".tflite", ".mlmodel", ".pb", ".pdparams"}
NOT_COPIED = {"config.json", "README.md"}  # of the model's own folder: what is written tells of the result
INDEX = ".index.json"


def is_weights(file: Path) -> bool:
    """Whether a file holds weights, or says which files do."""
    return Path(file.name.removesuffix(INDEX)).suffix in WEIGHT_SUFFIXES


def companions(source: Path) -> tuple[list[Path], list[str]]:
    """The files to copy, relative to the model's folder, and the folders that are left out.

    Left out are weights, what is hidden (``.git``, ``.cache``), and folders with weights in them: those are the model
    for another runtime, or of another moment of its training. But the folders that modules.json of
    sentence-transformers names are parts of the model, weights and all.

    Raises:
        ValueError: If modules.json is broken, or names a folder outside the model's.
    """
    parts = [Path(path) for path in module_folders(source)]
    files = list(_files(source, Path()))
    heavy = {path.parts[0] for path in files if len(path.parts) > 1 and is_weights(path)}
    left = heavy - {part.parts[0] for part in parts}

    def is_copied(path: Path) -> bool:
        if any(path.is_relative_to(part) for part in parts):
            return True
        return path.parts[0] not in left and str(path) not in NOT_COPIED and not is_weights(path)

    return [path for path in files if is_copied(path)], sorted(left)


def _files(source: Path, folder: Path, above: Collection[str] = ()) -> Iterator[Path]:
    """All files in a folder and below that can be seen, relative to the source; links are followed, not in circles."""
    real = os.path.realpath(source / folder)
    if real in above:
        return
    try:
        entries = sorted((source / folder).iterdir())
    except OSError as error:
        warnings.warn(f"not copied, because it can't be read: {source / folder} ({error.strerror})", stacklevel=2)
        return
    for entry in entries:
        if not entry.name.startswith("."):
            if entry.is_dir():
                yield from _files(source, folder / entry.name, {*above, real})
            elif entry.is_file():
                yield folder / entry.name


def copy_companions(source: Path, target: Path, without: Collection[str] = ()) -> None:
    """Copy what belongs to a model beside its weights.

    The checkpoint is there by then, and no companion may cost it: what can't be copied is a warning.

    Args:
        source: Folder of the model.
        target: Folder to copy to; what is there already stays.
        without: Names of files to leave out.
    """
    try:
        files, left = companions(source)
    except ValueError as error:
        warnings.warn(f"nothing was copied but the weights: {error}", stacklevel=2)
        return
    if left:
        warnings.warn(f"not copied, because there are weights in it: {'/, '.join(left)}/ of {source}", stacklevel=2)
    for file in files:
        place = target / file
        if file.name in without or place.exists():
            continue
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / file, place)
        except OSError as error:
            warnings.warn(f"{file} of {source} was not copied: {error.strerror or error}", stacklevel=2)


def module_folders(source: Path) -> list[str]:
    """The folders that modules.json of sentence-transformers names, but for the model's own.

    Raises:
        ValueError: If it is no list of modules, or names a folder outside.
    """
    modules = source / "modules.json"
    if not modules.is_file():
        return []
    try:
        paths = [module.get("path") for module in json.loads(modules.read_text(encoding="utf-8"))]
    except (ValueError, AttributeError, TypeError):
        raise ValueError(f"{modules} is not a list of modules; repair it, or remove it") from None
    for path in paths:
        if path and (not isinstance(path, str) or Path(path).is_absolute() or ".." in Path(path).parts):
            raise ValueError(f"{modules} names {path!r}, which is not a folder beside it; it is not to be trusted")
    return [path for path in paths if path]


def modules_of(folder: Path) -> list[dict[str, Any]]:
    """What modules.json of sentence-transformers lists; nothing where there is none that can be read."""
    try:
        found = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return found if isinstance(found, list) and all(isinstance(module, dict) for module in found) else []
