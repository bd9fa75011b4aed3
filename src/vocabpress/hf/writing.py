"""Output folders: checked to be free and writable before the work, and written in one step after it."""

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from vocabpress.hf.companions import INDEX, is_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

MARK = "-vocabpress-"  # in the names of temporary folders, to tell them from other programs' folders
MOVED = "moved.json"  # in a temporary folder inside its target: the names of the entries that were moved out of it
IGNORED_ENTRIES = {"lost+found"}  # in a new volume
WORK_FOLDER = "vocabpress-work"  # prefix of folders with unfinished work inside a target


def check_output(out: str | Path) -> Path:
    """Raise a ValueError before the work if the output is not a new or empty folder, or can't be written to."""
    target = Path(out)
    home = place = _resolved(target)
    try:
        if place.is_dir():
            if _foreign_entries(place):
                raise ValueError(f"the output folder {out} exists and is not empty; remove it or give another name")
        elif place.exists():
            raise ValueError(f"the output {out} exists and is a file; give the name of a new folder")
        while not home.exists():
            home = home.parent
        Path(tempfile.mkdtemp(prefix=_prefix(place), dir=home)).rmdir()
    except OSError as error:
        raise ValueError(
            f"can't write {out}: {home} can't be written to ({error.strerror or error}); give a folder where you may "
            "create files"
        ) from None
    return target


def _resolved(target: Path) -> Path:
    return Path(os.path.realpath(target))


def _prefix(place: Path) -> str:
    return f".{place.name}{MARK}"


def _is_temporary(folder: Path, place: Path) -> bool:
    """Whether a folder is a temporary folder of this target, judged by its name."""
    match = re.fullmatch(re.escape(_prefix(place)) + r"[a-z0-9_]{8}", folder.name)  # the suffix of `tempfile`
    return match is not None and not folder.is_symlink() and folder.is_dir()


def _foreign_entries(place: Path) -> list[Path]:
    """The entries of a folder, except those of runs that write to it now or were killed."""
    entries = list(place.iterdir())
    runs = [entry for entry in entries if _is_temporary(entry, place)]
    ours = {name for run in runs for name in _moved_names(run)} | {run.name for run in runs} | IGNORED_ENTRIES
    return [entry for entry in entries if entry.name not in ours and not entry.name.startswith(f".{WORK_FOLDER}")]


def work_folder(target: Path, what: str) -> Path:
    """A folder for a target's unfinished work, which a later run continues.

    It is beside the target, or inside it if no folder can be created beside it.
    """
    place = _resolved(target)
    beside = place.with_name(f"{place.name}.{what}")
    if beside.exists() or not place.is_dir():
        return beside
    try:
        beside.mkdir()
    except OSError:
        return place / f".{WORK_FOLDER}-{what}"
    return beside


def _moved_names(run: Path) -> list[str]:
    """The entries that were moved from a temporary folder to the target that contains it."""
    try:
        names = json.loads((run / MOVED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [name for name in names if isinstance(name, str) and Path(name).name == name]


@contextmanager
def written_at_once(target: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``target`` at the end. After an error nothing is left behind.

    A new target appears by one rename. An existing one may be a volume or the current folder, which can't be replaced,
    so the files are moved into it. Weights move last, so that an incomplete folder does not load. Leftovers of killed
    runs on the same target are removed first.

    Raises:
        ValueError: If the disk is full or the target can't be written.
    """
    place = _resolved(target)
    inside = place.is_dir()
    made = [parent for parent in place.parents if not parent.exists()]
    run: Path | None = None
    lock: int | None = None
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        home = place if inside else place.parent
        _remove_abandoned(home, place)
        run = Path(tempfile.mkdtemp(prefix=_prefix(place), dir=home))
        lock = _lock(run, wait=True)
        temporary = run / "whole"  # which others may read, unlike the folder around it
        temporary.mkdir()
        yield temporary
        if inside:
            _move_into(place, temporary)
        else:
            temporary.replace(place)
        made = []
    except OSError as error:
        raise ValueError(
            f"can't write {target}: {error.strerror or error}; free some space or give another folder"
        ) from None
    finally:
        if run is not None:
            shutil.rmtree(run, ignore_errors=True)
        if lock is not None:
            os.close(lock)
        for parent in made:
            if parent.exists() and not any(parent.iterdir()):
                parent.rmdir()


def _move_into(place: Path, temporary: Path) -> None:
    """Move the contents of a temporary folder into the folder that contains its run, one run at a time.

    After an OSError, because another run was first or a file can't be moved, nothing is left in the folder.
    """
    lock = _lock(place, wait=True)
    names = sorted((path.name for path in temporary.iterdir()), key=lambda name: _move_order(temporary / name))
    try:
        if _foreign_entries(place):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
        moved = temporary.with_name(MOVED)
        moved.write_text(json.dumps(names), encoding="utf-8")
        try:
            for name in names:
                (temporary / name).replace(place / name)
            moved.unlink()
        except BaseException:
            _remove(place, names)
            raise
    finally:
        if lock is not None:
            os.close(lock)


def _move_order(path: Path) -> tuple[bool, bool, bool, str]:
    """Sort key: folders with weights, then the model's weights, then the index of shards come last."""
    has_weights = any(map(is_weights, path.rglob("*"))) if path.is_dir() else is_weights(path)
    return has_weights, path.is_file(), path.name.endswith(INDEX), path.name


def _remove(place: Path, names: list[str]) -> None:
    for path in (place / name for name in reversed(names)):  # weights first
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _lock(folder: Path, wait: bool) -> int | None:
    """Lock a folder until the returned descriptor is closed or the process ends, even when killed.

    None if another process has the lock, or folders can't be locked, as on some network file systems.
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


def _remove_abandoned(home: Path, place: Path) -> None:
    """Remove the temporary folders that killed runs left, and what they had moved into the target.

    A run locks its folder before it writes into it, so a folder with files and without a lock is from a killed run.
    An empty one may be a moment old, and is not removed.
    """
    with suppress(OSError):
        for run in home.iterdir():
            lock = _lock(run, wait=False) if _is_temporary(run, place) else None
            if lock is not None:
                if run.is_dir() and any(run.iterdir()):
                    _remove(home, _moved_names(run))
                    shutil.rmtree(run, ignore_errors=True)
                os.close(lock)


def save(model: "PreTrainedModel", folder: Path) -> None:
    """Call `save_pretrained`; errors of safetensors, such as of a full disk, become an OSError."""
    try:
        model.save_pretrained(folder)
    except SafetensorError as error:  # safetensors wraps the operating system's error in its own
        raise OSError(str(error)) from error
