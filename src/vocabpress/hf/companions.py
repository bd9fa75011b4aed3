"""Copy the files of a model besides its weights, whatever their names: tokenizer, chat template, processor, code."""

import json
import os
import shutil
import warnings
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from vocabpress.hf.compact import TOKENIZER, make_compact

WEIGHT_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".keras", ".msgpack", ".ot", ".gguf", ".ggml"}
WEIGHT_SUFFIXES |= {".onnx", ".onnx_data", ".tflite", ".mlmodel", ".pb", ".pdparams"}
NOT_COPIED = {"config.json", "README.md"}  # at the top of the folder; new ones are written
INDEX = ".index.json"
# Files with a vocabulary that tokenizer.json has, too: what tokenizers without it read.
VOCABULARIES = {"vocab.txt", "vocab.json", "merges.txt", "vocab.bpe", "encoder.json", "bpe.codes", "unigram.json"}
VOCABULARIES |= {"sentencepiece.bpe.model", "sentencepiece.model", "spiece.model", "spm.model", "source.spm"}
VOCABULARIES |= {"target.spm", "tokenizer.model", "tokenizer.model.v3", "tekken.json"}


def is_weights(file: Path) -> bool:
    """Whether a file has weights, or is an index of such files."""
    return Path(file.name.removesuffix(INDEX)).suffix in WEIGHT_SUFFIXES


def companions(source: Path) -> tuple[list[Path], list[str]]:
    """The files to copy, relative to the model's folder, and the folders to leave out.

    Weights, hidden entries (``.git``, ``.cache``) and folders with weights are left out: such folders contain the
    model for another runtime, or checkpoints of its training. The folders in modules.json of sentence-transformers
    are parts of the model, and are copied with their weights.

    Raises:
        ValueError: If modules.json is broken, or names a folder outside the model's.
    """
    parts = [Path(path) for path in module_folders(source)]
    files = list(_visible_files(source, Path()))
    with_weights = {path.parts[0] for path in files if len(path.parts) > 1 and is_weights(path)}
    left_out = with_weights - {part.parts[0] for part in parts}

    def is_copied(path: Path) -> bool:
        if any(path.is_relative_to(part) for part in parts):
            return True
        return path.parts[0] not in left_out and str(path) not in NOT_COPIED and not is_weights(path)

    return [path for path in files if is_copied(path)], sorted(left_out)


def _visible_files(source: Path, folder: Path, above: Collection[str] = ()) -> Iterator[Path]:
    """All files below a folder that are not hidden, relative to the source. Links are followed, but not in circles."""
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
                yield from _visible_files(source, folder / entry.name, {*above, real})
            elif entry.is_file():
                yield folder / entry.name


def copy_companions(source: Path, target: Path, without: Collection[str] = ()) -> None:
    """Copy the files of a model besides its weights, ``without`` some at its top; tokenizer.json without its blanks.

    Existing files are not replaced. Errors become warnings, because the checkpoint is complete by then.
    """
    try:
        files, left_out = companions(source)
    except ValueError as error:
        warnings.warn(f"only the weights were written, no tokenizer or other files: {error}", stacklevel=2)
        return
    if left_out:
        warnings.warn(f"not copied, because there are weights in it: {'/, '.join(left_out)}/ of {source}", stacklevel=2)
    copy_files(source, target, (file for file in files if str(file) not in without))


def copy_files(source: Path, target: Path, files: Iterable[Path]) -> None:
    """Copy some files of a model, given relative to its folder, as `copy_companions` does."""
    for file in files:
        place = target / file
        if place.exists():
            continue
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / file, place)
            if file.name == TOKENIZER:
                make_compact(place)
        except OSError as error:
            warnings.warn(f"{file} of {source} was not copied: {error.strerror or error}", stacklevel=2)


def module_folders(source: Path) -> list[str]:
    """The subfolders in modules.json of sentence-transformers; a ValueError if it is broken, or names one outside."""
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
    """The modules in modules.json of sentence-transformers; none if it is missing or can't be read."""
    try:
        found = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return found if isinstance(found, list) and all(isinstance(module, dict) for module in found) else []
