"""Folders of results: seen to be free, written in a single step, completed by what belongs to a model."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError
from transformers import PreTrainedModel

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".ot", ".gguf", ".tflite")
MARK = "-vocabpress-"  # in the names of temporary folders, so that nobody else's is taken for one
NOT_COPIED = {"config.json", "README.md", ".gitattributes", "model.safetensors.index.json"}


def check_output(out: str | Path) -> Path:
    """The output folder, if it can be written without harm.

    Raises:
        ValueError: If it exists and is not an empty folder.
    """
    target = Path(out)
    if target.is_dir() and any(target.iterdir()):
        raise ValueError(f"the output folder {out} exists and is not empty; remove it or give another name")
    if target.exists() and not target.is_dir():
        raise ValueError(f"the output {out} exists and is a file; give the name of a new folder")
    return target


@contextmanager
def written_at_once(target: Path) -> Iterator[Path]:
    """A temporary folder beside ``target`` that becomes it at the end; on any error nothing is left behind.

    What runs on the same target left there when they were killed is removed first.

    Raises:
        ValueError: If the disk is full or the place can't be written.
    """
    made = [parent for parent in target.absolute().parents if not parent.exists()]
    temporary: Path | None = None
    held: int | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}{MARK}", dir=target.parent))
        held = _hold(temporary, wait=True)
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        temporary.replace(target)
        temporary, made = None, []
    except OSError as error:
        raise ValueError(
            f"can't write {target}: {error.strerror or error}; free some space or give another place"
        ) from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        if held is not None:
            os.close(held)
        for parent in made:
            if parent.exists() and not any(parent.iterdir()):
                parent.rmdir()


def _hold(folder: Path, wait: bool) -> int | None:
    """A descriptor that locks a folder until it is closed, or its process ends in whatever way.

    None where another holds it, or where folders can't be locked, as on some network file systems.
    """
    if fcntl is None:
        return None
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _sweep(target: Path) -> None:
    """Remove the temporary folders of a target that nobody holds any more.

    Whoever makes one holds it before anything is in it, so one with files and no holder is of a killed run.
    An empty one may have been made just now; it stays.
    """
    left = re.compile(re.escape(f".{target.name}{MARK}") + r"[a-z0-9_]{8}")  # as `tempfile` ends names
    with suppress(OSError):
        for place in target.parent.iterdir():
            held = _hold(place, wait=False) if left.fullmatch(place.name) and not place.is_symlink() else None
            if held is not None:
                if place.is_dir() and any(place.iterdir()):
                    shutil.rmtree(place, ignore_errors=True)
                os.close(held)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def save(model: PreTrainedModel, folder: Path) -> None:
    """`save_pretrained`, its storage errors told as OSError.

    Raises:
        OSError: If the disk is full, for example.
    """
    try:
        model.save_pretrained(folder)
    except SafetensorError as error:  # safetensors wraps the operating system's error in its own
        raise OSError(str(error)) from error


def copy_companions(source: Path, target: Path, without: Collection[str] = ()) -> None:
    """Copy what belongs to a model beside its weights: tokenizer, processor, sentence-transformers modules.

    Args:
        source: Folder of the model.
        target: Folder to copy to; what is there already stays.
        without: Names of files to leave out.

    Raises:
        ValueError: If modules.json is broken, or names a folder outside the model's.
    """
    for file in source.iterdir():
        unwanted = file.name.endswith(WEIGHT_SUFFIXES) or file.name in NOT_COPIED or file.name in without
        if file.is_file() and not unwanted and not (target / file.name).exists():
            shutil.copyfile(file, target / file.name)
    modules = source / "modules.json"
    if modules.is_file():
        for path in _module_folders(modules):
            if (source / path).is_dir():
                shutil.copytree(source / path, target / path)


def _module_folders(modules: Path) -> list[str]:
    """The folders that modules.json of sentence-transformers names, but for the model's own."""
    try:
        paths = [module.get("path") for module in json.loads(modules.read_text(encoding="utf-8"))]
    except (ValueError, AttributeError, TypeError):
        raise ValueError(f"{modules} is not a list of modules; repair it, or remove it") from None
    for path in paths:
        if path and (not isinstance(path, str) or Path(path).is_absolute() or ".." in Path(path).parts):
            raise ValueError(f"{modules} names {path!r}, which is not a folder beside it; it is not to be trusted")
    return [path for path in paths if path]
