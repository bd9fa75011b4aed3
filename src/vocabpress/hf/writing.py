"""Folders of results: seen to be free and writable before the work, and written in a single step."""

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

MARK = "-vocabpress-"  # in the names of temporary folders, so that nobody else's is taken for one
MOVED = "moved.json"  # in a temporary folder inside its target: the names of what has moved out of it
NOBODYS = {"lost+found"}  # in a volume that is just made
WORK = "vocabpress-work"  # what folders of unfinished work inside of a target are called


def check_output(out: str | Path) -> Path:
    """The output folder, if it can be written without harm: looked at before the work, not after it.

    Raises:
        ValueError: If it exists and is not an empty folder, or can't be written to.
    """
    target = Path(out)
    home = place = _place(target)
    try:
        if place.is_dir():
            if _others(place):
                raise ValueError(f"the output folder {out} exists and is not empty; remove it or give another name")
        elif place.exists():
            raise ValueError(f"the output {out} exists and is a file; give the name of a new folder")
        while not home.exists():
            home = home.parent
        Path(tempfile.mkdtemp(prefix=_prefix(place), dir=home)).rmdir()
    except OSError as error:
        raise ValueError(
            f"can't write {out}: {home} can't be written to ({error.strerror or error}); give a place where you may "
            "make files"
        ) from None
    return target


def _place(target: Path) -> Path:
    """Where a target really is: links are followed, ``.`` has a name."""
    return Path(os.path.realpath(target))


def _prefix(place: Path) -> str:
    return f".{place.name}{MARK}"


def _is_temporary(folder: Path, place: Path) -> bool:
    """Whether a folder is named as one that becomes a target."""
    named = re.fullmatch(re.escape(_prefix(place)) + r"[a-z0-9_]{8}", folder.name)  # as `tempfile` ends names
    return named is not None and not folder.is_symlink() and folder.is_dir()


def _others(place: Path) -> list[Path]:
    """What is in a folder, but for what runs on it have there, or left when they were killed."""
    entries = list(place.iterdir())
    runs = [entry for entry in entries if _is_temporary(entry, place)]
    ours = {name for run in runs for name in _moved(run)} | {run.name for run in runs} | NOBODYS
    return [entry for entry in entries if entry.name not in ours and not entry.name.startswith(f".{WORK}")]


def work_folder(target: Path, what: str) -> Path:
    """A name for the folder of a target's unfinished work, from which a later run goes on.

    It is beside the target, or inside where nothing may be made beside it.
    """
    place = _place(target)
    beside = place.with_name(f"{place.name}.{what}")
    if beside.exists() or not place.is_dir():
        return beside
    try:
        beside.mkdir()
    except OSError:
        return place / f".{WORK}-{what}"
    return beside


def _moved(run: Path) -> list[str]:
    """The names of what has moved from a temporary folder to its target, if that was where it is."""
    try:
        names = json.loads((run / MOVED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [name for name in names if isinstance(name, str) and Path(name).name == name]


@contextmanager
def written_at_once(target: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``target`` at the end; on any error nothing is left behind.

    A new target appears by one rename. One that is there, and may be a volume or the current folder, which can't be
    exchanged, is filled at the end, weights last, so that nothing loads before all is there. What runs on the same
    target left there when they were killed is removed first.

    Raises:
        ValueError: If the disk is full or the place can't be written.
    """
    place = _place(target)
    inside = place.is_dir()
    made = [parent for parent in place.parents if not parent.exists()]
    temporary: Path | None = None
    held: int | None = None
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        home = place if inside else place.parent
        _sweep(home, place)
        temporary = Path(tempfile.mkdtemp(prefix=_prefix(place), dir=home))
        held = _hold(temporary, wait=True)
        yield temporary
        if inside:
            _fill(place, temporary)
        else:
            temporary.chmod(0o777 & ~_umask())
            temporary.replace(place)
            temporary = None
        made = []
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


def _fill(place: Path, temporary: Path) -> None:
    """Move all that is in a temporary folder to the folder that it is in; one run at a time.

    Raises:
        OSError: If another run was first, or a file can't be moved: then nothing stays.
    """
    held = _hold(place, wait=True)
    names = sorted((path.name for path in temporary.iterdir()), key=lambda name: _order(temporary / name))
    try:
        if _others(place):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
        (temporary / MOVED).write_text(json.dumps(names), encoding="utf-8")
        try:
            for name in names:
                (temporary / name).replace(place / name)
            (temporary / MOVED).unlink()
        except BaseException:
            _remove(place, names)
            raise
    finally:
        if held is not None:
            os.close(held)


def _order(path: Path) -> tuple[bool, bool, bool, str]:
    """Weights last, those of parts before the model's own, and the index of shards after them."""
    heavy = any(map(is_weights, path.rglob("*"))) if path.is_dir() else is_weights(path)
    return heavy, path.is_file(), path.name.endswith(INDEX), path.name


def _remove(place: Path, names: list[str]) -> None:
    for path in (place / name for name in reversed(names)):  # weights first
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


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


def _sweep(home: Path, place: Path) -> None:
    """Remove the temporary folders of a target that nobody holds any more, and what they had moved into it.

    Whoever makes one holds it before anything is in it, so one with files and no holder is of a killed run.
    An empty one may have been made just now; it stays.
    """
    with suppress(OSError):
        for run in home.iterdir():
            held = _hold(run, wait=False) if _is_temporary(run, place) else None
            if held is not None:
                if run.is_dir() and any(run.iterdir()):
                    _remove(home, _moved(run))
                    shutil.rmtree(run, ignore_errors=True)
                os.close(held)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def save(model: "PreTrainedModel", folder: Path) -> None:
    """`save_pretrained`, its storage errors told as OSError.

    Raises:
        OSError: If the disk is full, for example.
    """
    try:
        model.save_pretrained(folder)
    except SafetensorError as error:  # safetensors wraps the operating system's error in its own
        raise OSError(str(error)) from error
